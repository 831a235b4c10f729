"""Beam's runner on this machine, with worker processes that log as this one does, one for each of several GPUs."""

from __future__ import annotations

import logging
import multiprocessing
import shlex

from apache_beam.options.pipeline_options import DirectOptions, SetupOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from noisebank.devices import count_gpus
from runners import local_worker as local_worker  # (registers its handler of worker processes)
from runners.engine import Engine, Needs
from runners.worker import worker_command

_log = logging.getLogger(__name__)
_PROCESSES = "multi_processing"


class LocalEngine(Engine):
    """This machine: threads of this process, or worker processes.

    Without a word of the user's it is this process, whatever the number of cores: decoders have a process a core there,
    and torch a thread a core, so worker processes find no idle core, and each loads libraries and models of its own
    (two of them take 20 CPU seconds and 1.2 GB more than one process: ``python -m benchmarks.engines``). Only several
    GPUs want several processes, because a process computes on one.
    """

    @property
    def shares_this_process(self) -> bool:
        """Whether no worker processes are asked for."""
        return bool(self.options.view_as(DirectOptions).direct_running_mode != _PROCESSES)

    def prepare(self, needs: Needs) -> None:
        """Asks for a worker process for each of several GPUs, if a stage may want one, unless the command line or a
        bank in memory says otherwise; checks what any engine does."""
        is_said = self.says("--direct_num_workers", "--direct_running_mode")
        is_shared = any(address.startswith("memory:") for address in needs.addresses)
        if needs.on_gpu and not is_said and not is_shared:
            self.use_gpus(count_gpus())
        super().prepare(needs)

    def use_gpus(self, gpus: int) -> None:
        """A worker process for each of so many; nothing is done for a single one."""
        if gpus > 1:
            direct = self.options.view_as(DirectOptions)
            direct.direct_num_workers, direct.direct_running_mode = gpus, _PROCESSES
            _log.info(
                "%d GPUs: a worker process for each (--direct_num_workers and --direct_running_mode change it)", gpus
            )

    def count_workers(self) -> int:
        """How many workers a job asks for."""
        asked: int = self.options.view_as(DirectOptions).direct_num_workers
        return asked or multiprocessing.cpu_count()

    def runner(self) -> PipelineRunner:
        """Beam's own, with our command for its worker processes."""
        if self.shares_this_process:
            return FnApiRunner()
        direct = self.options.view_as(DirectOptions)
        workers = self.count_workers()
        direct.direct_running_mode = None  # (it would put Beam's own command in the place of ours)
        modules = self.options.view_as(SetupOptions).beam_plugins or []  # (which this runner does not pass on itself)
        command = shlex.join(worker_command(workers, modules))
        return FnApiRunner(SubprocessSDKEnvironment.from_command_string(f"exec {command}"))
