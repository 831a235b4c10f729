"""Rewriting shards by copying: several tars, captions files or files of records into one each, nothing decoded or
computed, and never more than a clip or a record in memory.

Every function has the writer of the stage write what the stage itself would have made of the same rows, under the
receipt that the stage would look for, so that a later build finds the work done.
"""

from __future__ import annotations

import dataclasses
import heapq
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisebank.errors import BankDamaged, JobFailed
from noisebank.format.noise_file import NoiseWriter, StoredRecord, read_stored_records
from noisebank.format.reading import PARQUET, read_table, verified_path, verified_table
from noisebank.format.receipts import Receipt
from noisebank.format.shards import ShardSample, read_shard
from noisebank.format.stage_names import CAPTIONS, CLIPS
from noisebank.ids import Nums, captions_hash
from noisebank.stages.captions import caption_inputs, write_captions
from noisebank.stages.clips import clip_inputs, write_clips
from noisebank.stages.job import Made, ShardJob, run_job
from noisebank.stages.over_clips import record_inputs
from noisebank.storage import BankWriter, FileEntry

Copy = Callable[[Path], tuple[tuple[FileEntry, ...], dict[str, Any]]]
"""Writes the files of a shard, given a folder to work in, and tells what its receipt should say."""


@dataclasses.dataclass(frozen=True)
class FileRows:
    """What to take out of one file of a stage's ``fingerprint``: rows by their position, ascending, and the numbers
    that they should have."""

    file: FileEntry
    rows: Nums
    nums: Nums
    fingerprint: str

    @property
    def key(self) -> int:
        """Of the file."""
        return self.file.key


@dataclasses.dataclass(frozen=True)
class Repacked:
    """A shard made of others: its receipt, and the numbers of its rows in the order in which they stand in it (a clip's
    once for each of its captions)."""

    receipt: Receipt
    nums: Nums


def repack_clips(
    writer: BankWriter, pieces: Sequence[tuple[FileRows, FileEntry]], captions: Mapping[int, Sequence[str]]
) -> Repacked:
    """One tar and sidecar with clips of several.

    Args:
        writer: of the bank.
        pieces: clips of tars of one fingerprint, each with the tar's sidecar; every file is read once.
        captions: by number, all captions of the clips whose captions changed since.

    Raises:
        BankDamaged: a file is missing or damaged, or does not hold what rows say.
    """
    taken = [
        _take(dataclasses.replace(tar, file=sidecar), verified_table(writer.store, sidecar)) for tar, sidecar in pieces
    ]
    table = _renew(pa.concat_tables(taken).sort_by("num"), captions)

    def copy(scratch: Path) -> tuple[tuple[FileEntry, ...], dict[str, Any]]:
        streams = [
            _read_clips(verified_path(writer.store, tar.file, scratch), rows)
            for (tar, _), rows in zip(pieces, taken, strict=True)
        ]
        clips = heapq.merge(*streams, key=lambda clip: clip[0])
        samples = (sample.with_captions(captions[num]) if num in captions else sample for num, sample in clips)
        return write_clips(writer, scratch, samples, lambda: table), {}

    fingerprint = pieces[0][0].fingerprint
    return _run(writer, CLIPS, fingerprint, clip_inputs(fingerprint, table), table, copy)


def repack_captions(writer: BankWriter, pieces: Sequence[FileRows]) -> Repacked:
    """One captions file with rows of several; arguments and errors as for :func:`repack_clips`."""
    tables = [_take(piece, verified_table(writer.store, piece.file)) for piece in pieces]
    table = pa.concat_tables(tables).sort_by("num")

    def copy(scratch: Path) -> tuple[tuple[FileEntry, ...], dict[str, Any]]:
        return (write_captions(writer, table),), {"dim": table.schema.field("embedding").type.list_size}

    fingerprint = pieces[0].fingerprint
    return _run(writer, CAPTIONS, fingerprint, caption_inputs(fingerprint, table), table, copy)


