"""What a stage that runs on its own came to, left in the bank for whoever started it."""

from __future__ import annotations

from collections.abc import Iterable

import apache_beam as beam

from noisebank.commits.runs import record_run
from noisebank.stages.finished import Finished, stage_figures
from noisebank.storage import open_store


class Report(beam.PTransform):
    """Records what one stage did, when it has done all.

    Args:
        bank: its address.
        run_id: of the run.
        finished: the stage's shards, of type :class:`~noisebank.stages.finished.Finished`.

    Input and output: the plan's hash.
    """

    def __init__(self, bank: str, run_id: str, finished: beam.PCollection[Finished]) -> None:
        super().__init__()
        self.bank, self.run_id, self.finished = bank, run_id, finished

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[str]:
        return plans | beam.Map(_report, self.bank, self.run_id, beam.pvalue.AsIter(self.finished))


def _report(hash: str, bank: str, run_id: str, finished: Iterable[Finished]) -> str:
    record_run(open_store(bank), run_id, {"plan": hash, "stages": stage_figures(finished)})
    return hash
