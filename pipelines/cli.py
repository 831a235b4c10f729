"""The ``noisebank`` command: parses, runs one command, prints its outcome, returns its exit code.

Results go to stdout, as text or as one JSON object; logs, progress and errors go to stderr. Beam is imported only by
the commands that run a job.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any, NoReturn

from noisebank.commands import Command, add_read_commands
from noisebank.errors import ConfigError, Interrupted, NoiseBankError
from pipelines.evaluation_commands import add_evaluation_commands
from pipelines.init_command import add_init_command
from pipelines.interrupts import leave_at_interrupt
from pipelines.job_commands import add_job_commands
from runners.logs import set_up_logging
from runners.scratch import use_scratch_folder

OUR_PACKAGES = ("noisebank", "schemas", "transforms", "pipelines", "runners")
DESCRIPTION = "Turns captioned videos into a searchable bank of inverted noise, and looks noise up in it."
EPILOG = """\
A first run:     noisebank demo
A real one:      noisebank plan -c bank.yaml && noisebank build -c bank.yaml
Looking it up:   noisebank search BANK "a dog on the beach"
                 noisebank sample BANK "a dog on the beach" -o latents.safetensors

exit codes: 0 done; 1 the job failed or too many rows failed, nothing published;
            2 usage or configuration error; 3 another writer committed a conflicting change; 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command, by default the process's own, and returns its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        known = parse_arguments(arguments)
    except ConfigError as error:
        return _print_error(error, as_json="--json" in arguments)
    set_up_logging(known.verbose)
    try:
        if argv is None:
            use_scratch_folder()
        with leave_at_interrupt(lambda: _leave(known)) if argv is None else nullcontext():
            outcome = known.run(known)
    except (Exception, KeyboardInterrupt) as error:
        said = _in_our_words(error)
        if said is None:
            raise
        return _fail(known, said, error)
    try:
        for line in [json.dumps(outcome.document)] if known.json else outcome.lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # (the reader, such as head, has seen enough)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(outcome.exit_code)


class _Parser(argparse.ArgumentParser):
    """Says what argparse says of a usage error, then raises it; the process is left alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise ConfigError(message)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The arguments of a command; ``rest`` has what only Beam may know."""
    parser = _parser()
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            parser.error(f"{word!r} is not UTF-8")
    known, rest = parser.parse_known_args(arguments)
    known.rest = rest
    if rest and not known.takes_rest:
        known.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return known


def _parser() -> _Parser:
    parser = _Parser(prog="noisebank", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"noisebank {version('noisebank')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help: str, run: Command, *, takes_rest: bool = False) -> argparse.ArgumentParser:
        command = subparsers.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        command.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
        command.add_argument("-v", "--verbose", action="store_true", help="log more, with tracebacks")
        command.set_defaults(run=run, takes_rest=takes_rest, parser=command)
        return command

    add_init_command(add)
    add_job_commands(add)
    add_read_commands(add)
    add_evaluation_commands(add)
    return parser


def _in_our_words(error: BaseException) -> NoiseBankError | None:
    """The error to show for one that users can do something about; None for a defect, which its traceback tells of."""
    if isinstance(error, NoiseBankError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted()
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        known = package and package not in OUR_PACKAGES
        return ConfigError(f"{package} is not installed; pip install 'noisebank[jobs]'") if known else None
    if isinstance(error, OSError):  # a disk is full, read-only, not to be reached, or gives no access
        return NoiseBankError(str(error).strip().partition("\n")[0])
    return ConfigError(str(error)) if type(error) is ValueError else None  # (how the library refuses an argument)


def _leave(known: argparse.Namespace) -> NoReturn:
    """Ends the process at once, after Ctrl-C: Python itself would wait for downloads that have begun."""
    code = _fail(known, Interrupted())
    sys.stdout.flush()
    os._exit(code)


def _fail(known: argparse.Namespace, error: NoiseBankError, cause: BaseException | None = None) -> int:
    if known.verbose:
        logging.error("%s", error, exc_info=cause or error)
    print(f"noisebank {known.command}: {error}", file=sys.stderr)
    return _print_error(error, known.json)


def _print_error(error: NoiseBankError, as_json: bool) -> int:
    """The error as a JSON document, if one is wanted; returns the exit code."""
    if as_json:
        document = {"error": {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}}
        print(json.dumps(document))
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
