"""The shards of a stage, made or found, one an element; where the stage has a model, by Beam's RunInference, which
keeps one in a process."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference

from noisebank.stages.job import Finished, run_job
from noisebank.stages.stage import LazyModel, ShardWork, Stage
from transforms.work import Done, plan_of, step, writer_of

_log = logging.getLogger(__name__)


@step
class MakeShards(beam.PTransform):
    """Makes the shards of a stage, or finds those that are made.

    Args:
        bank: its address.
        stage: which stage, with its options.
        make: whether missing shards are made; if not, one that is missing is an error.

    Input: :class:`~noisebank.stages.stage.ShardWork`, a task of the stage, or one with the receipt of new clips.
    Output: :class:`.work.Done`, one a shard.
    """

    bank: str
    stage: Stage
    make: bool = True

    def expand(self, work: beam.PCollection[ShardWork]) -> beam.PCollection[Done]:
        maker = _Maker(self.bank, self.stage, self.make)
        if not (self.stage.has_model and self.make):
            return work | beam.ParDo(_MakeShard(maker))
        run = RunInference(_ModelHandler(maker))
        if self.stage.accelerator:
            run = run.with_resource_hints(accelerator=self.stage.accelerator)
        return work | run | beam.FlatMap(lambda done: done)


@dataclass(frozen=True)
class _Maker:
    """What a worker needs to make shards."""

    bank: str
    stage: Stage
    make: bool

    def done(self, work: ShardWork, model: LazyModel) -> list[Done]:
        """The finished shard; none where there is nothing to make."""
        plan, writer = plan_of(self.bank, work.plan), writer_of(self.bank, work.plan)
        job = self.stage.job(writer.store, plan, work, model)
        if job is None:
            return []
        finished = run_job(job, writer, self.make)
        if self.make:
            count(finished)
        return [Done(work, finished)]


class _MakeShard(beam.DoFn):
    def __init__(self, maker: _Maker) -> None:
        self._maker = maker

    def setup(self) -> None:
        self._model = LazyModel(self._maker.stage.load_model)

    def process(self, work: ShardWork) -> Iterator[Done]:
        yield from self._maker.done(work, self._model)


class _ModelHandler(ModelHandler[ShardWork, list[Done], LazyModel]):
    def __init__(self, maker: _Maker) -> None:
        super().__init__(max_batch_size=1)
        self._maker = maker

    def load_model(self) -> LazyModel:
        return LazyModel(self._maker.stage.load_model)

    def run_inference(
        self, batch: Sequence[ShardWork], model: LazyModel, inference_args: dict[str, Any] | None = None
    ) -> Iterable[list[Done]]:
        with model.turn():
            return [self._maker.done(work, model) for work in batch]

    def get_metrics_namespace(self) -> str:
        return f"noisebank_{self._maker.stage.name.kind}"


def count(finished: Finished) -> None:
    """Beam metrics and a line in the log of a finished shard."""
    receipt, kind = finished.receipt, "done" if finished.made else "skipped"
    name = receipt.stage.replace("/", "_")
    Metrics.counter("noisebank", f"{name}_{kind}").inc(receipt.rows)
    Metrics.counter("noisebank", f"{name}_failed").inc(len(receipt.failures))
    Metrics.counter("noisebank", f"{name}_milliseconds").inc(round(1000 * finished.seconds))
    tar, made = receipt.info.get("tar"), "made" if finished.made else "found"
    what = f"{receipt.stage} of {tar}" if tar else receipt.stage
    _log.info("%s: %d rows, %d failed, %s in %.1f s", what, receipt.rows, len(receipt.failures), made, finished.seconds)
