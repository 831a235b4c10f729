"""Runs the benchmarks one after the other, each in a process of its own, and prints one markdown table.

Everything is measured on generated data, without a network. Ratios are of CPU seconds (of a lookup: of the
fastest times, the sides in turn) of one run, so that neighbours on the machine disturb them little; every process
computes in one thread unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.suite import SUITE
from benchmarks.table import HEADER, Row, lines, replace_lines

EPILOG = """\
benchmarks:
{benchmarks}

python -m benchmarks --quick                            all at small sizes: do they run; the ratios are rough
python -m benchmarks shard lookup                       two of them
python -m benchmarks --write docs/benchmarks.md         all, into the documentation; about an hour on two cores
python -m benchmarks lookup --write docs/benchmarks.md  one; the others keep their lines
"""
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs benchmarks and prints their table; 1 if one of them crashed."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.rows:
        logging.disable(logging.WARNING)
        print(json.dumps([asdict(row) for row in SUITE[arguments.rows](arguments.quick)]))
        return 0
    if unknown := [name for name in arguments.names if name not in SUITE]:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(SUITE)}")
    if arguments.write and arguments.quick:
        parser.error("--write wants full sizes: leave --quick out")
    print(HEADER, end="", flush=True)
    measured: dict[str, str] = {}
    crashed = False
    for name in arguments.names or SUITE:
        began = time.monotonic()
        try:
            measured[name] = lines(name, _run(name, arguments.quick))
            print(measured[name], end="", flush=True)
            outcome = "measured"
        except subprocess.CalledProcessError as error:
            crashed = True
            outcome = f"crashed with status {error.returncode}"
        print(f"{name}: {outcome} after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(f"\n{_machine()}")
    if arguments.write:
        replace_lines(arguments.write, measured, list(SUITE), _machine())
    return int(crashed)


def _parser() -> argparse.ArgumentParser:
    benchmarks = "\n".join(f"  {name:10} {measure.__doc__}" for name, measure in SUITE.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=EPILOG.format(benchmarks=benchmarks),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, roughly how fast")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also put the lines into the table of a document")
    parser.add_argument("--rows", choices=SUITE, help=argparse.SUPPRESS)
    return parser


def _run(name: str, quick: bool) -> list[Row]:
    """The rows of a benchmark, measured by a process of its own."""
    command = [sys.executable, "-m", "benchmarks", "--rows", name, *(["--quick"] if quick else [])]
    finished = subprocess.run(command, env=_ENVIRONMENT | os.environ, stdout=subprocess.PIPE, text=True, check=True)
    return [Row(**row) for row in json.loads(finished.stdout.splitlines()[-1])]


def _machine() -> str:
    cores, threads = len(os.sched_getaffinity(0)), (_ENVIRONMENT | os.environ)["OMP_NUM_THREADS"]
    return f"`python -m benchmarks` on {cores} cores ({platform.machine()}), OMP_NUM_THREADS={threads}."


if __name__ == "__main__":
    sys.exit(main())
