"""From a plan and the receipts of its shards to what a commit changes, by ranges of numbers: memory stays small.

What the shards made is read receipt by receipt and spilled by ranges. Then each range of the plan's tables is filled in
and written to a scratch folder, from which the commit reads it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.commits.delta import Delta
from noisebank.commits.gates import FailureCount
from noisebank.errors import BankDamaged
from noisebank.format.manifest import Snapshot
from noisebank.format.reading import BUILD_AGAIN, PARQUET, read_records, read_table
from noisebank.format.receipts import Receipt, failures_table, find_receipts, segment_of
from noisebank.format.schemas import FAILURES, RECORDS, ROWS
from noisebank.format.stage_names import CAPTIONS, CLIPS, PLAN, StageName
from noisebank.format.status import Status, failure_status
from noisebank.format.tables import FAILURE_KEY, OverlayTable, matches, merge, write_segment
from noisebank.planning.parent import to_columns
from noisebank.planning.plan import Plan
from noisebank.planning.spill import Spool, partition_range
from noisebank.storage import BankWriter, FileEntry, Store, open_store

Nums = npt.NDArray[np.int64]
_PARTITION_ROWS = 1 << 17
_FAILED = "failed"
_HEALED = {**{field.name: "" if field.type == pa.string() else 0 for field in FAILURES}, "retryable": False}
_MADE: dict[str, pa.Schema] = {
    CLIPS: pa.schema([ROWS.field(name) for name in ("num", "video", "clip_file", "clip_row", "status")]),
    CAPTIONS: pa.schema([ROWS.field(name) for name in ("num", "caption", "caption_file", "caption_row")]),
    _FAILED: FAILURES,
}


class BuildResult:
    """What the shards of a plan came to. A context manager, which removes its scratch folder.

    Args:
        store: the bank.
        plan: that was carried out.
        parent: the snapshot that it updates.
        shards: ``(stage, inputs)`` of every finished shard of the plan, in any order.
    """

    def __init__(self, store: Store, plan: Plan, parent: Snapshot | None, shards: Iterable[tuple[str, str]]) -> None:
        self.plan, self.parent, self.store = plan, parent, store
        self._folder = tempfile.TemporaryDirectory(prefix="noisebank-publish-")
        self._scratch = open_store(self._folder.name)
        self.failed = FailureCount(store, plan, parent)
        rows = sum(entry.rows for entries in plan.changes.values() for entry in entries)
        rows += sum(task.rows for tasks in plan.tasks.values() for task in tasks)
        self._bits = max(0, (rows // _PARTITION_ROWS).bit_length())
        self._made: dict[str, Spool] = {}
        self.receipts: list[Receipt] = []
        """Of all shards, without the failures."""
        self.failure_counts: list[int] = []
        """Failures of each receipt."""
        for receipt in find_receipts(store, shards):
            self._take(receipt)

    def __enter__(self) -> BuildResult:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def delta(self, index: Receipt | None = None) -> Delta:
        """What the commit changes; its tables are read from the scratch folder.

        Args:
            index: the receipt of the new index segment, if captions were made.

        Raises:
            BankDamaged: a data file does not have the rows that its receipt or the plan promises, or is gone.
        """
        claimed = map(_drop_failures, find_receipts(self.store, self.plan.claimed))
        receipts = [*self.receipts, *claimed, *([index] if index else [])]
        segment, replaces = segment_of(index) if index else (None, frozenset[str]())
        stages = [stage for stage in map(StageName.parse, self._made) if stage.is_over_clips]
        made = {f"records/{stage.records}" for stage in stages}
        names = sorted({*self.plan.changes, *made} - {"rows", "failures"})
        tables: dict[str, _Tables] = {name: _Tables(self._scratch) for name in ["rows", "failures", *names]}
        for partition in range(1 << self._bits):
            lo, hi = partition_range(partition, self._bits)
            tables["rows"].append(self._rows(lo, hi, partition))
            for name in names:
                tables[name].append(self._records(name, lo, hi, partition))
            tables["failures"].append(self._failure_rows(lo, hi, partition))
        return Delta(
            rows=tables["rows"],
            records={name.removeprefix("records/"): tables[name] for name in names if tables[name]},
            failures=tables["failures"],
            receipts=sorted(receipts, key=lambda receipt: receipt.path),
            index=segment,
            replaces=replaces,
        )

    def models(self) -> dict[str, Any]:
        """What readers must know of the models, by stage: as planned, with what workers learnt when they loaded
        them."""
        before = self.parent.models if self.parent else {}
        planned = self.plan.models
        models = {name: {**(StageName.parse(name).find(before) or {}), **model} for name, model in planned.items()}
        for receipt in [*find_receipts(self.store, self.plan.claimed), *self.receipts]:
            if receipt.stage in models:
                learnt = receipt.info.get("description", {})
                models[receipt.stage] |= learnt | ({"dim": receipt.info["dim"]} if "dim" in receipt.info else {})
        return models

    def write_failures(self, folder: str) -> list[FileEntry]:
        """Writes the table of failures, of a build that publishes nothing, into a folder of the bank."""
        partitions = range(1 << self._bits)
        tables = (self._failure_rows(*partition_range(i, self._bits), i) for i in partitions)
        written = write_segment(BankWriter(self.store), folder, tables, PARQUET)
        return [written] if written else []

    def _spool(self, stage: str) -> Spool:
        """What the shards of a stage made, or what failed in any."""
        if stage not in self._made:
            schema = _MADE.get(stage, RECORDS)
            self._made[stage] = Spool(self._scratch, stage.replace("/", "-"), schema, self._bits)
        return self._made[stage]

    def _take(self, receipt: Receipt) -> None:
        """Spills what a shard made and what failed in it."""
        self.failed.add(receipt.failures)
        self.receipts.append(_drop_failures(receipt))
        self.failure_counts.append(len(receipt.failures))
        self._spool(_FAILED).add(failures_table(receipt.failures))
        read = {CLIPS: _read_clips, CAPTIONS: _read_captions}.get(receipt.stage, _read_over_clips)
        for table in read(self.store, receipt):
            self._spool(receipt.stage).add(table)

    def _read_planned(
        self, name: str, lo: int, hi: int, schema: pa.Schema, key: tuple[str, ...] = ("num",)
    ) -> pa.Table:
        """The plan's delta of a table."""
        return OverlayTable(self.store, self.plan.changes.get(name, ()), key, schema).slice(lo, hi)

    def _rows(self, lo: int, hi: int, partition: int) -> pa.Table:
        """The plan's rows with what their shards made of them."""
        planned = self._read_planned("rows", lo, hi, ROWS)
        columns = {name: planned.column(name).to_numpy().copy() for name in ROWS.names}
        for stage in (CLIPS, CAPTIONS):
            made = to_columns(self._spool(stage).read(partition))
            at, found = matches(columns["num"], made.pop("num"))
            if not found.all():
                raise BankDamaged(f"plan {self.plan.hash}: {stage} has rows that it does not know; {BUILD_AGAIN}")
            if stage == CLIPS:
                columns["status"][at] = made.pop("status")
                good = made["clip_row"] >= 0  # (a row whose new video cannot be had keeps what it had)
                at, made = at[good], {name: values[good] for name, values in made.items()}
            for name, values in made.items():
                columns[name][at] = values
        status = columns["status"]
        clipless = (columns["clip_file"] == 0) & (status != Status.REMOVED)
        for name, nothing in (("caption", 0), ("caption_file", 0), ("caption_row", -1)):
            columns[name][clipless] = nothing  # (a clip that other options took away is not to be found any more)
        waiting = status == Status.PENDING
        if (waiting & ((columns["clip_file"] == 0) | (columns["caption_file"] == 0))).any():
            raise BankDamaged(f"plan {self.plan.hash}: rows are left without a clip or a caption; run the build again")
        status[waiting] = Status.OK
        return pa.table(columns, ROWS)

    def _records(self, name: str, lo: int, hi: int, partition: int) -> pa.Table:
        """The records of a stage over clips that were made, failed, or changed in the plan already."""
        stage = StageName.of_records(name.removeprefix("records/")).name
        return merge([self._read_planned(name, lo, hi, RECORDS), self._spool(stage).read(partition).sort_by("num")])

    def _failure_rows(self, lo: int, hi: int, partition: int) -> pa.Table:
        """Failures of this build, those that the plan found, and an empty code for what has healed."""
        made = self._spool(_FAILED).read(partition)
        entries = self.parent.failures if self.parent else ()
        known = OverlayTable(self.store, entries, FAILURE_KEY, FAILURES).slice(lo, hi)
        known = known.filter((pc.field("code") != "") & (pc.field("stage") != PLAN))
        firsts = dict(zip(zip(*_keys(known), strict=True), known.column("first_snapshot").to_pylist(), strict=True))
        first = [firsts.get(key, 0) for key in zip(*_keys(made), strict=True)]
        made = made.set_column(
            FAILURES.get_field_index("first_snapshot"), FAILURES.field("first_snapshot"), pa.array(first, pa.int64())
        )
        planned = self._read_planned("failures", lo, hi, FAILURES, FAILURE_KEY)
        tables = (planned, self._heal(known, partition), made)
        return merge([table.sort_by([(name, "ascending") for name in FAILURE_KEY]) for table in tables], FAILURE_KEY)

    def _heal(self, known: pa.Table, partition: int) -> pa.Table:
        """What takes the place of the failures of the clips that were made now."""
        healed: list[dict[str, Any]] = []
        for stage in pc.unique(known.column("stage")).to_pylist():
            made = self._spool(stage).read(partition)
            if "status" in made.column_names:
                made = made.filter(~pc.field("status").isin([int(Status.FAILED), int(Status.RETRYABLE)]))
            here = (pc.field("stage") == stage) & pc.field("num").isin(made.column("num").combine_chunks())
            healed += [{**_HEALED, **key} for key in known.filter(here).select(FAILURE_KEY).to_pylist()]
        return pa.Table.from_pylist(healed, FAILURES)


