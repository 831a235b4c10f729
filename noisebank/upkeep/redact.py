"""What a purge has to remove beside rows of data files: traces of removed rows in the index, tables and receipts."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisebank.format.index_deletions import read_deleted
from noisebank.format.manifest import IndexSegment, Snapshot
from noisebank.format.parts import read_parts
from noisebank.format.receipts import read_receipt, receipt_path
from noisebank.format.status import Status
from noisebank.format.tables import FAILURE_KEY, OverlayTable
from noisebank.format.trusted import trusted_path
from noisebank.search.index import erase
from noisebank.storage import Store, publish_file

_WORDS = ("id", "source", "caption")


def redacted(store: Store, segment: IndexSegment, generation: int) -> IndexSegment:
    """``segment`` without the ids, captions and vectors of its deleted positions; their numbers stay.

    The positions stay too, and so do the answers: all of exact search, nearly all where lists or a graph are walked. A
    segment that is redacted already is returned as it is.

    Args:
        store: the bank.
        segment: of the index; it is held in memory.
        generation: number of the last vacuum.

    Raises:
        BankDamaged: one of its files is missing or damaged.
    """
    if segment.deleted is None:
        return segment
    deleted = read_deleted(store, segment)
    with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
        source = pq.ParquetFile(trusted_path(store, segment.entries, Path(scratch)))
        table = source.read()
        if not pc.any(pc.not_equal(table.column("id").filter(pa.array(deleted)), "")).as_py():
            return segment
        for name in _WORDS:
            at = table.schema.get_field_index(name)
            blank = pc.if_else(pa.array(deleted), "", table.column(at))
            table = table.set_column(at, table.schema.field(at), blank)
        entries, index = Path(scratch, "redacted.parquet"), Path(scratch, "redacted.faiss")
        pq.write_table(table, entries, compression="zstd", row_group_size=source.metadata.row_group(0).num_rows)
        vectors = faiss.read_index(str(trusted_path(store, segment.index, Path(scratch))))
        erase(vectors, np.flatnonzero(deleted))
        faiss.write_index(vectors, str(index))
        return dataclasses.replace(
            segment,
            index=publish_file(store, index, "index", ".faiss", segment.size, generation),
            entries=publish_file(store, entries, "index", ".parquet", segment.size, generation),
        )


def has_traces(store: Store, snapshot: Snapshot) -> bool:
    """Whether the tables of rows or failures hold tombstones, healed failures, or rows that newer ones replaced."""
    rows = OverlayTable(store, snapshot.rows).slices()
    failures = OverlayTable(store, snapshot.failures, FAILURE_KEY).slices()
    present: int = sum(piece.filter(pc.field("status") != int(Status.REMOVED)).num_rows for piece in rows)
    unhealed: int = sum(piece.filter(pc.field("code") != "").num_rows for piece in failures)
    return sum(entry.rows for entry in (*snapshot.rows, *snapshot.failures)) > present + unhealed


def forget(store: Store, snapshot: Snapshot) -> None:
    """Deletes the receipts of published shards that name a failed row which is not in the bank's tables any more.

    Nobody looks for them: builds want the receipts of shards that are not published yet.
    """
    present = {num for piece in OverlayTable(store, snapshot.rows).slices() for num in piece.column("num").to_pylist()}
    for parts in snapshot.parts.values():
        part = read_parts(store, parts)
        for stage, inputs in zip(part.column("stage").to_pylist(), part.column("inputs").to_pylist(), strict=True):
            receipt = read_receipt(store, receipt_path(stage, inputs))
            if receipt is not None and any(failure.num not in present for failure in receipt.failures):
                store.delete(receipt.path)
