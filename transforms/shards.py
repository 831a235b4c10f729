"""The shards of a stage, made or found, one an element; where the stage has a model, by Beam's RunInference, which
keeps one in a process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference

from noisebank.stages.job import Finished, ShardJob, run_job
from noisebank.stages.stage import LazyModel, ShardWork, Stage
from noisebank.storage import BankWriter
from transforms.work import Done, plan_of, step, writer_of

_log = logging.getLogger(__name__)


@step
class MakeShards(beam.PTransform):
    """Makes the shards of a stage, or finds those that are made.

    Args:
        make: whether missing shards are made; if not, one that is missing is an error.
        verify: whether shards that are found are read and compared; a damaged one counts as missing.

    Input: :class:`~noisebank.stages.stage.ShardWork`, a task of the stage, or one with the receipt of new clips.
    Output: :class:`.work.Done`, one a shard.
    """

    bank: str
    stage: Stage
    make: bool = True
    verify: bool = True

    def expand(self, work: beam.PCollection[ShardWork]) -> beam.PCollection[Done]:
        if not (self.stage.has_model and self.make):
            return work | beam.ParDo(_MakeShard(self))
        run = RunInference(ShardHandler(self.stage.load_model, self.finish, self.stage.name.kind))
        if self.stage.accelerator:
            run = run.with_resource_hints(accelerator=self.stage.accelerator)
        return work | run | beam.FlatMap(lambda done: done)

    def finish(self, work: ShardWork, model: LazyModel) -> list[Done]:
        """The finished shard; none where there is nothing to make."""
        plan, writer = plan_of(self.bank, work.plan), writer_of(self.bank, work.plan)
        job = self.stage.job(writer.store, plan, work, model)
        return [Done(work, run_and_count(job, writer, self.make, self.verify))] if job else []


class _MakeShard(beam.DoFn):
    def __init__(self, shards: MakeShards) -> None:
        self._shards = shards

    def setup(self) -> None:
        self._model = LazyModel(self._shards.stage.load_model)

    def process(self, work: ShardWork) -> list[Done]:
        return self._shards.finish(work, self._model)


class ShardHandler(ModelHandler[Any, list[Any], LazyModel]):
    """For Beam's RunInference: makes shards one at a time, with a model that is loaded when the first one needs it.

    Args:
        load: loads the model of a digest.
        finish: what comes of a shard's work.
        name: of the kind of work, for Beam's metrics.
    """

    def __init__(self, load: Callable[[str], Any], finish: Callable[[Any, LazyModel], list[Any]], name: str) -> None:
        super().__init__(max_batch_size=1)
        self._load, self._finish, self._name = load, finish, name

    def load_model(self) -> LazyModel:
        return LazyModel(self._load)

    def run_inference(
        self, batch: Sequence[Any], model: LazyModel, inference_args: dict[str, Any] | None = None
    ) -> Iterable[list[Any]]:
        with model.turn():
            return [self._finish(work, model) for work in batch]

    def get_metrics_namespace(self) -> str:
        return f"noisebank_{self._name}"


def run_and_count(job: ShardJob, writer: BankWriter, make: bool, verify: bool) -> Finished:
    """Runs a job; where its shard is to be made, Beam's metrics and the log tell of it."""
    finished = run_job(job, writer, make, verify)
    if make:
        receipt, failed = finished.receipt, len(finished.receipt.failures)
        kind, how = ("done", "made") if finished.made else ("skipped", "found")
        for what, count in ((kind, receipt.rows), ("failed", failed), ("milliseconds", round(1000 * finished.seconds))):
            Metrics.counter("noisebank", f"{receipt.stage.replace('/', '_')}_{what}").inc(count)
        shard = f"{receipt.stage} of {receipt.info['tar']}" if "tar" in receipt.info else receipt.stage
        _log.info("%s: %d rows, %d failed, %s in %.1f s", shard, receipt.rows, failed, how, finished.seconds)
    return finished