class _Tables(Sequence[pa.Table]):
    """Tables in a scratch folder, read one at a time; those without rows are left out."""

    def __init__(self, scratch: Store) -> None:
        self._writer = BankWriter(scratch)
        self._entries: list[FileEntry] = []

    def append(self, table: pa.Table) -> None:
        if written := write_segment(self._writer, "tables", table):
            self._entries.append(written)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, i: Any) -> Any:
        return read_table(self._writer.store, self._entries[i].path)


def _drop_failures(receipt: Receipt) -> Receipt:
    return dataclasses.replace(receipt, failures=())


def _keys(failures: pa.Table) -> tuple[list[int], list[str]]:
    return failures.column("num").to_pylist(), failures.column("stage").to_pylist()


def _read_clips(store: Store, receipt: Receipt) -> Iterator[pa.Table]:
    sidecar = receipt.files[-1]
    made = read_table(store, sidecar.path, ["num", "video", "clip_row", "retryable"], remedy=BUILD_AGAIN)
    num, video, row, retryable = made.columns
    failed = failure_status(retryable.fill_null(False).to_numpy())
    status = np.where(row.to_numpy() >= 0, Status.PENDING, failed)
    file = np.full(made.num_rows, sidecar.key, np.uint64)
    yield _table(CLIPS, num=num, video=video, clip_file=file, clip_row=row, status=status)


