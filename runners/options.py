"""Beam's options from the command line: everything that is not noisebank's must be Beam's, or known to its engine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from noisebank.errors import ConfigError

LOCAL = "FnApiRunner"


class DataflowOptions(PipelineOptions):
    """What Beam need not know of the image that workers run."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--image_models", default="/models", help="Dataflow: folder of the container image that models are in"
        )


def beam_options(words: Sequence[str]) -> tuple[PipelineOptions, list[str]]:
    """Pipeline options from command-line words, and those of the words that Beam does not know.

    Without ``--runner`` the job runs in this process on Beam's ``FnApiRunner``, named outright because plain
    ``DirectRunner`` first tries to download another engine.

    Raises:
        ConfigError: the value of an option is not allowed.
    """
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, conflict_handler="resolve"
    )  # (some options are declared by two of Beam's classes)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    words = ["--dry_run=true" if word == "--dry_run" else word for word in words]  # (Beam's takes a value)
    try:
        known, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise ConfigError(f"Beam options: {error}") from error
    if known.dry_run and known.dry_run.lower() != "true":  # (which any text would mean to Beam)
        raise ConfigError(f"--dry_run: {known.dry_run!r} is not allowed; give no value, or leave it out")
    is_local = known.runner in (None, "DirectRunner", LOCAL)
    return PipelineOptions([*words, f"--runner={LOCAL}"] if is_local else words), unknown


def name_runner(options: PipelineOptions) -> str:
    """The runner's short name, such as ``dataflow``."""
    return str(options.view_as(StandardOptions).runner).rpartition(".")[2].lower().removesuffix("runner")
