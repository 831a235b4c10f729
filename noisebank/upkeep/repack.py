"""Rewriting shards by copying: several tars, captions files or noise files into one each, nothing decoded or computed.

Every function writes the file that the stage itself would have made of the same rows, under the receipt that the stage
would look for, so that a later build finds the work done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisebank.errors import BankDamaged
from noisebank.format.noise_file import record_layout
from noisebank.format.receipts import Receipt, finish
from noisebank.format.shards import ShardSample, read_shard, write_shard
from noisebank.format.trusted import trusted_path
from noisebank.ids import xxh64_of
from noisebank.stages.captions import caption_inputs
from noisebank.stages.clips import SIDECAR, TAR, clip_inputs
from noisebank.stages.noise import noise_inputs
from noisebank.storage import FileEntry, Store, file_sha256, publish_file

Nums = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Piece:
    """What to take out of one file: rows by their position, and the numbers that they should have."""

    file: FileEntry
    rows: Nums
    nums: Nums


@dataclasses.dataclass(frozen=True)
class Repacked:
    """A shard made of others: its receipt, and the numbers of its rows in the order in which they stand in it."""

    receipt: Receipt
    nums: Nums


def repack_clips(
    store: Store,
    pieces: Sequence[tuple[Piece, FileEntry]],
    captions: Mapping[int, str],
    fingerprint: str,
    generation: int,
) -> Repacked:
    """One tar and sidecar with clips of several.

    Args:
        store: the bank.
        pieces: clips of tars, each with the tar's sidecar; every file is read once.
        captions: by number, the captions that changed since.
        fingerprint: of the clips stage, the same for all.
        generation: number of the last vacuum.

    Raises:
        BankDamaged: a file is missing or damaged, or does not hold what rows say.
    """
    with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
        samples: dict[str, ShardSample] = {}
        sidecars = []
        for tar, sidecar in pieces:
            rows = _taken(dataclasses.replace(tar, file=sidecar), _read_parquet(store, sidecar, Path(scratch)))
            sidecars.append(rows)
            wanted = set(rows.column("id").to_pylist())
            path = trusted_path(store, tar.file, Path(scratch))
            samples |= {sample.id: sample for sample in read_shard(path) if sample.id in wanted}
        table = _renewed(pa.concat_tables(sidecars).sort_by("num"), captions)
        texts = dict(zip(table.column("id").to_pylist(), table.column("caption").to_pylist(), strict=True))
        paths = Path(scratch, f"clips{TAR}"), Path(scratch, f"clips{SIDECAR}")
        write_shard(paths[0], (_captioned(samples[id], caption) for id, caption in texts.items()))
        pq.write_table(table, paths[1], compression="zstd")
        digest = hashlib.sha256("".join(map(file_sha256, paths)).encode()).hexdigest()
        files = tuple(
            publish_file(store, path, "clips", path.suffix, len(texts), generation, name_digest=digest)
            for path in paths
        )
    receipt = Receipt("clips", clip_inputs(fingerprint, table), fingerprint, files, len(texts))
    return Repacked(finish(store, receipt), table.column("num").to_numpy())


def repack_captions(store: Store, pieces: Sequence[Piece], fingerprint: str, generation: int) -> Repacked:
    """One captions file with rows of several; arguments and errors as for :func:`repack_clips`."""
    with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
        tables = [_taken(piece, _read_parquet(store, piece.file, Path(scratch))) for piece in pieces]
        table = pa.concat_tables(tables).sort_by("num")
        path = Path(scratch, "captions.parquet")
        plain = [name for name in table.column_names if name != "embedding"]
        pq.write_table(table, path, compression="zstd", use_dictionary=plain)
        entry = publish_file(store, path, "captions", ".parquet", table.num_rows, generation)
    info = {"dim": table.schema.field("embedding").type.list_size}
    receipt = Receipt("captions", caption_inputs(fingerprint, table), fingerprint, (entry,), table.num_rows, (), info)
    return Repacked(finish(store, receipt), table.column("num").to_numpy())


def repack_noise(
    store: Store, stage: str, pieces: Sequence[Piece], tar: str, fingerprint: str, generation: int
) -> Repacked:
    """One noise file with records of several, bit for bit; ``tar`` is the path of the one that has their clips now.

    Other arguments and errors as for :func:`repack_clips`.
    """
    with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
        tables = [_taken(piece, _read_arrow(store, piece.file, Path(scratch))) for piece in pieces]
        table = pa.concat_tables(tables)
        table = table.take(pa.array(np.argsort(table.column("num").to_numpy()))).combine_chunks()
        path = Path(scratch, "noise.arrow")
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_batch(table.to_batches()[0])
        info = {"tar": tar, **record_layout(path)}
        entry = publish_file(store, path, stage, ".arrow", table.num_rows, generation)
    clips = table.select(["id", "sha256"]).append_column("attempt", pa.array(np.ones(table.num_rows, np.int16)))
    receipt = Receipt(stage, noise_inputs(fingerprint, clips), fingerprint, (entry,), table.num_rows, (), info)
    return Repacked(finish(store, receipt), table.column("num").to_numpy())


def _taken(piece: Piece, table: pa.Table) -> pa.Table:
    """The rows of a piece out of its file's table; failed rows of a sidecar do not count as positions.

    Raises:
        BankDamaged: other clips stand there.
    """
    if "clip_row" in table.column_names:
        table = table.filter(pc.field("clip_row") >= 0)
    taken = table.take(pa.array(piece.rows)) if piece.rows.max(initial=-1) < table.num_rows else table.slice(0, 0)
    if not np.array_equal(taken.column("num").to_numpy(), piece.nums):
        raise BankDamaged(f"{piece.file.path}: does not hold the clips that rows look for in it; run verify")
    return taken


def _renewed(sidecar: pa.Table, captions: Mapping[int, str]) -> pa.Table:
    """The sidecar of the new tar: rows counted afresh, changed captions in place."""
    nums = sidecar.column("num").to_pylist()
    texts = [captions.get(num, text) for num, text in zip(nums, sidecar.column("caption").to_pylist(), strict=True)]
    columns = {
        "clip_row": pa.array(np.arange(len(nums)), pa.int32()),
        "caption": pa.array(texts, pa.string()),
        "caption_hash": pa.array(xxh64_of(pa.array(texts, pa.string())), pa.uint64()),
    }
    for name, values in columns.items():
        sidecar = sidecar.set_column(sidecar.schema.get_field_index(name), name, values)
    return sidecar


def _captioned(sample: ShardSample, caption: str) -> ShardSample:
    return dataclasses.replace(sample, caption=caption, info={**sample.info, "caption": caption})


def _read_parquet(store: Store, entry: FileEntry, scratch: Path) -> pa.Table:
    return pq.read_table(trusted_path(store, entry, scratch))


def _read_arrow(store: Store, entry: FileEntry, scratch: Path) -> pa.Table:
    with pa.memory_map(str(trusted_path(store, entry, scratch))) as source:
        return pa.ipc.open_file(source).read_all()