def _read_captions(store: Store, receipt: Receipt) -> Iterator[pa.Table]:
    for entry in receipt.files:
        made = read_table(store, entry.path, ["num", "caption_hash"], remedy=BUILD_AGAIN)
        num, caption = made.columns
        file = np.full(made.num_rows, entry.key, np.uint64)
        yield _table(CAPTIONS, num=num, caption=caption, caption_file=file, caption_row=np.arange(made.num_rows))


def _read_over_clips(store: Store, receipt: Receipt) -> Iterator[pa.Table]:
    for entry in receipt.files:
        made = read_records(store, entry)
        file, status = np.full(made.num_rows, entry.key, np.uint64), np.full(made.num_rows, Status.OK)
        columns = {"file": file, "row": np.arange(made.num_rows), "status": status}
        yield _table("", num=made.column("num"), checksum=made.column("checksum"), **columns)
    failed = receipt.failures
    status = failure_status(np.array([failure.retryable for failure in failed], bool))
    zeros = np.zeros(len(failed), np.uint64)
    nums = np.array([failure.num for failure in failed], np.int64)
    yield _table("", num=nums, file=zeros, row=np.full(len(failed), -1), checksum=zeros, status=status)


def _table(stage: str, **columns: Any) -> pa.Table:
    schema = _MADE.get(stage, RECORDS)
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)
