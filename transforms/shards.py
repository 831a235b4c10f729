"""The shards of a stage and the index, made or found, one an element; where the stage has a model, by Beam's
RunInference, which keeps one in a process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference

from noisebank.format.stage_names import INDEX
from noisebank.options import IndexOptions
from noisebank.planning.cut import Task
from noisebank.processes import use_threads
from noisebank.stages.index import index_job
from noisebank.stages.job import Finished, ShardJob, run_job
from noisebank.stages.stage import LazyModel, ShardWork, Stage
from noisebank.storage import BankWriter, FileEntry
from transforms.work import Done, plan_of, step, writer_of

_log = logging.getLogger(__name__)


@step
class SplitWork(beam.PTransform):
    """The shards of a stage that work comes to.

    Input and output: :class:`~noisebank.stages.stage.ShardWork`.
    """

    bank: str
    stage: Stage

    def expand(self, work: beam.PCollection[ShardWork]) -> beam.PCollection[ShardWork]:
        return work | beam.FlatMap(self._split)

    def _split(self, work: ShardWork) -> list[ShardWork]:
        return self.stage.split(plan_of(self.bank, work.plan), work)


@step
class MakeShards(beam.PTransform):
    """Makes the shards of a stage, or finds those that are made, spread over all workers.

    The reshuffle stands right before the work, after all that brings it together, so that no engine runs a shard where
    what it follows from happened to be.

    Args:
        make: whether missing shards are made; if not, one that is missing is an error.
        verify: whether shards that are found are read and compared; a damaged one counts as missing.
        job: whose models are kept (:func:`kept_model`); of none by default.
        threads: of torch in the worker (:func:`noisebank.processes.use_threads`); by default its own choice.
        at_once: whether each shard is made where it is found, before the next piece of work is asked for; RunInference
            is a batch behind.
        hints: Beam's resource hints, for the work alone: no machine with a GPU is there for the reshuffle.

    Input: :class:`~noisebank.stages.stage.ShardWork`, a task of the stage, or one with the receipt of new clips.
    Output: :class:`.work.Done`, one a shard.
    """

    bank: str
    stage: Stage
    make: bool = True
    verify: bool = True
    job: str = ""
    at_once: bool = False
    hints: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None

    def expand(self, work: beam.PCollection[ShardWork]) -> beam.PCollection[Done]:
        if self.at_once:
            return work | beam.FlatMap(self._finish_at_once)
        work |= beam.Reshuffle()
        if not (self.stage.has_model and self.make):
            return work | beam.FlatMap(self.finish).with_resource_hints(**self.hints)  # (no model is loaded)
        name = self.stage.name
        keep = (self.job, name.name) if self.job else None
        run = RunInference(ShardHandler(self.stage.load_model, self.finish, name.kind, keep))
        flatten = beam.FlatMap(lambda done: done)
        return work | run.with_resource_hints(**self.hints) | flatten.with_resource_hints(**self.hints)

    def finish(self, work: ShardWork, model: LazyModel | None = None) -> list[Done]:
        """The finished shard; none where there is nothing to make."""
        if self.stage.has_model:
            use_threads(self.threads)
        model = model or LazyModel(self.stage.load_model)
        plan, writer = plan_of(self.bank, work.plan), writer_of(self.bank, work.plan)
        job = self.stage.job(writer.store, plan, work, model)
        return [Done(work, run_and_count(job, writer, self.make, self.verify))] if job else []

    def _finish_at_once(self, work: ShardWork) -> list[Done]:
        model = kept_model(self.job, self.stage.name.name, self.stage.load_model)
        with model.turn:
            return self.finish(work, model)


_kept: dict[tuple[str, str], LazyModel] = {}
_keeping = threading.Lock()


def kept_model(job: str, stage: str, load: Callable[[str], Any]) -> LazyModel:
    """The model of a stage that this process keeps for a job, from one of its steps to the next; those of other jobs
    leave its memory."""
    with _keeping:
        for key in [key for key in _kept if key[0] != job]:
            del _kept[key]
        return _kept.setdefault((job, stage), LazyModel(load))


class ShardHandler(ModelHandler[Any, list[Any], LazyModel]):
    """For Beam's RunInference: makes shards one at a time, with a model that is loaded when the first one needs it.

    Args:
        load: loads the model of a digest.
        finish: what comes of a shard's work.
        name: of the kind of work, for Beam's metrics.
        keep: job and stage whose model it is (:func:`kept_model`); by default it is the handler's own.
    """

    def __init__(
        self,
        load: Callable[[str], Any],
        finish: Callable[[Any, LazyModel], list[Any]],
        name: str,
        keep: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(max_batch_size=1)
        self._load, self._finish, self._name, self._keep = load, finish, name, keep

    def load_model(self) -> LazyModel:
        return kept_model(*self._keep, self._load) if self._keep else LazyModel(self._load)

    def run_inference(
        self, batch: Sequence[Any], model: LazyModel, inference_args: dict[str, Any] | None = None
    ) -> Iterable[list[Any]]:
        with model.turn:
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
        note = finished.note and f", {finished.note}"
        _log.info("%s: %d %s, %d failed, in %.1f s%s", shard, receipt.rows, how, failed, finished.seconds, note)
    return finished


@step
class BuildIndex(beam.PTransform):
    """Builds the index segment over the captions made, or finds it: a single step, because a segment is one file.

    Args:
        captions: the finished captions shards of the plan.
        make: whether a missing segment is built; if not, that is an error.
        verify, hints: as of :class:`MakeShards`.

    Input: the plan's path. Output: :class:`.work.Done`; nothing if no captions were made.
    """

    bank: str
    index: IndexOptions
    captions: beam.PCollection[Done]
    make: bool = True
    verify: bool = True
    hints: Mapping[str, Any] = field(default_factory=dict)

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[Done]:
        files = self.captions | "Files" >> beam.FlatMap(lambda done: done.finished.receipt.files)
        build = beam.FlatMap(_build, self.bank, self.index, self.make, self.verify, beam.pvalue.AsList(files))
        return plans | "Build" >> build.with_resource_hints(**self.hints)


def _build(
    path: str, bank: str, index: IndexOptions, make: bool, verify: bool, captions: Iterable[FileEntry]
) -> Iterator[Done]:
    writer = writer_of(bank, path)
    if job := index_job(writer.store, plan_of(bank, path), captions, index):
        yield Done(ShardWork(path, Task(INDEX, ())), run_and_count(job, writer, make, verify))
