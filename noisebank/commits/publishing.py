"""From a plan and the receipts of its shards to what a commit changes, and whether it may be published at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisebank.commits.delta import Delta
from noisebank.errors import BankDamaged, JobFailed
from noisebank.format.manifest import IndexSegment, Snapshot
from noisebank.format.receipts import Failure, Receipt
from noisebank.format.status import Status
from noisebank.format.tables import FAILURE_KEY, OverlayTable, matches, merge, read_beside_noise
from noisebank.planning.claims import claimed_receipts
from noisebank.planning.plan import Plan
from noisebank.planning.reduce import PLAN_STAGE
from noisebank.storage import FileEntry, Store

Nums = npt.NDArray[np.int64]
_EXAMPLES = 3
_FAILURE_FIELDS = [member.name for member in fields(Failure)]


@dataclass(frozen=True)
class Schemas:
    """The schemas of the tables that a commit writes."""

    rows: pa.Schema
    records: pa.Schema
    failures: pa.Schema


@dataclass
class Outcome:
    """What the shards of a plan came to.

    Args:
        store: the bank.
        plan: that was carried out.
        parent: the snapshot that it updates.
        receipts: of every shard of the plan, in any order.
        schemas: of the tables.
        index: the new index segment, if captions were made, and the paths of the index files that it replaces.
    """

    store: Store
    plan: Plan
    parent: Snapshot | None
    receipts: Sequence[Receipt]
    schemas: Schemas
    index: IndexSegment | None = None
    replaces: frozenset[str] = frozenset()
    _good: dict[str, Nums] = field(default_factory=dict)

    def delta(self) -> Delta:
        """What the commit changes.

        Raises:
            BankDamaged: a data file does not have the rows that its receipt or the plan promises, or is gone.
        """
        rows = self._rows()
        records = {name: self._records(name) for name in self.plan.fingerprints["noise"]}
        records |= {
            name: _tables(self.store, files) for name, files in self.plan.records.items() if name not in records
        }
        failures = self.failures()
        return Delta(
            rows=[rows] if rows.num_rows else [],
            records={name: [table] for name, table in records.items() if table is not None and table.num_rows},
            failures=[failures] if failures.num_rows else [],
            receipts=sorted([*self.receipts, *self.claimed], key=lambda receipt: receipt.path),
            index=self.index,
            replaces=self.replaces,
        )

    @cached_property
    def claimed(self) -> list[Receipt]:
        """The receipts of the finished shards that the plan took over.

        Raises:
            BankDamaged: one of them has disappeared.
        """
        return claimed_receipts(self.store, self.plan)

    @cached_property
    def failed(self) -> list[Failure]:
        """Every failure of the plan's shards and of the finished shards that it took over, by number and stage."""
        failures = [failure for receipt in self.receipts for failure in receipt.failures]
        planned = _tables(self.store, self.plan.failures)
        if planned is not None:
            taken_over = planned.filter((pc.field("code") != "") & (pc.field("stage") != PLAN_STAGE))
            failures += [Failure(**row) for row in taken_over.select(_FAILURE_FIELDS).to_pylist()]
        return sorted(failures, key=lambda failure: (failure.num, failure.stage))

    def failed_by_code(self) -> dict[str, int]:
        """Failures of this build by code, most first."""
        counts = Counter(failure.code for failure in self.failed)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def check_failures(self, max_failed: float) -> None:
        """Refuses to publish when too many of the rows that the parent does not know as they are now failed.

        Raises:
            JobFailed: says what :meth:`too_many_failed` says, and what can be done.
        """
        problem = self.too_many_failed(max_failed)
        if problem:
            permanent = ",".join(sorted({failure.code for failure in self.failed if not failure.retryable}))
            unless = "which are not tried again otherwise, unless their rows change"
            retried = f" with --retry-failures {permanent}, {unless}" if permanent else ""
            raise JobFailed(
                f"nothing is published: {problem}. 'noisebank failures {self.store.url} --unpublished' lists them all. "
                f"Mend what failed and run 'build', or 'clips' and the stages after it, again{retried}; or run this "
                "command again with a larger max_failed. Finished work is kept"
            )

    def too_many_failed(self, max_failed: float) -> str:
        """The share of rows, or of the clips of a noise set, that is above ``max_failed``, with the commonest codes and
        examples; empty if none is."""
        for what, failed, tried in self._shares():
            if tried and failed > max_failed * tried:
                by_code = self.failed_by_code() | {"invalid": self.plan.counts["newly_invalid"]}
                codes = ", ".join(f"{count} {code}" for code, count in by_code.items() if count)
                examples = "; ".join(f"{f.id}: {f.message}" for f in self.failed[:_EXAMPLES])
                share = f"{failed} of {tried} {what} failed, more than max_failed {max_failed:g}"
                return f"{share}. Failed: {codes}" + (f". {examples}" if examples else "")
        return ""

    def _shares(self) -> Iterator[tuple[str, int, int]]:
        """What is held against ``max_failed``: a name, how many failed, how many were tried."""
        counts = self.plan.counts
        failed = {failure.num for failure in self.failed}
        fresh = self._fresh(np.array(sorted(failed), np.int64))
        tried = counts["new"] + counts["changed"] + counts["newly_invalid"]
        yield "rows", len(fresh) + counts["newly_invalid"], tried
        known = self._known_failures()
        for stage, tasks in self.plan.tasks.items():
            if stage.startswith("noise/"):  # (a new set, or new options, over clips that are there already)
                first = {f.num for f in self.failed if f.stage == stage and (f.num, stage) not in known}
                tried = sum(task.rows for task in tasks) + self._taken_over(stage.removeprefix("noise/"))
                yield f"clips of {stage}", len(first - set(fresh.tolist())), tried

    def _taken_over(self, name: str) -> int:
        """How many known rows have a record, or failed to get one, in finished shards that the plan took over."""
        planned = _tables(self.store, self.plan.records.get(name, ()))
        if planned is None:
            return 0
        nums = planned.filter(pc.field("status") != int(Status.REMOVED)).column("num").to_numpy()
        return len(nums) - len(self._fresh(nums))

    def _fresh(self, nums: Nums) -> Nums:
        """Those of the sorted ``nums`` that are new, or listed otherwise than in the parent."""
        if self.parent is None or not len(nums):
            return nums
        now = _columns(_tables(self.store, self.plan.rows), nums, "listed")
        before = np.zeros(len(nums), np.uint64)
        for piece in OverlayTable(self.store, self.parent.rows).slices():
            at, found = matches(piece.column("num").to_numpy(), nums)
            before[found] = piece.column("listed").to_numpy()[at[found]]
        fresh: Nums = nums[(now != before) & (now != 0)]  # (0: the plan leaves the row as it is)
        return fresh

    def _rows(self) -> pa.Table:
        """The plan's rows with what their shards made of them."""
        planned = _tables(self.store, self.plan.rows)
        if planned is None:
            return self.schemas.rows.empty_table()
        columns = {name: planned.column(name).to_numpy().copy() for name in self.schemas.rows.names}
        nums = columns["num"]
        for receipt in self._of("clips"):
            made = self._read(receipt.files[-1], ("num", "video", "clip_row", "retryable"))
            at = _places(nums, made.column("num").to_numpy(), receipt.path)
            rows = made.column("clip_row").to_numpy()
            good = rows >= 0
            columns["clip_file"][at[good]] = receipt.files[0].key
            columns["clip_row"][at[good]] = rows[good]
            columns["video"][at[good]] = made.column("video").to_numpy()[good]
            retryable = pc.fill_null(made.column("retryable"), False).to_numpy()
            columns["status"][at] = np.where(good, Status.PENDING, np.where(retryable, Status.RETRYABLE, Status.FAILED))
        for receipt in self._of("captions"):
            for entry in receipt.files:
                made = self._read(entry, ("num", "caption_hash"))
                at = _places(nums, made.column("num").to_numpy(), receipt.path)
                columns["caption_file"][at] = entry.key
                columns["caption_row"][at] = np.arange(made.num_rows)
                columns["caption"][at] = made.column("caption_hash").to_numpy()
        status = columns["status"]
        clipless = (columns["clip_file"] == 0) & (status != Status.REMOVED)
        for name, nothing in (("caption", 0), ("caption_file", 0), ("caption_row", -1)):
            columns[name][clipless] = nothing  # (a clip that other options took away is not to be found any more)
        waiting = status == Status.PENDING
        if (waiting & ((columns["clip_file"] == 0) | (columns["caption_file"] == 0))).any():
            raise BankDamaged(f"plan {self.plan.hash}: rows are left without a clip or a caption; run the build again")
        status[waiting] = Status.OK
        return pa.table(columns, self.schemas.rows)

    def _records(self, name: str) -> pa.Table:
        """The records of a noise set that were made, failed, or changed in the plan already."""
        tables = [self.schemas.records.empty_table()]
        planned = _tables(self.store, self.plan.records.get(name, ()))
        if planned is not None:
            tables.append(planned.cast(self.schemas.records))
        for receipt in self._of(f"noise/{name}"):
            for entry in receipt.files:
                made = self._read(entry, ("num", "checksum"))
                rows = {"file": np.full(made.num_rows, entry.key, np.uint64), "row": np.arange(made.num_rows)}
                tables.append(self._made_records(made, rows, np.full(made.num_rows, Status.OK)))
            failed = sorted(receipt.failures, key=lambda failure: failure.num)
            made = pa.table({"num": [failure.num for failure in failed], "checksum": [0] * len(failed)})
            states = [Status.RETRYABLE if failure.retryable else Status.FAILED for failure in failed]
            tables.append(self._made_records(made, {"file": [0] * len(failed), "row": [-1] * len(failed)}, states))
        return merge(tables)

    def _made_records(self, made: pa.Table, rows: Mapping[str, Any], status: Iterable[int]) -> pa.Table:
        columns = {"num": made.column("num"), **rows, "checksum": made.column("checksum"), "status": list(status)}
        types = {field.name: field.type for field in self.schemas.records}
        arrays = {
            name: pa.array(values, types[name]) if not isinstance(values, pa.ChunkedArray) else values.cast(types[name])
            for name, values in columns.items()
        }
        return pa.table(arrays, self.schemas.records)

    def failures(self) -> pa.Table:
        """Failures of this build, those that the plan found, and an empty code for what has healed, by number."""
        schema = self.schemas.failures
        failed = self.failed
        known = self._known_failures()
        columns = {name: [getattr(failure, name) for failure in failed] for name in _FAILURE_FIELDS}
        columns["first_snapshot"] = [known.get((failure.num, failure.stage), 0) for failure in failed]
        made = pa.table({**columns, "last_snapshot": [0] * len(failed)}, schema)
        healed = pa.Table.from_pylist(
            [
                dict.fromkeys(("id", "source", "uri", "code", "message"), "")
                | {"num": num, "stage": stage, "retryable": False, "attempts": 0}
                | {"first_snapshot": 0, "last_snapshot": 0}
                for num, stage in sorted(known)
                if np.isin(num, self._succeeded(stage))
            ],
            schema,
        )
        planned = _tables(self.store, self.plan.failures)
        tables = [schema.empty_table(), *([planned.cast(schema)] if planned is not None else []), healed, made]
        return merge(tables, FAILURE_KEY)

    def _known_failures(self) -> dict[tuple[int, str], int]:
        """The snapshot that first recorded each failure of the parent at a stage that this build carried out."""
        if self.parent is None or not self.parent.failures:
            return {}
        table = OverlayTable(self.store, self.parent.failures, FAILURE_KEY).read()
        table = table.filter(
            pc.and_(pc.not_equal(table.column("code"), ""), pc.not_equal(table.column("stage"), PLAN_STAGE))
        )
        names = ("num", "stage", "first_snapshot")
        return {
            (num, stage): first for num, stage, first in zip(*(table.column(n).to_pylist() for n in names), strict=True)
        }

    def _succeeded(self, stage: str) -> Nums:
        """Numbers of the clips that this build made at a stage."""
        if stage not in self._good:
            found = [np.zeros(0, np.int64)]
            for receipt in self._of(stage):
                failed = [failure.num for failure in receipt.failures]
                if receipt.files:
                    nums = self._read(receipt.files[-1], ("num",)).column("num").to_numpy()
                    found.append(np.setdiff1d(nums, failed))
            self._good[stage] = np.concatenate(found)
        return self._good[stage]

    def _of(self, stage: str) -> list[Receipt]:
        return [receipt for receipt in self.receipts if receipt.stage == stage]

    def _read(self, entry: FileEntry, columns: Sequence[str]) -> pa.Table:
        """Some columns of a data file, Parquet or Arrow."""
        try:
            with self.store.open(entry.path) as file:
                if entry.path.endswith(".parquet"):
                    table = pq.read_table(file, columns=list(columns))
                else:
                    table = read_beside_noise(file).select(list(columns))
        except (FileNotFoundError, pa.ArrowException) as error:
            raise BankDamaged(f"{entry.path}: missing or damaged ({error}); run the build again") from error
        return table


def _tables(store: Store, files: Sequence[FileEntry]) -> pa.Table | None:
    """Files of a plan as one table, sorted as they are; None where there is none."""
    if not files:
        return None
    return pa.concat_tables([OverlayTable(store, [entry], ("num",)).read() for entry in files])


def _places(nums: Nums, wanted: Nums, name: str) -> Nums:
    at, found = matches(nums, wanted)
    if not found.all():
        raise BankDamaged(f"{name}: its shard has clips that the plan does not know; run the build again")
    return at


def _columns(table: pa.Table | None, nums: Nums, name: str) -> npt.NDArray[np.uint64]:
    """The values of a column for ``nums``, 0 where they are not in the table."""
    values = np.zeros(len(nums), np.uint64)
    if table is not None:
        at, found = matches(table.column("num").to_numpy(), nums)
        values[found] = table.column(name).to_numpy()[at[found]]
    return values
