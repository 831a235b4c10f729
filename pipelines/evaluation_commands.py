"""The commands ``evaluate`` and ``diagnose``, as they are declared; what they run is imported only then. No Beam."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from noisebank.commands import Outcome, on_one_line
from noisebank.config import decode_options
from noisebank.evaluation.options import ArmOptions, EvaluationOptions
from noisebank.progress import show_progress
from noisebank.storage import open_store
from pipelines.job_commands import add_options, members_help, read_document

EVALUATION_HELP = """\
members of arms by name:  --arms.ona.eta 0.5
A judge or an arm of your own (modules) has its options as --judge.OPTION and --arms.NAME.OPTION.
Run the same command again to go on after a kill, or after arms or prompts were added.
"""


def add_evaluation_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Declares both commands."""
    parser = add("evaluate", "compare arms of noise on the same prompts and seeds", evaluate, takes_rest=True)
    arms = "\n".join([*members_help("arms", ArmOptions), EVALUATION_HELP])
    add_options(parser, EvaluationOptions, "evaluate", arms)
    parser = add("diagnose", "what the noise of a bank looks like, beside white noise", diagnose)
    parser.add_argument("bank", metavar="BANK", help="the bank: a local path or gs://, s3://, az://")
    parser.add_argument("--set", dest="noise_set", metavar="NAME", help="one noise set (default: all)")
    parser.add_argument("--sample", type=int, default=1000, metavar="N", help="most records of a set (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the white noise (default: 0)")
    parser.add_argument("--snapshot", type=int, metavar="N", help="an earlier snapshot (default: the latest)")


def evaluate(arguments: argparse.Namespace) -> Outcome:
    """Generates what is left of a study, and analyses it."""
    document, flags, rest = read_document(arguments, EvaluationOptions)
    if rest:
        arguments.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options = decode_options(EvaluationOptions, document, flags)
    options.check()
    from noisebank.evaluation.evaluate import evaluate as run_study
    from noisebank.evaluation.report import evaluation_lines

    with show_progress("evaluate", "clips") as progress:
        summary = run_study(options, progress.report)
    return Outcome(summary, [*map(on_one_line, evaluation_lines(summary, options.out))])


def diagnose(arguments: argparse.Namespace) -> Outcome:
    """Measures the noise of a bank."""
    for name, least in (("sample", 2), ("seed", 0)):
        if getattr(arguments, name) < least:
            arguments.parser.error(f"--{name}: {getattr(arguments, name)} is not allowed; at least {least}")
    from noisebank.evaluation.diagnosis import diagnose as diagnose_bank
    from noisebank.evaluation.diagnosis import diagnosis_lines

    store, asked = open_store(arguments.bank), (arguments.snapshot, arguments.noise_set, arguments.sample)
    with show_progress("diagnose", "records") as progress:
        document = diagnose_bank(store, *asked, arguments.seed, progress.report)
    return Outcome(document, [*map(on_one_line, diagnosis_lines(document))])
