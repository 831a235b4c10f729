"""What travels between the steps of a build: where the plan is, tasks, and the receipts of finished shards. Never rows,
video or latents: the worker that needs them reads them from the bank."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, dataclass_transform

import apache_beam as beam

from noisebank.format.manifest import read_snapshot
from noisebank.planning.plan import Plan, read_plan
from noisebank.stages.job import Finished
from noisebank.stages.stage import ShardWork
from noisebank.storage import BankWriter, open_store

T = TypeVar("T", bound=type[beam.PTransform])


@dataclass_transform(frozen_default=True)
def step(cls: T) -> T:
    """Class decorator: a PTransform as a frozen dataclass. Beam may set what is its own: the label, resource hints."""
    made = dataclass(frozen=True, eq=False)(cls)
    fields = {field.name for field in dataclasses.fields(made)}

    def set_attribute(self: object, name: str, value: object) -> None:
        if name in fields:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    made.__setattr__ = set_attribute  # type: ignore[assignment]
    return made


@dataclass(frozen=True)
class Done:
    """A finished shard on its way to the next stages and the commit."""

    work: ShardWork
    finished: Finished


@lru_cache(maxsize=4)
def plan_of(bank: str, path: str) -> Plan:
    """The plan, read once a process."""
    return read_plan(open_store(bank), path)


@lru_cache(maxsize=4)
def writer_of(bank: str, path: str) -> BankWriter:
    """Writes into the bank that a plan updates, with the number of its last vacuum."""
    store, parent = open_store(bank), plan_of(bank, path).parent
    return BankWriter(store, 0 if parent is None else read_snapshot(store, parent).vacuum)


@step
class ReadTasks(beam.PTransform):
    """The tasks of a stage.

    Input: paths of plans. Output: :class:`~noisebank.stages.stage.ShardWork`.
    """

    bank: str
    stage: str

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[ShardWork]:
        return plans | beam.FlatMap(self._tasks)

    def _tasks(self, path: str) -> list[ShardWork]:
        return [ShardWork(path, task) for task in plan_of(self.bank, path).tasks.get(self.stage, ())]
