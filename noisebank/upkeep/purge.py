"""What a purge has to remove beside rows of data files: traces of removed rows in the index, tables and receipts."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from noisebank.format.manifest import IndexSegment, Snapshot
from noisebank.format.parts import read_parts
from noisebank.format.receipts import Receipt, read_receipt, receipt_path, segment_of
from noisebank.format.stage_names import CAPTIONS
from noisebank.format.status import Status
from noisebank.format.tables import FAILURE_KEY, OverlayTable, matches, nums_of
from noisebank.options import IndexOptions
from noisebank.stages.index import IndexJob
from noisebank.stages.job import run_job
from noisebank.storage import BankWriter, Store


def rebuild_worn_segments(
    writer: BankWriter, snapshot: Snapshot
) -> tuple[IndexSegment | None, frozenset[str], list[Receipt]]:
    """One index segment in place of those that have deleted positions, and of all after the first of them.

    It is built from the captions files, of the type and to the recall of those that it replaces.

    Returns:
        The new segment, None if nothing in them is live; the paths of the index files that it replaces; its receipt.
    """
    worn = next((i for i, segment in enumerate(snapshot.index) if segment.live < segment.size), len(snapshot.index))
    replaced = snapshot.index[worn:]
    paths = frozenset(segment.index.path for segment in replaced)
    if not any(segment.live for segment in replaced):
        return None, paths, []
    options = IndexOptions(
        min_recall=min(segment.recall for segment in replaced),
        memory=max((segment.index.bytes for segment in replaced if "SQ8" in segment.kind), default=None),
        final=any(segment.kind.startswith("HNSW") for segment in replaced),
    )
    fingerprint = snapshot.stage_fingerprints[CAPTIONS]
    job = IndexJob(writer.store, (), snapshot, fingerprint, options, np.zeros(0, np.int64), purges=True)
    receipt = run_job(job.shard(), writer).receipt
    return segment_of(receipt)[0], paths, [receipt]


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
    present = nums_of(OverlayTable(store, snapshot.rows).slices())
    for parts in snapshot.parts.values():
        part = read_parts(store, parts)
        for stage, inputs in zip(part.column("stage").to_pylist(), part.column("inputs").to_pylist(), strict=True):
            receipt = read_receipt(store, receipt_path(stage, inputs))
            failed = np.array([failure.num for failure in receipt.failures] if receipt else [], np.int64)
            if receipt is not None and not matches(present, failed)[1].all():
                store.delete(receipt.path)
