"""The last step of a plan: the results of all partitions, put together and cut into tasks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.config import to_mapping
from noisebank.format.parts import kind_of
from noisebank.format.reading import read_table
from noisebank.format.receipts import find_receipts
from noisebank.format.stage_names import CLIPS, StageName, over_clips
from noisebank.options import Config
from noisebank.planning.claims import ReceiptName
from noisebank.planning.cut import Task, TaskFile, cut_tasks, tar_tasks
from noisebank.planning.listing import Nums
from noisebank.planning.parent import Parent
from noisebank.planning.plan import BATCH_ROWS, FOLDER, Plan, plan_hash
from noisebank.planning.reduce import Reduced, row_numbers
from noisebank.planning.survey import Survey
from noisebank.sources import FILE_SHIFT
from noisebank.storage import BankWriter, FileEntry, Store

_DELTA_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class ReadRange:
    """What was read of one range of a list.

    Args:
        position: of its first row.
        rows: how many.
        digest: of what they say.
    """

    position: int
    rows: int
    digest: str


@dataclass(frozen=True)
class Scanned:
    """What all lists say, in short.

    Args:
        hash: of the plan that follows.
        starts: sorted positions of the first rows of all ranges.
        rows_before: rows of the same file before each range.
    """

    hash: str
    starts: Nums
    rows_before: Nums


@dataclass(frozen=True)
class PartitionFiles:
    """The files of one partition of a plan, and what it adds to the counts.

    Args:
        partition: its number.
        tasks: rows to do, by stage.
        changes: deltas of the snapshot's tables, by their names.
        locations: of duplicate and invalid rows, if there are any.
        tars: for the tasks of each stage over clips, ``(key of the tar, start, stop)`` of its rows.
        counts, sources, receipts: as of :class:`.reduce.Reduced`.
    """

    partition: int
    tasks: Mapping[str, FileEntry]
    changes: Mapping[str, FileEntry]
    locations: FileEntry | None
    tars: Mapping[str, tuple[tuple[int, int, int], ...]]
    counts: Mapping[str, int]
    sources: Mapping[str, Mapping[str, int]]
    receipts: frozenset[int]


def scan_lists(ranges: Iterable[ReadRange], config: Config, survey: Survey) -> Scanned:
    """Puts together what was read of all ranges."""
    ordered = sorted(ranges, key=lambda part: part.position)
    starts = np.array([part.position for part in ordered], np.int64)
    rows = np.array([part.rows for part in ordered], np.int64)
    before = np.cumsum(rows) - rows
    first = np.searchsorted(starts >> FILE_SHIFT, starts >> FILE_SHIFT)
    digest = " ".join(part.digest for part in ordered)
    hash = plan_hash(
        config, survey.fingerprints, survey.parent_uuid, survey.folders, digest, survey.due, survey.refused
    )
    return Scanned(hash, starts, before - before[first] if len(starts) else before)


def write_partition(out: Store, partition: int, reduced: Reduced, scan: Scanned, survey: Survey) -> PartitionFiles:
    """Writes the tables of a partition that have rows.

    Args:
        out: where plans are written.
        partition: its number.
        reduced: the tables.
        scan: of all lists.
        survey: of the bank.
    """
    writer, folder = BankWriter(out), f"{FOLDER}/{scan.hash}"

    def write(tables: Mapping[str, pa.Table], batch_rows: int) -> dict[str, FileEntry]:
        filled = {name: table for name, table in tables.items() if table.num_rows}
        return {
            name: writer.data(memoryview(_ipc_file(table, batch_rows)), folder, ".arrow", table.num_rows)
            for name, table in filled.items()
        }

    locations = None
    if reduced.locations.num_rows:
        sink = io.BytesIO()
        pq.write_table(_locate(reduced.locations, scan, survey), sink)
        locations = writer.data(sink.getvalue(), folder, ".parquet", reduced.locations.num_rows)
    return PartitionFiles(
        partition=partition,
        tasks=write(reduced.tasks, BATCH_ROWS),
        changes=write(reduced.changes, _DELTA_BATCH_ROWS),
        locations=locations,
        tars={stage.name: _runs(reduced.tasks[stage.name]) for stage in over_clips(reduced.tasks)},
        counts=reduced.counts,
        sources=reduced.sources,
        receipts=reduced.receipts,
    )


def assemble(
    bank: Store,
    out: Store,
    partitions: Iterable[PartitionFiles],
    scan: Scanned,
    survey: Survey,
    config: Config,
    models: Mapping[str, Any],
) -> Plan:
    """The plan of all partitions, not yet written.

    Args:
        bank: what is updated.
        out: where the partitions' files are.
        partitions: all of them, in any order.
        scan: of the lists.
        survey: of the bank.
        config: of the build.
        models: as in :attr:`.plan.Plan.models`.
    """
    ordered = sorted(partitions, key=lambda part: part.partition)
    used = sorted(set().union(*(part.receipts for part in ordered)))
    claimed = tuple(survey.receipts[number] for number in used)
    has_records = any(any(part.tars.values()) for part in ordered)
    tars = _tar_paths(bank, survey, claimed) if has_records else {}
    changed = sorted({name for part in ordered for name in part.changes})
    return Plan(
        hash=scan.hash,
        created=datetime.now(UTC).isoformat(),
        parent=survey.parent,
        parent_uuid=survey.parent_uuid,
        config=to_mapping(config),
        fingerprints=survey.fingerprints,
        models=models,
        folders=survey.folders,
        source_names=survey.sources,
        counts=_sum(part.counts for part in ordered),
        sources={name: _sum(part.sources[name] for part in ordered) for name in survey.sources.values()},
        tasks={
            stage: _tar_tasks(ordered, stage, tars)
            if StageName.parse(stage).is_over_clips
            else _row_tasks(out, ordered, stage, config.clips.maxcount)
            for stage in survey.stages
        },
        changes={name: tuple(part.changes[name] for part in ordered if name in part.changes) for name in changed},
        locations=tuple(part.locations for part in ordered if part.locations),
        claimed=tuple((name.stage, name.inputs) for name in claimed),
    )


def _ipc_file(table: pa.Table, batch_rows: int) -> pa.Buffer:
    """An Arrow IPC file, made in a buffer of just its size."""
    size = pa.MockOutputStream()
    _write_ipc(table, batch_rows, size)
    buffer = pa.allocate_buffer(size.size())
    _write_ipc(table, batch_rows, pa.FixedSizeBufferWriter(buffer))
    return buffer


def _write_ipc(table: pa.Table, batch_rows: int, sink: pa.NativeFile) -> None:
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, batch_rows)


def _row_tasks(out: Store, partitions: Sequence[PartitionFiles], stage: str, maxcount: int) -> tuple[Task, ...]:
    files = [TaskFile(part.tasks[stage].path, part.tasks[stage].rows) for part in partitions if stage in part.tasks]
    return cut_tasks(stage, files, lambda path: _read_nums(out, path), maxcount)


def _read_nums(out: Store, path: str) -> Nums:
    return np.asarray(read_table(out, path, ["num"]).column("num").to_numpy(), np.int64)


def _tar_tasks(partitions: Sequence[PartitionFiles], stage: str, tars: dict[int, str]) -> tuple[Task, ...]:
    runs = (
        (key, part.tasks[stage].path, start, stop)
        for part in partitions
        if stage in part.tasks
        for key, start, stop in part.tars[stage]
    )
    return tar_tasks(stage, runs, tars)


def _tar_paths(bank: Store, survey: Survey, claimed: Sequence[ReceiptName]) -> dict[int, str]:
    """Paths of the published and claimed tars, by key."""
    paths = Parent(bank, survey.parent, survey.fingerprints).paths(CLIPS)
    for receipt in find_receipts(bank, (name for name in claimed if name.stage == CLIPS)):
        paths |= {file.key: file.path for file in receipt.files if kind_of(file.path) == CLIPS}
    return paths


def _runs(records: pa.Table) -> tuple[tuple[int, int, int], ...]:
    """``(clip_file, start, stop)`` of rows that are sorted by clip_file."""
    keys = records.column("clip_file").to_numpy()
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, np.int64)
    return tuple(zip(keys[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(keys)], strict=False))


def _locate(locations: pa.Table, scan: Scanned, survey: Survey) -> pa.Table:
    """Duplicate and invalid rows with the file and the row where they stand."""
    files, rows = row_numbers(locations.column("position").to_numpy(), scan.starts, scan.rows_before)
    names = [survey.lists[number].name for number in files.tolist()]
    columns = {name: locations.column(name) for name in ("id", "status", "reason")}
    return pa.table({"file": pa.array(names, pa.string()), "row": rows, **columns})


def _sum(counted: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counts in counted:
        for what, count in counts.items():
            total[what] = total.get(what, 0) + count
    return total
