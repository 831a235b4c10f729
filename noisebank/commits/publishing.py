"""From a plan and the receipts of its shards to what a commit changes, by ranges of numbers: memory stays small.

What the shards made is read receipt by receipt and spilled by ranges. Then each range of the plan's tables is filled in
and written to a scratch folder, from which the commit reads it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.commits.delta import Delta
from noisebank.commits.gates import FailureCount
from noisebank.errors import BankDamaged
from noisebank.format.manifest import Snapshot
from noisebank.format.reading import BUILD_AGAIN, PARQUET
from noisebank.format.receipts import Receipt, failures_table, find_receipts, segment_of
from noisebank.format.schemas import FAILURES, RECORDS, ROWS
from noisebank.format.stage_names import CAPTIONS, CLIPS, PLAN, StageName
from noisebank.format.status import Status
from noisebank.format.tables import FAILURE_KEY, OverlayTable, matches, merge, write_segment
from noisebank.planning.claims import read_shard_rows
from noisebank.planning.parent import to_columns
from noisebank.planning.plan import Plan
from noisebank.planning.spill import Spool, partition_range
from noisebank.storage import BankWriter, FileEntry, Store, open_store

_PARTITION_ROWS = 1 << 17
_FAILED = "failed"
_LEARNT = ("dim", "replay_error")
"""What the ``info`` of a receipt says of the stage's model, beside its ``description``."""
_HEALED = {**{field.name: "" if field.type == pa.string() else 0 for field in FAILURES}, "retryable": False}
_MADE = {
    CLIPS: pa.schema([ROWS.field(name) for name in ("num", "video", "clip_file", "clip_row", "status")]),
    CAPTIONS: pa.schema([ROWS.field(name) for name in ("num", "caption", "caption_file", "caption_row")]),
    _FAILED: FAILURES,
}
"""What is spilled, by stage; of stages over clips it is records."""
_CLAIMED = {CLIPS: ("num", "match", "file", "row", "status"), CAPTIONS: ("num", "match", "file", "row")}
"""The same columns as the rows of a finished shard have them; those of records have their names there too."""


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
        records = {name.removeprefix("records/"): self._write(name, partial(self._records, name)) for name in names}
        return Delta(
            rows=self._write("rows", self._rows),
            records={name: table for name, table in records.items() if table.entries},
            failures=self._write("failures", self._failure_rows, FAILURE_KEY),
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
                models[receipt.stage] |= learnt | {name: receipt.info[name] for name in _LEARNT if name in receipt.info}
        return models

    def write_failures(self, folder: str) -> list[FileEntry]:
        """Writes the table of failures, of a build that publishes nothing, into a folder of the bank."""
        tables = map(self._failure_rows, range(1 << self._bits))
        written = write_segment(BankWriter(self.store), folder, tables, PARQUET)
        return [written] if written else []

    def _write(self, name: str, read: Callable[[int], pa.Table], key: tuple[str, ...] = ("num",)) -> OverlayTable:
        """A table of the commit, in the scratch folder; ``read`` gives the rows of a partition."""
        written = write_segment(BankWriter(self._scratch), name, map(read, range(1 << self._bits)))
        return OverlayTable(self._scratch, [written] if written else (), key)

    def _spool(self, stage: str) -> Spool:
        """What the shards of a stage made, or what failed in any."""
        if stage not in self._made:
            schema = _MADE.get(stage, RECORDS)
            self._made[stage] = Spool(self._scratch, stage.replace("/", "-"), schema, self._bits)
        return self._made[stage]

    def _take(self, receipt: Receipt) -> None:
        self.failed.add(receipt.failures)
        self.receipts.append(_drop_failures(receipt))
        self.failure_counts.append(len(receipt.failures))
        self._spool(_FAILED).add(failures_table(receipt.failures))
        schema, columns = _MADE.get(receipt.stage, RECORDS), _CLAIMED.get(receipt.stage, RECORDS.names)
        for table in read_shard_rows(self.store, receipt):
            self._spool(receipt.stage).add(table.select(columns).rename_columns(schema.names))

    def _read_planned(self, name: str, partition: int, schema: pa.Schema) -> pa.Table:
        return self._read(self.plan.changes.get(name, ()), partition, schema)

    def _read(self, entries: Sequence[FileEntry], partition: int, schema: pa.Schema) -> pa.Table:
        key = FAILURE_KEY if schema is FAILURES else ("num",)
        return OverlayTable(self.store, entries, key, schema).slice(*partition_range(partition, self._bits))

    def _rows(self, partition: int) -> pa.Table:
        """The plan's rows with what their shards made of them."""
        planned = self._read_planned("rows", partition, ROWS)
        columns = {name: planned.column(name).to_numpy().copy() for name in ROWS.names}
        for stage in (CLIPS, CAPTIONS):
            made = to_columns(self._spool(stage).read(partition))
            at, found = matches(columns["num"], made.pop("num"))
            if not found.all():
                raise BankDamaged(f"plan {self.plan.hash}: {stage} has rows that it does not know; {BUILD_AGAIN}")
            if stage == CLIPS:
                good = made["clip_row"] >= 0  # (a row whose new video cannot be had keeps what it had)
                columns["status"][at] = np.where(good, Status.PENDING, made.pop("status"))
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

    def _records(self, name: str, partition: int) -> pa.Table:
        """The records of a stage over clips that were made, failed, or changed in the plan already."""
        stage = StageName.of_records(name.removeprefix("records/")).name
        return merge([self._read_planned(name, partition, RECORDS), self._spool(stage).read(partition).sort_by("num")])

    def _failure_rows(self, partition: int) -> pa.Table:
        """Failures of this build, those that the plan found, and an empty code for what has healed."""
        made = self._spool(_FAILED).read(partition)
        known = self._read(self.parent.failures if self.parent else (), partition, FAILURES)
        known = known.filter((pc.field("code") != "") & (pc.field("stage") != PLAN))
        firsts = dict(zip(zip(*_keys(known), strict=True), known.column("first_snapshot").to_pylist(), strict=True))
        first = [firsts.get(key, 0) for key in zip(*_keys(made), strict=True)]
        at = FAILURES.get_field_index("first_snapshot")
        made = made.set_column(at, FAILURES.field(at), pa.array(first, pa.int64()))
        planned = self._read_planned("failures", partition, FAILURES)
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


def _drop_failures(receipt: Receipt) -> Receipt:
    return dataclasses.replace(receipt, failures=())


def _keys(failures: pa.Table) -> tuple[list[int], list[str]]:
    return failures.column("num").to_pylist(), failures.column("stage").to_pylist()
