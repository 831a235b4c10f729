"""A dead list is noticed: where more than half of the first rows of a build fail, it stops before it asks for the rest.

Workers share nothing but the bank. So each leaves beside the plan what came of its rows so far, and adds up what all of
them left before it goes on. When enough rows are known and the list is alive, a last file says so, and nobody counts
any more. A plan that was stopped is refused: the next build makes a new one, and goes on from what is finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from noisebank.commits.publishing import BuildResult
from noisebank.decode import decode
from noisebank.errors import JobFailed, RowFailure
from noisebank.format.manifest import read_snapshot
from noisebank.format.receipts import find_receipt
from noisebank.format.sealed import seal, unseal
from noisebank.format.stage_names import CLIPS
from noisebank.planning.plan import FOLDER, Plan, find_refusal, refuse
from noisebank.storage import Store

MIN_ROWS = 1024
"""Rows whose fate is known before a list is judged."""
INTERVAL = 64
"""Rows of a shard after which its worker looks at what the others found."""
_NAMED = 3

T = TypeVar("T")


@dataclass(frozen=True)
class _Outcomes:
    """What came of some rows: how many there were, how many failed, and the most frequent ``code at host``."""

    rows: int
    failed: int
    most: Mapping[str, int]


class DeadListWatch:
    """Counts the rows of one shard of clips with those of the others.

    Args:
        store: the bank.
        plan: that the shard is of.
        inputs: hash of the shard's inputs.
    """

    def __init__(self, store: Store, plan: Plan, inputs: str) -> None:
        self._store, self._plan, self._inputs = store, plan, inputs
        self._folder = f"{FOLDER}/{plan.hash}"
        self._planned = sum(task.rows for task in plan.tasks[CLIPS])

    def follow(self, outcomes: Iterator[T | RowFailure], addresses: Sequence[str]) -> Iterator[T | RowFailure]:
        """The outcomes of the shard's rows, as they come, each counted under its address.

        Raises:
            JobFailed: more than half of the rows that this build has tried failed, and these are :data:`MIN_ROWS` or
                more; says why most did, and where.
        """
        is_open = self._is_open()
        failed: Counter[str] = Counter()
        for count, (outcome, address) in enumerate(zip(outcomes, addresses, strict=True), 1):
            if isinstance(outcome, RowFailure):
                failed[f"{outcome.code} {_place(address)}"] += 1
            yield outcome
            if is_open and (count % INTERVAL == 0 or count == len(addresses)):
                self._tell(count, failed)
                is_open = count == len(addresses) or self._is_open()

    def _is_open(self) -> bool:
        """Whether it is not known yet that the list is alive; JobFailed if it is dead."""
        if self._planned <= MIN_ROWS or self._store.exists(self._alive):
            return False
        if (reason := find_refusal(self._store, self._plan.hash)) is not None:
            raise JobFailed(reason)
        rows, failed, most = 0, 0, Counter[str]()
        for path in self._store.list(self._folder):
            if path.startswith(f"{self._folder}/outcomes-"):
                found = decode(unseal(self._store.read(path), path), _Outcomes, path)
                rows, failed = rows + found.rows, failed + found.failed
                most.update(found.most)
        if rows < MIN_ROWS:
            return True
        if 2 * failed > rows:
            self._stop(rows, failed, most)
        self._store.put(self._alive, b"")
        return False

    @property
    def _alive(self) -> str:
        return f"{self._folder}/alive"

    def _tell(self, rows: int, failed: Counter[str]) -> None:
        said = _Outcomes(rows, failed.total(), dict(failed.most_common(_NAMED)))
        self._store.put(f"{self._folder}/outcomes-{self._inputs}.json", seal(asdict(said)))

    def _stop(self, rows: int, failed: int, most: Counter[str]) -> None:
        """Refuses the plan, and leaves the table of what failed in its finished shards."""
        causes = ", ".join(f"{count} {cause}" for cause, count in most.most_common(_NAMED))
        reason = (
            f"{failed} of the first {rows} rows failed, more than half: {causes}. The other "
            f"{max(0, self._planned - rows)} were not asked for; check the list and its addresses. What is finished is "
            "kept; early_stop: false (--no-early-stop) goes on with the rest all the same"
        )
        store, plan = self._store, self._plan
        parent = None if plan.parent is None else read_snapshot(store, plan.parent)
        told = [path.removeprefix(f"{self._folder}/outcomes-") for path in store.list(self._folder)]
        inputs = [name.removesuffix(".json") for name in told if "/" not in name]
        finished = [(CLIPS, name) for name in inputs if find_receipt(store, CLIPS, name) is not None]
        with BuildResult(store, plan, parent, finished) as result:
            refuse(store, plan.hash, reason, result.write_failures(self._folder))
        raise JobFailed(reason)


def _place(address: str) -> str:
    """Where a video was looked for, without what an address tells of users and paths."""
    parts = urlsplit(address)
    if not (parts.scheme and parts.netloc):
        return "in local files" if not parts.scheme else f"at {parts.scheme}"
    return f"at {parts.netloc.rpartition('@')[2]}"
