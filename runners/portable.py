"""Engines behind a job server: whether it is there, which options it takes, and where its workers come from.

Workers on this machine are those of a pool that lives as long as the job, unless the options name others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions, PortableOptions, WorkerOptions
from apache_beam.portability import python_urns
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineRunner
from apache_beam.transforms.environments import ExternalEnvironment

from noisebank.devices import count_gpus
from noisebank.errors import ConfigError
from runners.clusters import ClusterEngine
from runners.endpoints import Described, ask_options, check_listens, find_unknown
from runners.engine import Needs
from runners.flink_cluster import FlinkCluster, ask_cluster
from runners.flink_defaults import MODE, set_defaults
from runners.pool import running_pool

LOOPBACK, EXTERNAL, DOCKER = "LOOPBACK", "EXTERNAL", "DOCKER"
_WORKERS = (
    "--environment_type=EXTERNAL --environment_config=localhost:50000 with 'python -m runners.worker_pool' on every "
    "machine of the cluster, or --environment_type=DOCKER --environment_config=IMAGE with an image that has noisebank"
)


class PooledWorkers:
    """For runners of Beam's: ``LOOPBACK`` workers are those of a pool of ours, not threads of this process, which a
    single TaskManager can have alone."""

    @staticmethod
    def start_and_replace_loopback_environments(pipeline: Any, options: PipelineOptions) -> list[Callable[[], object]]:
        """Starts the pool, if a pipeline wants it; returns what ends it."""
        asking = [
            environment
            for environment in pipeline.components.environments.values()
            if environment.urn == python_urns.EMBEDDED_PYTHON_LOOPBACK
        ]
        if not asking:
            return []
        stack = ExitStack()
        external = ExternalEnvironment(stack.enter_context(running_pool("localhost:0"))).to_runner_api(None)
        for environment in asking:
            environment.urn, environment.payload = external.urn, external.payload
        return [stack.close]


class _Runner(PooledWorkers, PortableRunner):
    """Beam's, with our workers."""


class PortableEngine(ClusterEngine):
    """Whatever is behind the job server at ``--job_endpoint``."""

    @property
    def endpoint(self) -> str:
        """Of the job server; empty where none is named."""
        return self.options.view_as(PortableOptions).job_endpoint or ""

    @cached_property
    def described(self) -> Sequence[Described]:
        """The options that the job server takes beside Beam's own."""
        return ask_options(self.endpoint, "job_endpoint") if self.endpoint not in ("", "embed") else []

    def check_unknown(self, words: Sequence[str]) -> None:
        """Refuses what neither Beam nor the job server knows."""
        if words:
            super().check_unknown(find_unknown(words, self.described))

    @property
    def is_flink(self) -> bool:
        """Whether the job server is one of Flink's."""
        return any(option.name == MODE for option in self.described)

    @cached_property
    def cluster(self) -> FlinkCluster | None:
        """What the Flink cluster at ``--flink_master`` says of itself; None where none is named, or one that a job
        server starts within itself."""
        master = self.options.view_as(FlinkRunnerOptions).flink_master
        return None if master in MAGIC_HOST_NAMES else ask_cluster(master)

    def prepare(self, needs: Needs) -> None:
        """Checks that the job server is there, sees to it that there are workers, and sets for Flink what nobody
        said."""
        super().prepare(needs)
        self.find_server()
        if self.is_flink and not self.says(f"--{MODE}"):  # (an option of the job server's, so it must be a word)
            self.options = PipelineOptions([*self.words, f"--{MODE}=BATCH"])
            self.find_server()
        self.find_workers(needs)
        if self.is_flink:
            set_defaults(self, needs, self.cluster)

    def find_server(self) -> None:
        """Checks that the job server is there."""
        if not self.endpoint:
            raise ConfigError("--runner=PortableRunner: --job_endpoint=HOST:PORT of a job server is wanted")
        assert self.described is not None  # (which asks it)

    def find_workers(self, needs: Needs) -> None:
        """Takes a pool of this machine where the engine is here and nobody says more, and checks the workers that are
        said.

        Raises:
            ConfigError: there are none that could know noisebank.
        """
        portable = self.options.view_as(PortableOptions)
        kind = (portable.environment_type or "").upper()
        image = portable.environment_options or self.options.view_as(WorkerOptions).sdk_container_image
        if not kind and not self.runs_elsewhere:
            portable.environment_type = LOOPBACK
        elif kind == LOOPBACK and self.runs_elsewhere:
            raise ConfigError(f"--environment_type=LOOPBACK: {self.address} cannot reach workers here; use {_WORKERS}")
        elif kind in ("", DOCKER) and not (portable.environment_config or image):
            raise ConfigError(f"--environment_type: workers of {self.address} must have noisebank; use {_WORKERS}")
        elif kind == EXTERNAL and not self.runs_elsewhere:
            pool = portable.environment_config or ""
            check_listens(pool, "environment_config", "start a worker pool there: python -m runners.worker_pool --help")
        if needs.only_gpu and not self.runs_elsewhere and not count_gpus():
            raise ConfigError(
                f"noise.{needs.only_gpu[0]}.device: cuda, and torch sees no GPU here, where the workers are; choose "
                " auto or cpu, or a cluster whose machines have GPUs"
            )

    def runner(self) -> PipelineRunner:
        """Beam's, with our workers."""
        return _Runner()
