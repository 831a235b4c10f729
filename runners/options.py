"""Beam's options from the command line: everything that is not noisebank's must be Beam's, or it is an error."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions

from noisebank.errors import ConfigError

LOCAL = "FnApiRunner"


def beam_options(words: Sequence[str]) -> PipelineOptions:
    """Pipeline options from command-line words.

    Without ``--runner`` the job runs in this process on Beam's ``FnApiRunner``, named outright because plain
    ``DirectRunner`` first tries to download another engine.

    Raises:
        ConfigError: a word is no option of Beam's, or its value is not allowed.
    """
    parser = _StrictParser(add_help=False, allow_abbrev=False)
    for options in _all_subclasses(PipelineOptions):
        options._add_argparse_args(parser)
    known, unknown = parser.parse_known_args(list(words))
    if unknown:
        raise ConfigError(f"{unknown[0]}: neither an option of noisebank nor of Beam; see --help")
    runner = getattr(known, "runner", None)
    if runner in (None, "DirectRunner", LOCAL):
        kept = _without(words, "--runner")
        return PipelineOptions([*kept, f"--runner={LOCAL}"])
    return PipelineOptions(list(words))


class _StrictParser(argparse.ArgumentParser):
    """An argument parser that raises, and takes an option that two of Beam's classes declare."""

    def __init__(self, **keywords: object) -> None:
        super().__init__(conflict_handler="resolve", **keywords)  # type: ignore[arg-type]

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(f"Beam options: {message}")


def _all_subclasses(cls: type[PipelineOptions]) -> list[type[PipelineOptions]]:
    found = []
    for subclass in cls.__subclasses__():
        found += [subclass, *_all_subclasses(subclass)]
    return found


def _without(words: Sequence[str], flag: str) -> list[str]:
    kept = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == flag:
            skip = True
        elif not word.startswith(f"{flag}="):
            kept.append(word)
    return kept
