"""Tables cut by ranges of numbers into a file of batches, so that only addresses of batches travel.

The numbers are hashes, so ranges of equal width hold about equal rows. A batch is an Arrow IPC message; whoever reads
it knows the schema.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from noisebank.ids import NUMBER_BITS
from noisebank.storage import Store


class Piece(NamedTuple):
    """A batch in a spill file."""

    key: str
    offset: int
    length: int


def partition_range(partition: int, bits: int) -> tuple[int, int]:
    """The numbers ``lo <= num < hi`` of one of the ``2 ** bits`` partitions."""
    width = 1 << (NUMBER_BITS - bits)
    return partition * width, (partition + 1) * width


def spill(store: Store, key: str, table: pa.Table, bits: int) -> list[tuple[int, Piece]]:
    """Writes ``table`` to ``key``, one batch a partition; returns which partition is where.

    Args:
        store: the bank.
        key: a name unique to this attempt.
        table: with a column ``num``; rows of one partition keep their order.
        bits: ``2 ** bits`` partitions.
    """
    partitions = table.column("num").to_numpy() >> (NUMBER_BITS - bits)
    table = table.take(pa.array(np.argsort(partitions, kind="stable"))).combine_chunks()
    counts = np.bincount(partitions, minlength=1 << bits)
    stops = np.cumsum(counts)
    pieces = []
    with _writing(store, key) as path, path.open("wb") as file:
        for partition in np.flatnonzero(counts).tolist():
            rows = table.slice(stops[partition] - counts[partition], counts[partition])
            (batch,) = rows.to_batches()
            offset = file.tell()
            file.write(batch.serialize())
            pieces.append((partition, Piece(key, offset, file.tell() - offset)))
    return pieces


def read_piece(store: Store, piece: Piece, schema: pa.Schema) -> pa.RecordBatch:
    """The batch at a place in a spill file."""
    return pa.ipc.read_record_batch(pa.py_buffer(store.read_range(piece.key, piece.offset, piece.length)), schema)


@contextmanager
def _writing(store: Store, key: str) -> Iterator[Path]:
    """A path to write ``key`` at: its own where the store is local, for nobody reads it before it is named."""
    path = store.local_path(key)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
        yield Path(scratch, "spill")
        store.upload(Path(scratch, "spill"), key)
