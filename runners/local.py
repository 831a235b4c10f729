"""Beam's runner on this machine, with worker processes that log as this one does."""

from __future__ import annotations

import os
import shlex
import sys

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, SetupOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from runners.logs import is_verbose
from runners.options import LOCAL


def local_runner(options: PipelineOptions) -> PipelineRunner | None:
    """The runner of a job on this machine; None for one that Beam finds by its name."""
    if options.view_as(StandardOptions).runner != LOCAL:
        return None
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return FnApiRunner()
    direct.direct_running_mode = None  # (it would put Beam's own command in the place of ours)
    modules = options.view_as(SetupOptions).beam_plugins or []  # (which this runner does not pass on itself)
    verbose = ["--verbose"] if is_verbose() else []
    words = [sys.executable, "-m", "runners.worker", str(os.getpid()), *verbose, *modules]
    return FnApiRunner(SubprocessSDKEnvironment.from_command_string(f"exec {shlex.join(words)}"))
