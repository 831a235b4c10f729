"""What travels between the steps of a build: the plan's hash, tasks, and the receipts of finished shards. Never rows,
video or latents: the worker that needs them reads them from the bank."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import apache_beam as beam
from apache_beam.metrics import Metrics

from noisebank.errors import JobFailed
from noisebank.format.manifest import read_snapshot
from noisebank.format.receipts import Receipt
from noisebank.planning.cut import Task
from noisebank.planning.plan import Plan, read_plan
from noisebank.stages.finished import Finished
from noisebank.storage import open_store

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """One shard's work at a stage.

    Args:
        plan: hash of the plan.
        task: of the plan.
        clips: the receipt of the task's clips, for what follows from new clips; None for tasks over existing clips.
    """

    plan: str
    task: Task
    clips: Receipt | None = None


@dataclass(frozen=True)
class Done:
    """A finished shard on its way to the next stages and the commit."""

    work: Work
    finished: Finished


@lru_cache(maxsize=4)
def plan_of(bank: str, hash: str) -> Plan:
    """The plan, read once a process."""
    return read_plan(open_store(bank), hash)


@lru_cache(maxsize=4)
def generation_of(bank: str, hash: str) -> int:
    """Number of the last vacuum of the snapshot that the plan updates; it goes into the names of new files."""
    parent = plan_of(bank, hash).parent
    return 0 if parent is None else read_snapshot(open_store(bank), parent).vacuum


def unfinished(stage: str, work: Work) -> JobFailed:
    """The error of a stage that needs the shards of an earlier one."""
    return JobFailed(
        f"{stage}: a shard of {work.task.rows} rows is not finished; run 'noisebank {stage.split('/')[0]}' or 'build' "
        "with the same configuration first"
    )


def count(done: Finished, stage: str) -> None:
    """Beam metrics of a finished shard."""
    name = stage.replace("/", "_")
    kind = "done" if done.made else "skipped"
    Metrics.counter("noisebank", f"{name}_{kind}").inc(done.receipt.rows)
    Metrics.counter("noisebank", f"{name}_failed").inc(len(done.receipt.failures))
    Metrics.counter("noisebank", f"{name}_milliseconds").inc(round(1000 * done.seconds))


class ReadTasks(beam.PTransform):
    """The tasks of a stage, spread over the workers.

    Args:
        bank: its address.
        stage: ``clips``, ``captions`` or ``noise/<set>``.

    Input: hashes of plans. Output: :class:`Work`.
    """

    def __init__(self, bank: str, stage: str) -> None:
        super().__init__()
        self.bank, self.stage = bank, stage

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[Work]:
        return plans | beam.FlatMap(_tasks, self.bank, self.stage) | beam.Reshuffle()


def _tasks(hash: str, bank: str, stage: str) -> Iterator[Work]:
    for task in plan_of(bank, hash).tasks.get(stage, ()):
        yield Work(hash, task)
