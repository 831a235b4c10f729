"""The last step of a plan: the results of all partitions, put together and cut into tasks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.config import to_mapping
from noisebank.format.receipts import find_receipt
from noisebank.options import Config
from noisebank.planning.claims import ReceiptName
from noisebank.planning.cut import Task, TaskFile, cut_tasks, tar_tasks
from noisebank.planning.listing import Nums
from noisebank.planning.parent import Parent
from noisebank.planning.plan import BATCH_ROWS, FOLDER, Plan, plan_hash
from noisebank.planning.reduce import Reduced, row_numbers
from noisebank.planning.survey import Survey
from noisebank.sources import FILE_SHIFT
from noisebank.storage import FileEntry, Store, publish_bytes

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
    """The files of one partition of a plan, and what it adds to the counts."""

    partition: int
    files: Mapping[str, FileEntry]
    """By table: ``clips``, ``captions``, ``noise/<set>``, ``rows``, ``records/<set>``, ``failures``, ``locations``."""
    tars: Mapping[str, tuple[tuple[int, int, int], ...]]
    """For the tasks of each noise set, ``(key of the tar, start, stop)`` of its rows."""
    counts: Mapping[str, int]
    sources: Mapping[str, Mapping[str, int]]
    receipts: frozenset[int] = field(default_factory=frozenset)


def scanned(ranges: Iterable[ReadRange], config: Config, survey: Survey) -> Scanned:
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


def write_partition(
    out: Store, partition: int, reduced: Reduced, scan: Scanned, survey: Survey, schemas: Mapping[str, pa.Schema]
) -> PartitionFiles:
    """Writes the tables of a partition that have rows.

    Args:
        out: where plans are written.
        partition: its number.
        reduced: the tables.
        scan: of all lists.
        survey: of the bank.
        schemas: of the tables ``clips`` and ``captions`` (key ``tasks``), ``noise``, ``rows``, ``records`` and
            ``failures``.
    """
    tables = {
        name: (table, schemas["tasks"]) for name, table in (("clips", reduced.clips), ("captions", reduced.captions))
    }
    tables |= {f"noise/{name}": (table, schemas["noise"]) for name, table in reduced.noise.items()}
    tables |= {f"records/{name}": (table, schemas["records"]) for name, table in reduced.records.items()}
    tables |= {"rows": (reduced.rows, schemas["rows"]), "failures": (reduced.failures, schemas["failures"])}
    folder = f"{FOLDER}/{scan.hash}"
    files = {}
    for name, (table, schema) in tables.items():
        if table.num_rows:
            is_task = name in ("clips", "captions") or name.startswith("noise/")
            data = _ipc_file(table.cast(schema), BATCH_ROWS if is_task else _DELTA_BATCH_ROWS)
            files[name] = publish_bytes(out, memoryview(data), folder, ".arrow", table.num_rows)
    if reduced.locations.num_rows:
        sink = io.BytesIO()
        pq.write_table(_located(reduced.locations, scan, survey), sink)
        files["locations"] = publish_bytes(out, sink.getvalue(), folder, ".parquet", reduced.locations.num_rows)
    tars = {f"noise/{name}": _runs(table) for name, table in reduced.noise.items()}
    return PartitionFiles(partition, files, tars, reduced.counts, reduced.sources, reduced.receipts)


def assemble(
    bank: Store,
    out: Store,
    partitions: Iterable[PartitionFiles],
    scan: Scanned,
    survey: Survey,
    config: Config,
    nested_fingerprints: Mapping[str, Any],
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
        nested_fingerprints: as in :attr:`.plan.Plan.fingerprints`.
        models: as in :attr:`.plan.Plan.models`.
    """
    ordered = sorted(partitions, key=lambda part: part.partition)
    used = sorted(set().union(*(part.receipts for part in ordered)))
    claimed = tuple(survey.receipts[number] for number in used)
    sets = [stage.removeprefix("noise/") for stage in survey.stages if "/" in stage]
    tasks = {stage: _row_tasks(out, ordered, stage, config.clips.maxcount) for stage in ("clips", "captions")}
    if any(part.tars[f"noise/{name}"] for part in ordered for name in sets):
        tars = _tar_paths(bank, survey, claimed)
        tasks |= {f"noise/{name}": _noise_tasks(ordered, f"noise/{name}", tars) for name in sets}
    else:
        tasks |= {f"noise/{name}": () for name in sets}
    recorded = sorted({name.removeprefix("records/") for part in ordered for name in part.files if "records/" in name})
    return Plan(
        hash=scan.hash,
        created=datetime.now(UTC).isoformat(),
        parent=survey.parent,
        parent_uuid=survey.parent_uuid,
        config=to_mapping(config),
        fingerprints=nested_fingerprints,
        models=models,
        folders=survey.folders,
        source_names=survey.sources,
        counts=_sum(part.counts for part in ordered),
        sources={name: _sum(part.sources[name] for part in ordered) for name in survey.sources.values()},
        tasks=tasks,
        rows=_files(ordered, "rows"),
        records={name: _files(ordered, f"records/{name}") for name in recorded},
        failures=_files(ordered, "failures"),
        locations=_files(ordered, "locations"),
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


def _files(partitions: Sequence[PartitionFiles], name: str) -> tuple[FileEntry, ...]:
    return tuple(part.files[name] for part in partitions if name in part.files)


def _row_tasks(out: Store, partitions: Sequence[PartitionFiles], stage: str, maxcount: int) -> tuple[Task, ...]:
    files = [TaskFile(entry.path, entry.rows) for entry in _files(partitions, stage)]
    return cut_tasks(stage, files, lambda path: _read_nums(out, path), maxcount)


def _read_nums(out: Store, path: str) -> Nums:
    with out.open(path) as file:
        nums = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=[0])).read_all().column("num")
    return np.asarray(nums.to_numpy(), np.int64)


def _noise_tasks(partitions: Sequence[PartitionFiles], stage: str, tars: dict[int, str]) -> tuple[Task, ...]:
    runs = (
        (key, part.files[stage].path, start, stop)
        for part in partitions
        if stage in part.files
        for key, start, stop in part.tars[stage]
    )
    return tar_tasks(stage, runs, tars)


def _tar_paths(bank: Store, survey: Survey, claimed: Sequence[ReceiptName]) -> dict[int, str]:
    """Paths of the published and claimed tars, by key."""
    paths = Parent(bank, survey.parent, survey.fingerprints).paths("clips")
    for name in claimed:
        receipt = find_receipt(bank, name.stage, name.inputs) if name.stage == "clips" else None
        paths |= {file.key: file.path for file in receipt.files if file.path.endswith(".tar")} if receipt else {}
    return paths


def _runs(records: pa.Table) -> tuple[tuple[int, int, int], ...]:
    """``(clip_file, start, stop)`` of rows that are sorted by clip_file."""
    keys = records.column("clip_file").to_numpy()
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, np.int64)
    return tuple(zip(keys[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(keys)], strict=False))


def _located(locations: pa.Table, scan: Scanned, survey: Survey) -> pa.Table:
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
