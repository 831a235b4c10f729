"""The last step of a plan: the results of all partitions, put together and cut into tasks."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.config import to_mapping
from noisebank.format.manifest import EMPTY, read_snapshot
from noisebank.format.parts import kind_of
from noisebank.format.reading import read_table
from noisebank.format.receipts import find_receipts
from noisebank.format.stage_names import CLIPS, StageName, over_clips
from noisebank.format.tables import write_parquet
from noisebank.ids import Nums, source_number
from noisebank.options import Config
from noisebank.planning.claims import ReceiptName
from noisebank.planning.cut import Task, cut_tasks, records_a_file, shard_rows
from noisebank.planning.listing import rows_digest
from noisebank.planning.parent import Parent
from noisebank.planning.plan import BATCH_ROWS, FOLDER, FORMAT, Plan
from noisebank.planning.redone import made_with, name_changes
from noisebank.planning.reduce import Reduced
from noisebank.planning.survey import Survey
from noisebank.sources import FILE_SHIFT
from noisebank.storage import BankWriter, FileEntry, Store

_DELTA_BATCH_ROWS = 1 << 16
_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class ReadRange:
    """What was read of one range of a list.

    Args:
        position: of its first row.
        rows: how many there are.
        digest: of what they say.
        source: number of the source.
        smallest: where the source has a limit, sorted numbers of its smallest clips, one more than that; else empty.
    """

    position: int
    rows: int
    digest: str
    source: int = 0
    smallest: Nums = field(default_factory=lambda: _NONE)


def summarise_range(rows: pa.Table, limit: int | None) -> ReadRange:
    """A range of a list in short, from its rows (one or more) and the limit of its source."""
    positions, smallest = rows.column("position"), _NONE
    first, last = positions[0].as_py(), positions[-1].as_py()
    if limit is not None:
        smallest = np.unique(rows.filter(pc.field("invalid").is_null()).column("num").to_numpy())[: limit + 1]
    return ReadRange(first, last - first + 1, rows_digest(rows), rows.column("source")[0].as_py(), smallest)


@dataclass(frozen=True)
class Scanned:
    """What all lists say, in short: the hash of the plan that follows; of all ranges the sorted positions of their
    first rows, and how many rows of the same file come before each; by source the largest number that its limit lets
    in, where it keeps any out."""

    hash: str
    starts: Nums
    rows_before: Nums
    limits: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PartitionFiles:
    """The files of one partition of a plan, and what it adds to the counts.

    Args:
        partition: its number.
        tasks: rows to do, by stage.
        changes: deltas of the snapshot's tables, by their names.
        locations: of duplicate, invalid and filtered rows, if there are any.
        tars: for the tasks of each stage over clips, ``(key of the tar, number of the file, start, stop)`` of rows
            whose records go into one file.
        counts, sources, receipts, redone: as of :class:`.reduce.Reduced`.
    """

    partition: int
    tasks: Mapping[str, FileEntry]
    changes: Mapping[str, FileEntry]
    locations: FileEntry | None
    tars: Mapping[str, tuple[tuple[int, int, int, int], ...]]
    counts: Mapping[str, int]
    sources: Mapping[str, Mapping[str, int]]
    receipts: frozenset[int]
    redone: Mapping[str, Mapping[str, int]]


def scan_lists(ranges: Iterable[ReadRange], config: Config, survey: Survey) -> Scanned:
    """Puts together what was read of all ranges."""
    ordered = sorted(ranges, key=lambda part: part.position)
    starts = np.array([part.position for part in ordered], np.int64)
    rows = np.array([part.rows for part in ordered], np.int64)
    before = np.cumsum(rows) - rows
    first = np.searchsorted(starts >> FILE_SHIFT, starts >> FILE_SHIFT)
    digest = " ".join(part.digest for part in ordered)
    return Scanned(
        hash=_plan_hash(config, survey, digest),
        starts=starts,
        rows_before=before - before[first] if len(starts) else before,
        limits=_find_limits(ordered, config),
    )


def _find_limits(ranges: Sequence[ReadRange], config: Config) -> dict[int, int]:
    """By the number of a source, the largest number of the clips that its limit lets in."""
    limits = {}
    for source in config.sources:
        if source.limit is not None:
            number = source_number(source.label)
            found = np.unique(np.concatenate([_NONE, *(part.smallest for part in ranges if part.source == number)]))
            if len(found) > source.limit:
                limits[number] = int(found[source.limit - 1])
    return limits


def write_partition(
    out: Store, partition: int, reduced: Reduced, scan: Scanned, survey: Survey, models: Mapping[str, Any]
) -> PartitionFiles:
    """Writes the tables of a partition that have rows to ``out``, where plans are written; ``models`` as of plans."""
    writer, folder = BankWriter(out), f"{FOLDER}/{scan.hash}"

    def write(tables: Mapping[str, pa.Table], batch_rows: int) -> dict[str, FileEntry]:
        return {
            name: writer.data(memoryview(_to_ipc_file(table, batch_rows)), folder, ".arrow", table.num_rows)
            for name, table in tables.items()
            if table.num_rows
        }

    locations = None
    if reduced.locations.num_rows:
        locations = write_parquet(writer, folder, _locate(reduced.locations, scan, survey), compression="snappy")
    return PartitionFiles(
        partition=partition,
        tasks=write(reduced.tasks, BATCH_ROWS),
        changes=write(reduced.changes, _DELTA_BATCH_ROWS),
        locations=locations,
        tars={
            stage.name: _runs(reduced.tasks[stage.name], records_a_file(models.get(stage.name, {})))
            for stage in over_clips(reduced.tasks)
        },
        counts=reduced.counts,
        sources=reduced.sources,
        receipts=reduced.receipts,
        redone=reduced.redone,
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
    """The plan of all partitions, which come in any order and whose files are in ``out``; not yet written."""
    ordered = sorted(partitions, key=lambda part: part.partition)
    used = sorted(set().union(*(part.receipts for part in ordered)))
    claimed = tuple(survey.receipts[number] for number in used)
    has_records = any(any(part.tars.values()) for part in ordered)
    tars = _tar_paths(bank, survey, claimed) if has_records else {}
    changed = sorted({name for part in ordered for name in part.changes})
    options, parent = made_with(config, models), read_snapshot(bank, survey.parent) if survey.parent else EMPTY
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
            stage: _group_by_tar(ordered, stage, tars)
            if StageName.parse(stage).is_over_clips
            else _cut_rows(out, ordered, stage, config.clips.maxcount)
            for stage in survey.stages
        },
        changes={name: tuple(part.changes[name] for part in ordered if name in part.changes) for name in changed},
        locations=tuple(part.locations for part in ordered if part.locations),
        claimed=tuple((name.stage, name.inputs) for name in claimed),
        redone={stage: _sum(part.redone[stage] for part in ordered) for stage in survey.stages},
        made_with=options,
        made_otherwise={stage: tuple(said) for stage, said in name_changes(bank, parent, options, models).items()},
    )


def _plan_hash(config: Config, survey: Survey, rows: str) -> str:
    """The name of the plan that follows from a survey and the digest of all listed ``rows``, 32 hexadecimal digits; of
    the configuration what changes a plan counts."""
    names = [" ".join(filter(None, (source.label, source.filter))) for source in config.sources]
    options = [names, config.clips.maxcount, config.prune, sorted(config.retry_failures)]
    content = [FORMAT, survey.parent_uuid, survey.fingerprints, survey.folders, rows, survey.due, survey.refused]
    return hashlib.sha256(json.dumps([*content, options], sort_keys=True).encode()).hexdigest()[:32]


def _to_ipc_file(table: pa.Table, batch_rows: int) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, batch_rows)
    return sink.getvalue()


def _cut_rows(out: Store, partitions: Sequence[PartitionFiles], stage: str, maxcount: int) -> tuple[Task, ...]:
    """Even tasks of rows, whatever partitions they lie in."""
    files = [part.tasks[stage] for part in partitions if stage in part.tasks]
    nums = ((file.path, read_table(out, file.path, ["num"]).column("num").to_numpy()) for file in files)
    total = sum(file.rows for file in files)
    return cut_tasks(stage, nums, total, shard_rows(total, maxcount))


def _group_by_tar(partitions: Sequence[PartitionFiles], stage: str, tars: dict[int, str]) -> tuple[Task, ...]:
    """One task for each file of records of a tar."""
    pieces: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
    for part in partitions:
        for key, file, start, stop in part.tars[stage]:
            pieces.setdefault((tars[key], file), []).append((part.tasks[stage].path, start, stop))
    return tuple(Task(stage, tuple(pieces[tar, file]), tar) for tar, file in sorted(pieces))


def _tar_paths(bank: Store, survey: Survey, claimed: Sequence[ReceiptName]) -> dict[int, str]:
    paths = Parent(bank, survey.parent, survey.fingerprints).paths(CLIPS)
    for receipt in find_receipts(bank, (name for name in claimed if name.stage == CLIPS)):
        paths |= {file.key: file.path for file in receipt.files if kind_of(file.path) == CLIPS}
    return paths


def _runs(records: pa.Table, size: int) -> tuple[tuple[int, int, int, int], ...]:
    """``(clip_file, clip_row // size, start, stop)`` of rows that are sorted by clip_file and clip_row."""
    keys, files = records.column("clip_file").to_numpy(), records.column("clip_row").to_numpy() // size
    is_first = np.ones(records.num_rows, bool)
    is_first[1:] = (keys[1:] != keys[:-1]) | (files[1:] != files[:-1])
    starts = np.flatnonzero(is_first)
    stops = [*starts[1:].tolist(), records.num_rows]
    return tuple(zip(keys[starts].tolist(), files[starts].tolist(), starts.tolist(), stops, strict=False))


def _locate(locations: pa.Table, scan: Scanned, survey: Survey) -> pa.Table:
    """Rows that do not count with the file and the row where they stand, counted from 1 without the header."""
    positions = locations.column("position").to_numpy()
    part = np.searchsorted(scan.starts, positions, side="right") - 1
    rows = scan.rows_before[part] + positions - scan.starts[part] + 1
    names = pa.array([file.name for file in survey.lists], pa.string()).take(pa.array(positions >> FILE_SHIFT))
    columns = {name: locations.column(name) for name in ("id", "status", "reason")}
    return pa.table({"file": names, "row": rows, **columns})


def _sum(counted: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counts in counted:
        total.update(counts)
    return dict(total)
