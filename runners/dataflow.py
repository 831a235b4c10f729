"""Google Cloud Dataflow: workers on machines that it starts for the job."""

from __future__ import annotations

from runners.engine import Engine


class DataflowEngine(Engine):
    """Dataflow."""

    @property
    def runs_elsewhere(self) -> bool:
        """Always."""
        return True

    @property
    def takes_paths(self) -> bool:
        """Never: its workers mount nothing."""
        return False
