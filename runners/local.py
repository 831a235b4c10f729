"""Beam's runner on this machine, with worker processes that log as this one does, one for each of several GPUs."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shlex
import sys
from collections.abc import Sequence

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, SetupOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from runners.logs import is_verbose
from runners.options import is_local

_log = logging.getLogger(__name__)


def use_every_gpu(options: PipelineOptions, words: Sequence[str], gpus: int) -> None:
    """Asks for a worker process for each GPU of this machine.

    Args:
        options: of a job; those of another engine are left alone.
        words: from the command line; nothing is done where they say how many workers there are.
        gpus: how many there are; nothing is done for a single one.
    """
    is_said = any(word.startswith(("--direct_num_workers", "--direct_running_mode")) for word in words)
    if is_local(options) and gpus > 1 and not is_said:
        direct = options.view_as(DirectOptions)
        direct.direct_num_workers, direct.direct_running_mode = gpus, "multi_processing"
        _log.info("%d GPUs: a worker process for each (--direct_num_workers and --direct_running_mode change it)", gpus)


def count_workers(options: PipelineOptions) -> int:
    """How many workers a job on this machine asks for."""
    asked: int = options.view_as(DirectOptions).direct_num_workers
    return asked or multiprocessing.cpu_count()


def local_runner(options: PipelineOptions) -> PipelineRunner | None:
    """The runner of a job on this machine; None for one that Beam finds by its name."""
    if not is_local(options):
        return None
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return FnApiRunner()
    direct.direct_running_mode = None  # (it would put Beam's own command in the place of ours)
    modules = options.view_as(SetupOptions).beam_plugins or []  # (which this runner does not pass on itself)
    verbose = ["--verbose"] if is_verbose() else []
    numbers = [str(os.getpid()), str(count_workers(options))]
    words = [sys.executable, "-m", "runners.worker", *numbers, *verbose, *modules]
    return FnApiRunner(SubprocessSDKEnvironment.from_command_string(f"exec {shlex.join(words)}"))