def repack_records(writer: BankWriter, stage: str, pieces: Sequence[FileRows], tar: str) -> Repacked:
    """One file with records of several, bit for bit; ``tar`` is the path of the one that has their clips now.

    Other arguments and errors as for :func:`repack_clips`.
    """
    store = writer.store
    suffix = Path(pieces[0].file.path).suffix
    tables = [_take(piece, read_table(store, piece.file.path, without=("noise", "scale"))) for piece in pieces]
    try:  # (a column that a stage left empty in one tar may have no type there)
        table = pa.concat_tables(tables, promote_options="permissive").sort_by("num")
    except pa.ArrowException as error:
        problem = f"{stage}: its files have columns of types that do not fit each other ({error})"
        raise JobFailed(f"{problem}; make it write one schema, or drop the set, and compact again") from error

    def copy(scratch: Path) -> tuple[tuple[FileEntry, ...], dict[str, Any]]:
        paths = [verified_path(store, piece.file, scratch) for piece in pieces]
        path = scratch / f"records{suffix}"
        info: dict[str, Any] = {"tar": tar}
        if suffix == PARQUET:
            pq.write_table(table, path)
        else:
            records = [read_stored_records(p, piece.rows) for p, piece in zip(paths, pieces, strict=True)]
            info |= _copy_noise(path, records)
        return (writer.file(path, stage, suffix, table.num_rows),), info

    fingerprint = pieces[0].fingerprint
    clips = table.select(["id", "sha256"]).append_column("attempt", pa.array(np.ones(table.num_rows, np.int16)))
    return _run(writer, stage, fingerprint, record_inputs(fingerprint, clips), table, copy)


def _run(writer: BankWriter, stage: str, fingerprint: str, inputs: str, table: pa.Table, copy: Copy) -> Repacked:
    """Has ``copy`` make the shard of the rows in ``table``."""

    def make(writer: BankWriter) -> Made:
        with tempfile.TemporaryDirectory(prefix="noisebank-repack-") as scratch:
            files, info = copy(Path(scratch))
        return Made(files, clips, info=info)

    clips = pc.count_distinct(table.column("num")).as_py()
    job = ShardJob(stage, fingerprint, inputs, clips, make)
    return Repacked(run_job(job, writer).receipt, table.column("num").to_numpy())


def _read_clips(tar: Path, rows: pa.Table) -> Iterator[tuple[int, ShardSample]]:
    """The wanted clips of a tar with their numbers."""
    nums = dict(zip(rows.column("id").to_pylist(), rows.column("num").to_pylist(), strict=True))
    return ((nums[sample.id], sample) for sample in read_shard(tar, nums))


def _copy_noise(path: Path, streams: Sequence[Iterator[StoredRecord]]) -> dict[str, int]:
    """Writes records of several files, ordered by their numbers, into one noise shard; gives where they are."""
    records = heapq.merge(*streams, key=lambda record: record.columns["num"])
    first = next(records)
    with NoiseWriter(path, first.schema) as writer:
        for record in chain([first], records):
            writer.copy(record)
        return writer.finish()


def _take(piece: FileRows, table: pa.Table) -> pa.Table:
    """The rows of a piece out of its file's table, in which failed rows of a sidecar do not count as positions;
    BankDamaged if other clips stand there."""
    if "clip_row" in table.column_names:
        table = table.filter(pc.field("clip_row") >= 0)
    taken = table.take(pa.array(piece.rows)) if piece.rows.max(initial=-1) < table.num_rows else table.slice(0, 0)
    if not np.array_equal(taken.column("num").to_numpy(), piece.nums):
        raise BankDamaged(f"{piece.file.path}: does not hold the clips that rows look for in it; run verify")
    return taken


def _renew(sidecar: pa.Table, captions: Mapping[int, Sequence[str]]) -> pa.Table:
    """The sidecar of the new tar: rows counted afresh, changed captions in place."""
    nums = sidecar.column("num").to_pylist()
    written = zip(nums, *(sidecar.column(name).to_pylist() for name in ("caption", "caption_hash")), strict=True)
    renewed = [
        (captions[num][0], captions_hash(captions[num])) if num in captions else (text, hash)
        for num, text, hash in written
    ]
    columns = {
        "clip_row": pa.array(np.arange(len(nums)), pa.int32()),
        "caption": pa.array([text for text, _ in renewed], pa.string()),
        "caption_hash": pa.array([hash for _, hash in renewed], pa.uint64()),
    }
    for name, values in columns.items():
        sidecar = sidecar.set_column(sidecar.schema.get_field_index(name), name, values)
    return sidecar
