"""Shards of clips as they are finished by somebody else: what a stage over clips works on while clips are fetched."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from noisebank.commits.gates import FailureCount
from noisebank.errors import JobFailed
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.receipts import Receipt, find_receipt
from noisebank.format.stage_names import CLIPS
from noisebank.options import Config
from noisebank.planning.cut import Task
from noisebank.planning.plan import FOLDER, Plan, differences, open_plans, read_task, refused_plans
from noisebank.stages.clips import clip_inputs
from noisebank.stages.stage import ShardWork
from noisebank.storage import Store

_SAY_S, _SAY_AGAIN_S = 60.0, 300.0
_log = logging.getLogger(__name__)


@dataclass
class Follower:
    """Follows the clips of an open plan.

    Args:
        store: the bank.
        plan: the plan.
        config: whose plan it is, and whose ``max_failed`` counts.
        pause: seconds between two looks at the bank.
        sleep: waits that long.
    """

    store: Store
    plan: Plan
    config: Config
    pause: float
    sleep: Callable[[float], None] = time.sleep
    _plans: set[str] = field(default_factory=set)

    def find_work(self, stage: str, number: int = 0, followers: int = 1) -> Iterator[ShardWork]:
        """The shards of a stage over clips: first those of clips that are in the bank, then of new ones, as soon as
        their receipt is there. Ends with the last of them.

        Args:
            stage: name of the stage.
            number: which of several followers this is; each takes every n-th shard.
            followers: how many there are.

        Raises:
            JobFailed: too many clips failed, or the plan is gone, was refused, or was replaced by a newer one.
        """
        yield from (ShardWork(self.plan.path, task) for task in self.plan.tasks.get(stage, ())[number::followers])
        waiting = self._list_shards()
        mine = set(list(waiting)[number::followers])
        failed = FailureCount(self.store, self.plan, self._read_parent())
        waited, say_at = 0.0, _SAY_S
        while waiting:
            self._check_plan()
            finished = self._find_finished(waiting)
            for receipt in finished.values():
                failed.add(receipt.failures)
            if finished:
                failed.check(self.config.max_failed)
            for inputs, receipt in finished.items():
                task = waiting.pop(inputs)
                if inputs in mine:
                    yield ShardWork(self.plan.path, task, replace(receipt, failures=()))
            if finished:
                waited, say_at = 0.0, _SAY_S
            elif waited >= say_at:
                _log.info(
                    "%s: waits for %d shards of clips, none finished for %d minutes; they come from 'noisebank clips', "
                    "on the same list and options",
                    stage, len(waiting), waited // 60,
                )  # fmt: skip
                say_at = waited + _SAY_AGAIN_S
            if waiting:
                self.sleep(self.pause)
                waited += self.pause

    def _list_shards(self) -> dict[str, Task]:
        """The shards of clips of the plan, by their inputs hash."""
        fingerprint = self.plan.fingerprints[CLIPS]
        return {clip_inputs(fingerprint, read_task(self.store, task)): task for task in self.plan.tasks.get(CLIPS, ())}

    def _find_finished(self, waiting: dict[str, Task]) -> dict[str, Receipt]:
        """The receipts that are there by now, in the order of the plan; a damaged one's shard is made again."""
        there = {path.removeprefix(f"{CLIPS}/").removesuffix(".json") for path in self.store.list(CLIPS)}
        found = {inputs: find_receipt(self.store, CLIPS, inputs) for inputs in waiting if inputs in there}
        return {inputs: receipt for inputs, receipt in found.items() if receipt is not None}

    def _read_parent(self) -> Snapshot | None:
        return None if self.plan.parent is None else read_snapshot(self.store, self.plan.parent)

    def _check_plan(self) -> None:
        """Raises JobFailed unless the plan is still the one to work on; looks closer only where plans came or went."""
        plans = set(self.store.list(FOLDER))
        if plans == self._plans:
            return
        planned = f"the plan of {self.plan.created}"
        again = "run the same command again, which keeps what is finished"
        if self.plan.path not in plans:
            raise JobFailed(f"{planned} is gone ({self.plan.path}); {again}")
        if self.plan.hash in refused_plans(self.store):
            raise JobFailed(
                f"{planned} was refused, since too much of it failed; see 'noisebank failures --unpublished'"
            )
        for other in open_plans(self.store, self.plan.parent_uuid):
            if other.created > self.plan.created and not differences(other, self.config):
                raise JobFailed(f"{planned} was replaced by that of {other.created}; {again}")
        self._plans = plans
