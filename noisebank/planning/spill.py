"""Tables cut by ranges of numbers into a file of batches, so that only addresses of batches travel.

The numbers are hashes, so ranges of equal width hold about equal rows. A batch is an Arrow IPC message; whoever reads
it knows the schema.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from noisebank.ids import NUMBER_BITS
from noisebank.storage import Store

_SPOOLED_ROWS = 1 << 16


class SpilledBatch(NamedTuple):
    """A batch in a spill file."""

    key: str
    offset: int
    length: int


def partition_range(partition: int, bits: int) -> tuple[int, int]:
    """The numbers ``lo <= num < hi`` of one of the ``2 ** bits`` partitions."""
    width = 1 << (NUMBER_BITS - bits)
    return partition * width, (partition + 1) * width


def spill(store: Store, key: str, table: pa.Table, bits: int) -> list[tuple[int, SpilledBatch]]:
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
    batches = []
    sink = pa.BufferOutputStream()
    for partition in np.flatnonzero(counts).tolist():
        (batch,) = table.slice(stops[partition] - counts[partition], counts[partition]).to_batches()
        offset = sink.tell()
        sink.write(batch.serialize())
        batches.append((partition, SpilledBatch(key, offset, sink.tell() - offset)))
    _store(store, key, sink.getvalue())
    return batches


def read_batch(store: Store, batch: SpilledBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch at a place in a spill file."""
    return pa.ipc.read_record_batch(pa.py_buffer(store.read_range(batch.key, batch.offset, batch.length)), schema)


def _store(store: Store, key: str, content: pa.Buffer, attempts: int = 32) -> None:
    """Writes a file; in a local store simply, for nobody reads it before it is named. As long as its folder is empty,
    another process may remove it."""
    path = store.local_path(key)
    if path is None:
        return store.put(key, memoryview(content))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except (FileNotFoundError, FileExistsError):  # (mkdir may raise either)
        if attempts == 1:
            raise
        _store(store, key, content, attempts - 1)


class Spool:
    """Small tables of one schema, gathered and spilled by partitions, to be read back one partition at a time.

    Args:
        store: a scratch folder.
        name: of this spool's files in it.
        schema: of the tables; has a column ``num``.
        bits: ``2 ** bits`` partitions.
    """

    def __init__(self, store: Store, name: str, schema: pa.Schema, bits: int) -> None:
        self._store, self._name, self._schema, self._bits = store, name, schema, bits
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._batches: dict[int, list[SpilledBatch]] = {}
        self._files = 0

    def add(self, table: pa.Table) -> None:
        """Takes one more table."""
        self._waiting.append(table)
        self._waiting_rows += table.num_rows
        if self._waiting_rows >= _SPOOLED_ROWS:
            self._spill()

    def read(self, partition: int) -> pa.Table:
        """The rows of a partition, in the order in which they came."""
        self._spill()
        batches = [read_batch(self._store, batch, self._schema) for batch in self._batches.get(partition, ())]
        return pa.Table.from_batches(batches, self._schema).combine_chunks()

    def _spill(self) -> None:
        table = pa.concat_tables([self._schema.empty_table(), *self._waiting])
        self._waiting, self._waiting_rows = [], 0
        if table.num_rows:
            self._files += 1
            for partition, batch in spill(self._store, f"{self._name}-{self._files}", table, self._bits):
                self._batches.setdefault(partition, []).append(batch)
