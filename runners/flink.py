"""Flink: a cluster that is reached by its own address, through a job server that Beam starts here, or by the endpoint
of a job server; and the options without which a job is slow there, or does not survive what it could."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    JobServerOptions,
    PipelineOptions,
)
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.flink_runner import FlinkJarJobServer, FlinkRunner
from apache_beam.runners.portability.job_server import JobServer, StopOnExitJobServer
from apache_beam.runners.runner import PipelineRunner

from noisebank.errors import ConfigError
from runners.endpoints import Described
from runners.portable import PooledWorkers, PortableEngine


class FlinkEngine(PortableEngine):
    """Flink, at ``--flink_master`` or through the job server at ``--job_endpoint``."""

    @property
    def address(self) -> str:
        """Of the JobManager."""
        return str(self.options.view_as(FlinkRunnerOptions).flink_master)

    @property
    def is_flink(self) -> bool:
        """It is."""
        return True

    @cached_property
    def described(self) -> Sequence[Described]:
        """The options that the job server takes, which is started for that where Beam would do it later."""
        if self.endpoint or self.options.view_as(FlinkRunnerOptions).flink_submit_uber_jar:
            return super().described
        asked = beam_job_api_pb2.DescribePipelineOptionsRequest()
        return list(self._server.start().DescribePipelineOptions(asked).options)

    @cached_property
    def _server(self) -> JobServer:
        self.find_server()
        return StopOnExitJobServer(FlinkJarJobServer(self.options))

    def find_server(self) -> None:
        """Checks that the cluster is there, and that a job server is, or can be started."""
        if self.cluster:
            self.choose_version(self.cluster.version)
        if self.endpoint:
            super().find_server()
        else:
            self.check_server()

    def check_server(self) -> None:
        """Refuses to start a job server without Java, or of a jar that is not there."""
        launcher = self.options.view_as(JobServerOptions).job_server_java_launcher
        jar = self.options.view_as(FlinkRunnerOptions).flink_job_server_jar
        if shutil.which(launcher) is None:
            raise ConfigError(
                f"--runner=FlinkRunner: {launcher} is not there, which its job server needs; install a JDK, or give "
                "--job_endpoint of a job server that runs elsewhere"
            )
        if jar and not urlsplit(jar).scheme and not Path(jar).is_file():
            raise ConfigError(f"--flink_job_server_jar: {jar}: no such file")

    def choose_version(self, version: str) -> None:
        """Takes the job server of the cluster's version, unless the command line says otherwise."""
        flink, wanted = self.options.view_as(FlinkRunnerOptions), ".".join(version.split(".")[:2])
        if self.endpoint or flink.flink_job_server_jar or self.says("--flink_version"):
            return
        if wanted not in flink.PUBLISHED_FLINK_VERSIONS:
            known = ", ".join(flink.PUBLISHED_FLINK_VERSIONS)
            raise ConfigError(
                f"--flink_master: {self.address} runs Flink {version}, and this Beam has job servers for {known}; give "
                "--flink_job_server_jar of one for it"
            )
        flink.flink_version = wanted

    def runner(self) -> PipelineRunner:
        """Beam's, with our workers and, where it has been started, our job server."""
        return _Runner(self.__dict__.get("_server"))


class _Runner(PooledWorkers, FlinkRunner):
    """Beam's, with our workers and perhaps our job server."""

    def __init__(self, server: JobServer | None) -> None:
        super().__init__()
        self._server = server

    def default_job_server(self, options: PipelineOptions) -> JobServer:
        return self._server or super().default_job_server(options)
