"""Beam's options from the command line: everything that is not noisebank's must be Beam's, or it is an error; and
whether the workers that they ask for can read what they must."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from apache_beam.options import pipeline_options as beam
from apache_beam.options.pipeline_options import PipelineOptions

from noisebank.errors import ConfigError

LOCAL = "FnApiRunner"
_log = logging.getLogger(__name__)
_ON_THIS_MACHINE = re.compile(r"embed|local(\[.+)?|\[(local|auto)\]|(https?://)?(localhost|127\.0\.0\.1)(:\d+)?/?")
"""Addresses of engines and job servers that start workers here."""

ENGINE_ADDRESSES: dict[str, Callable[[PipelineOptions], str]] = {
    "flink": lambda options: options.view_as(beam.FlinkRunnerOptions).flink_master,
    "portable": lambda options: options.view_as(beam.PortableOptions).job_endpoint or "embed",
    "spark": lambda options: options.view_as(beam.SparkRunnerOptions).spark_master_url or "local",
}
"""By the short name of a runner, the address of its engine, which tells where the workers are. Dataflow has none: its
workers are never here."""


def beam_options(words: Sequence[str]) -> PipelineOptions:
    """Pipeline options from command-line words.

    Without ``--runner`` the job runs in this process on Beam's ``FnApiRunner``, named outright because plain
    ``DirectRunner`` first tries to download another engine.

    Raises:
        ConfigError: a word is no option of Beam's, or its value is not allowed.
    """
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False, conflict_handler="resolve"
    )  # (some options are declared by two of Beam's classes)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    try:
        known, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise ConfigError(f"Beam options: {error}") from error
    if unknown:
        raise ConfigError(f"{unknown[0]}: neither an option of noisebank nor of Beam; see --help")
    is_local = known.runner in (None, "DirectRunner", LOCAL)
    return PipelineOptions([*words, f"--runner={LOCAL}"] if is_local else list(words))


def is_local(options: PipelineOptions) -> bool:
    """Whether Beam's own runner for one machine is asked for."""
    return bool(options.view_as(beam.StandardOptions).runner == LOCAL)


def runs_elsewhere(options: PipelineOptions) -> bool:
    """Whether the workers run on other machines than this, as far as the options tell."""
    name = _name_runner(options)
    address = ENGINE_ADDRESSES[name](options) if name in ENGINE_ADDRESSES else "local"
    return "dataflow" in name or not _ON_THIS_MACHINE.fullmatch(address)


def check_addresses(options: PipelineOptions, addresses: Iterable[str]) -> None:
    """Refuses what workers in other processes or on other machines cannot read; warns where a mounted folder may be
    meant.

    Raises:
        ConfigError: names the first address that cannot be read.
    """
    elsewhere, runner = runs_elsewhere(options), _name_runner(options)
    in_this_process = (
        runner == "fnapi" and options.view_as(beam.DirectOptions).direct_running_mode != "multi_processing"
    )
    workers = "on other machines" if elsewhere else "in other processes"
    for address in addresses:
        scheme, separator, _ = address.partition("://")
        wanted = f"{address}: workers {workers} cannot read it; use an address such as gs://, s3:// or az://"
        is_path = not separator or scheme == "file"
        if (scheme == "memory" and not in_this_process) or (is_path and "dataflow" in runner):
            raise ConfigError(wanted)
        if is_path and elsewhere:
            _log.warning("%s, unless this is a folder that all of them mount (with hard links)", wanted)


def check_models(options: PipelineOptions, models: Iterable[str]) -> None:
    """Warns of models in local folders: workers on other machines look for them at the same path of their own."""
    for model in models if runs_elsewhere(options) else ():
        if Path(model).is_dir():
            _log.warning(
                "%s: workers on other machines load this model from the same path; have it in their image, mount the "
                "folder there, or give the id of a model on the hub",
                model,
            )


def _name_runner(options: PipelineOptions) -> str:
    """The runner's short name, such as ``dataflow``."""
    return str(options.view_as(beam.StandardOptions).runner).rpartition(".")[2].lower().removesuffix("runner")
