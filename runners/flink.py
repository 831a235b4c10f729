"""Flink: a cluster that is reached by its own address."""

from __future__ import annotations

from apache_beam.options.pipeline_options import FlinkRunnerOptions

from runners.clusters import ClusterEngine


class FlinkEngine(ClusterEngine):
    """Flink."""

    @property
    def address(self) -> str:
        """Of the JobManager."""
        return str(self.options.view_as(FlinkRunnerOptions).flink_master)
