"""Engines with a cluster and a job server of their own: Flink, Spark, and any other behind a job endpoint. Their
address tells where the workers are."""

from __future__ import annotations

import re

from apache_beam.options import pipeline_options as beam

from runners.engine import Engine

_ON_THIS_MACHINE = re.compile(r"embed|local(\[.+)?|\[(local|auto)\]|(https?://)?(localhost|127\.0\.0\.1)(:\d+)?/?")
"""Addresses of engines and job servers that start workers here."""


class ClusterEngine(Engine):
    """An engine whose workers are where its address is."""

    @property
    def address(self) -> str:
        """Of the engine, or of the job server that stands for it."""
        return self.options.view_as(beam.PortableOptions).job_endpoint or "embed"

    @property
    def runs_elsewhere(self) -> bool:
        """Whether the address is another machine's."""
        return not _ON_THIS_MACHINE.fullmatch(self.address)


class SparkEngine(ClusterEngine):
    """Spark."""

    @property
    def address(self) -> str:
        """Of the master."""
        return self.options.view_as(beam.SparkRunnerOptions).spark_master_url or "local"
