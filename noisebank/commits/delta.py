"""What a commit changes, and the snapshot that it makes of the one before."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import BankDamaged
from noisebank.format.index_deletions import mark_deleted, read_nums
from noisebank.format.manifest import EMPTY, IndexSegment, Snapshot
from noisebank.format.parts import part_rows, update_parts
from noisebank.format.reading import PARQUET, reading
from noisebank.format.receipts import Receipt
from noisebank.format.schemas import FAILURES
from noisebank.format.stage_names import INDEX, StageName, nest
from noisebank.format.status import Status
from noisebank.format.tables import ARROW, FAILURE_KEY, OverlayTable, merge_from, nums_of, write_segment
from noisebank.format.tally import Tally, count_failures, tally
from noisebank.ids import Nums, source_number
from noisebank.storage import BankWriter, FileEntry, Store
from noisebank.storage.files import hash_stored

Tables = Iterable[pa.Table]


@dataclass(frozen=True)
class Delta:
    """What a commit changes. Tables come in ascending ``num``, and may be asked for more than once.

    Args:
        rows: new state of every row touched (:data:`noisebank.format.schemas.ROWS`), tombstones included.
        records: new state of every record touched (``RECORDS``), by the key of its table in the snapshot.
        failures: new, changed and healed failures (``FAILURES``); a 0 in ``first_snapshot`` or
            ``last_snapshot`` stands for the snapshot being committed.
        receipts: of all shards whose files come into the bank, the index's included.
        index: a segment over the captions made, or, if it ``replaces`` others, over theirs too.
        replaces: paths of the index files that leave the snapshot.
        drops: names of stages over clips that leave the snapshot with all their records and failures; whoever drops
            stages changes no other failures.
        touches: numbers that count as changed beside those in the tables.
        purges: whether every overlay table becomes one segment, without tombstones and healed failures.
    """

    rows: Tables = ()
    records: Mapping[str, Tables] = field(default_factory=dict)
    failures: Tables = ()
    receipts: Sequence[Receipt] = ()
    index: IndexSegment | None = None
    replaces: frozenset[str] = frozenset()
    drops: frozenset[str] = frozenset()
    touches: Nums = field(default_factory=lambda: np.zeros(0, np.int64))
    purges: bool = False

    def touched(self) -> Nums:
        """The sorted numbers of all rows that it changes in any table."""
        tables = chain(self.rows, *self.records.values(), self.failures)
        return np.union1d(self.touches, nums_of(tables))

    def is_empty(self) -> bool:
        """Whether it changes nothing at all."""
        return not (self.index or self.replaces or self.drops or self.purges or len(self.touched()))


@dataclass(frozen=True)
class CommitInfo:
    """What a snapshot says about the job that made it; what is not given is as in the snapshot before.

    Args:
        run_id: of the job; a commit that is repeated with it finds its own snapshot. By default one of its own.
        operation: ``build``, ``compact``, ``repair`` or ``vacuum``.
        plan: hash of the plan carried out.
        fingerprints: of the stages, by name.
        models: what readers must know of the models, by stage.
        made_with: what the output of the stages depends on, by name.
        noise_sets: the sets of the configuration.
        sources: the names of the sources of the configuration.
        counts: rows of the build.
        stages: what they came to (:func:`noisebank.stages.job.stage_figures`).
    """

    run_id: str = ""
    operation: str = "build"
    plan: str = ""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    made_with: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    noise_sets: tuple[str, ...] | None = None
    sources: Collection[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def draft(store: Store, base: Snapshot | None, delta: Delta, info: CommitInfo, touched: Nums, moved: Nums) -> Snapshot:
    """Writes every file of the snapshot that follows ``base``, but not the snapshot itself.

    Args:
        store: the bank.
        base: the newest snapshot, or None.
        delta: what changes.
        info: about the job.
        touched: ``delta.touched()``.
        moved: numbers whose caption was changed by others since ``delta`` was planned, for a replacing index.
    """
    base = _drop_stages(base or EMPTY, delta.drops)
    changed = _heal_stages(store, base, delta.drops) if delta.drops else delta.failures
    noise_sets = base.noise_sets if info.noise_sets is None else info.noise_sets
    writer, number = BankWriter(store, base.vacuum), base.number + 1
    extend = partial(_extend, writer, delta.purges)
    rows = extend("rows", base.rows, delta.rows, _is_removed())
    records = {
        key: extend(f"records/{key}", base.records.get(key, ()), delta.records.get(key, ()), _is_removed())
        for key in sorted({*base.records, *delta.records, *noise_sets})
    }
    numbered = (_number(table, number) for table in changed)
    failures = extend("failures", base.failures, numbered, _is_healed(), FAILURE_KEY, PARQUET)
    counted = tally(store, rows, records, noise_sets)
    new = part_rows(receipt for receipt in delta.receipts if receipt.stage != INDEX)
    kinds = sorted({*base.parts, *new})
    parts = {kind: update_parts(writer, base.parts.get(kind, ()), new.get(kind), counted.live(kind)) for kind in kinds}
    index = _update_index(writer, base.index, delta, moved)
    names = {*base.sources, *info.sources}
    return Snapshot(
        number=number,
        uuid=uuid.uuid4().hex,
        parent=base.number or None,
        operation=info.operation,
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        run_id=info.run_id or f"{info.operation}-{uuid.uuid4().hex}",
        plan=info.plan,
        fingerprints=_merge(base.fingerprints, nest(info.fingerprints)),
        models=_merge(base.models, nest(info.models)),
        made_with={**base.made_with, **info.made_with},
        counts=dict(info.counts),
        stages=dict(info.stages),
        sources=name_sources(counted, names),
        noise_sets=noise_sets,
        in_bank=counted.in_bank,
        record_counts={name: counted.records[name] for name in records},
        failure_counts=count_failures(OverlayTable(store, failures, FAILURE_KEY)),
        data_bytes=sum(size for _, size in parts.values()),
        parts={kind: entries for kind, (entries, _) in parts.items()},
        rows=rows,
        records=records,
        failures=failures,
        index=index,
        touched=write_segment(writer, "touched", pa.table({"num": touched})),
        vacuum=base.vacuum,
        expired=base.expired,
    )


def name_sources(counted: Tally, names: Iterable[str]) -> dict[str, int]:
    """Rows of each source by its name; sources without rows are left out."""
    rows = {name: counted.sources[source_number(name)] for name in sorted(names)}
    return {name: number for name, number in rows.items() if number}


def _extend(
    writer: BankWriter,
    purges: bool,
    folder: str,
    entries: tuple[FileEntry, ...],
    tables: Tables,
    gone: pc.Expression,
    key: tuple[str, ...] = ("num",),
    suffix: str = ARROW,
) -> tuple[FileEntry, ...]:
    """The segments ``entries`` of a table and one more with ``tables``, those merged that have become too many; rows
    that are ``gone`` leave when all are.

    Raises:
        BankDamaged: a segment that is to be merged differs from its checksum: the merged one would hide it.
    """
    new = write_segment(writer, folder, tables, suffix)
    if new is not None:
        entries = (*entries, new)
    elif not purges:
        return entries
    first = 0 if purges else merge_from([entry.rows for entry in entries])
    if first == len(entries):
        return entries
    for entry in entries[first:]:
        with reading(entry.path):
            digest = hash_stored(writer.store, entry.path)
        if digest != entry.sha256:
            raise BankDamaged(f"{entry.path}: its content differs from its checksum; run verify")
    merged: Tables = OverlayTable(writer.store, entries[first:], key).slices()
    if first == 0:
        merged = (table.filter(~gone) for table in merged)
    written = write_segment(writer, folder, merged, suffix)
    return (*entries[:first], written) if written else entries[:first]


def _merge(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """``now`` over ``before``, in the form of snapshots; sets that are not configured now are kept."""
    merged = {
        kind: {**before.get(kind, {}), **value} if isinstance(value, Mapping) else value for kind, value in now.items()
    }
    return {**before, **merged}


def _drop_stages(base: Snapshot, dropped: Collection[str]) -> Snapshot:
    """A snapshot without the records, files and descriptions of some stages over clips."""
    keys = {StageName.parse(name).records for name in dropped}

    def keep(nested: Mapping[str, Any]) -> dict[str, Any]:
        return {
            kind: {set: one for set, one in value.items() if f"{kind}/{set}" not in dropped}
            if isinstance(value, Mapping)
            else value
            for kind, value in nested.items()
        }

    return dataclasses.replace(
        base,
        fingerprints=keep(base.fingerprints),
        models=keep(base.models),
        made_with={name: options for name, options in base.made_with.items() if name not in dropped},
        noise_sets=tuple(name for name in base.noise_sets if name not in keys),
        records={key: entries for key, entries in base.records.items() if key not in keys},
        parts={kind: entries for kind, entries in base.parts.items() if kind not in dropped},
    )


def _heal_stages(store: Store, base: Snapshot, dropped: Collection[str]) -> Iterator[pa.Table]:
    """What takes the place of the failures of dropped stages."""
    for piece in OverlayTable(store, base.failures, FAILURE_KEY, FAILURES).slices():
        piece = piece.filter(pc.field("stage").isin(list(dropped)) & ~_is_healed())
        blank = {name: pa.array([""] * piece.num_rows, pa.string()) for name in ("code", "message")}
        yield pa.table({name: blank.get(name, piece.column(name)) for name in FAILURES.names}, FAILURES)


def _number(table: pa.Table, number: int) -> pa.Table:
    """A table of failures with the number of the snapshot in place of 0."""
    for name in ("first_snapshot", "last_snapshot"):
        column = table.column(name)
        column = pc.if_else(pc.equal(column, 0), pa.scalar(number, pa.int64()), column)
        table = table.set_column(table.schema.get_field_index(name), FAILURES.field(name), column)
    return table


def _update_index(
    writer: BankWriter, segments: tuple[IndexSegment, ...], delta: Delta, moved: Nums
) -> tuple[IndexSegment, ...]:
    """The segments after a commit, those before it with more bits set, and the new one; ``moved`` are the numbers whose
    caption others changed since it was built: theirs counts."""
    fresh = read_nums(writer.store, delta.index) if delta.index else np.zeros(0, np.int64)
    is_unsearchable = _is_removed() | (pc.field("caption_file") == pa.scalar(0, pa.uint64()))
    unsearchable = nums_of(table.filter(is_unsearchable) for table in delta.rows)
    gone = np.union1d(unsearchable, np.setdiff1d(fresh, moved))
    present = [segment for segment in segments if segment.index.path not in delta.replaces]
    kept = [mark_deleted(writer, segment, gone) for segment in present]
    if delta.index:
        kept.append(mark_deleted(writer, delta.index, np.union1d(unsearchable, moved)))
    return tuple(segment for segment in kept if segment.live)


def _is_removed() -> pc.Expression:
    """A function, as the next one: a constant would load pandas, as scalars of pyarrow do, when a command starts."""
    return pc.field("status") == int(Status.REMOVED)


def _is_healed() -> pc.Expression:
    return pc.field("code") == ""
