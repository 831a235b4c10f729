"""The gate of a build: whether too many of its rows failed to publish anything.

Failures are counted as receipts are read and kept as a few bytes each, whatever their number.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import JobFailed
from noisebank.format.manifest import Snapshot
from noisebank.format.reading import read_table
from noisebank.format.receipts import Failure
from noisebank.format.schemas import FAILURES, RECORDS, ROWS
from noisebank.format.stage_names import PLAN, over_clips
from noisebank.format.status import Status
from noisebank.format.tables import FAILURE_KEY, OverlayTable, column_at, nums_of
from noisebank.ids import Nums
from noisebank.planning.plan import Plan
from noisebank.storage import Store

_EXAMPLES = 3
_NONE = np.zeros(0, np.int64)


class FailureCount:
    """The failures of a build, its shards' and those of the finished shards that its plan claims.

    Args:
        store: the bank.
        plan: that was carried out.
        parent: the snapshot that it updates.
    """

    def __init__(self, store: Store, plan: Plan, parent: Snapshot | None) -> None:
        self._store, self._plan, self._parent = store, plan, parent
        self.by_code: Counter[str] = Counter()
        self._permanent: set[str] = set()
        self._nums: dict[str, list[Nums]] = defaultdict(list)
        self._examples: list[tuple[int, str, str, str]] = []
        for table in read_changes(store, plan, "failures"):
            claimed = table.filter((pc.field("code") != "") & (pc.field("stage") != PLAN))
            self.add(Failure(**row) for row in claimed.select(list(Failure.__slots__)).to_pylist())

    def add(self, failures: Iterable[Failure]) -> None:
        """Counts more failures."""
        nums: dict[str, list[int]] = defaultdict(list)
        for failure in failures:
            nums[failure.stage].append(failure.num)
            self.by_code[failure.code] += 1
            if not failure.retryable:
                self._permanent.add(failure.code)
            example = (failure.num, failure.stage, failure.id, failure.message)
            if len(self._examples) < _EXAMPLES or example < self._examples[-1]:
                self._examples = heapq.nsmallest(_EXAMPLES, [*self._examples, example])
        for stage, found in nums.items():
            self._nums[stage].append(np.array(found, np.int64))

    @property
    def codes(self) -> dict[str, int]:
        """Failures by code, most first."""
        return dict(sorted(self.by_code.items(), key=lambda item: (-item[1], item[0])))

    @property
    def nums(self) -> Nums:
        """Sorted numbers of the rows that failed at any stage."""
        return np.unique(np.concatenate([_NONE, *(nums for found in self._nums.values() for nums in found)]))

    def check(self, max_failed: float) -> None:
        """Refuses to publish when too many of the rows that the parent does not know as they are now failed.

        Raises:
            JobFailed: says what :meth:`find_problem` says, and what can be done.
        """
        if problem := self.find_problem(max_failed):
            unless = "which are not tried again otherwise, unless their rows change"
            permanent = ",".join(sorted(self._permanent))
            retried = f" with --retry-failures {permanent}, {unless}" if permanent else ""
            raise JobFailed(
                f"nothing is published: {problem}. 'noisebank failures {self._store.url} --unpublished' lists them "
                f"all. Mend what failed and run 'build', or 'clips' and the stages after it, again{retried}; or run "
                "this command again with a larger max_failed. Finished work is kept"
            )

    def find_problem(self, max_failed: float) -> str:
        """The share of rows, or of the clips of a stage over clips, that is above ``max_failed``, with the commonest
        codes and examples; empty if none is."""
        for what, failed, tried in self._shares():
            if tried and failed > max_failed * tried:
                by_code = self.codes | {"invalid": self._plan.counts["newly_invalid"]}
                codes = ", ".join(f"{count} {code}" for code, count in by_code.items() if count)
                examples = "; ".join(f"{id}: {message}" for _, _, id, message in self._examples)
                share = f"{failed} of {tried} {what} failed, more than max_failed {max_failed:g}"
                return f"{share}. Failed: {codes}" + (f". {examples}" if examples else "")
        return ""

    def _shares(self) -> Iterator[tuple[str, int, int]]:
        """What is held against ``max_failed``: a name, how many failed, how many were tried."""
        counts = self._plan.counts
        fresh = self._select_fresh(self.nums)
        tried = counts["new"] + counts["changed"] + counts["newly_invalid"]
        yield "rows", len(fresh) + counts["newly_invalid"], tried
        for stage in over_clips(self._plan.tasks):  # (a new set, or new options, over clips that are there already)
            failed = np.unique(np.concatenate([_NONE, *self._nums[stage.name]]))
            first = np.setdiff1d(np.setdiff1d(failed, self._read_known_failures(stage.name)), fresh)
            tried = sum(task.rows for task in self._plan.tasks[stage.name]) + self._count_claimed(stage.records)
            yield f"clips of {stage.name}", len(first), tried

    def _count_claimed(self, key: str) -> int:
        """How many known rows have a record, or failed to get one, in finished shards that the plan claims."""
        kept = pc.field("status") != int(Status.REMOVED)
        nums = nums_of(table.filter(kept) for table in read_changes(self._store, self._plan, f"records/{key}"))
        return len(nums) - len(self._select_fresh(nums))

    def _select_fresh(self, nums: Nums) -> Nums:
        """Those of the sorted ``nums`` that are new, or listed otherwise than in the parent."""
        if self._parent is None or not len(nums):
            return nums
        now = column_at(nums, read_changes(self._store, self._plan, "rows"), "listed")
        before = column_at(nums, OverlayTable(self._store, self._parent.rows).slices(), "listed")
        fresh: Nums = nums[(now != before) & (now != 0)]  # (0: the plan leaves the row as it is)
        return fresh

    def _read_known_failures(self, stage: str) -> Nums:
        entries = self._parent.failures if self._parent else ()
        failed = (pc.field("code") != "") & (pc.field("stage") == stage)
        return nums_of(piece.filter(failed) for piece in OverlayTable(self._store, entries, FAILURE_KEY).slices())


def read_changes(store: Store, plan: Plan, name: str) -> Iterator[pa.Table]:
    """The files of a delta of a plan (:attr:`noisebank.planning.plan.Plan.changes`), in ascending order."""
    schema = {"rows": ROWS, "failures": FAILURES}.get(name, RECORDS)
    return (read_table(store, entry.path, schema.names) for entry in plan.changes.get(name, ()))
