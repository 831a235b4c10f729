"""Index: captions files in; one FAISS segment with its entries, its recall over the whole snapshot, and a receipt out.

The new segment holds the captions that the build made. Where segments have become too many, too worn, or too bad, it
also takes in what is live in them, and they leave the snapshot.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisebank.errors import JobFailed
from noisebank.format.caption_places import all_captions, caption_places, rows_by_file
from noisebank.format.index_deletions import read_deleted, read_nums
from noisebank.format.manifest import EMPTY, IndexSegment, Snapshot, read_snapshot
from noisebank.format.parts import read_parts
from noisebank.format.reading import verified_table
from noisebank.format.receipts import find_receipts, inputs_hash
from noisebank.format.schemas import ENTRIES, ROWS
from noisebank.format.stage_names import CAPTIONS, INDEX
from noisebank.format.status import Status
from noisebank.format.tables import OverlayTable, nums_of
from noisebank.ids import Nums
from noisebank.options import IndexOptions
from noisebank.planning.plan import Plan
from noisebank.search.index import TunedIndex, Vectors, build_index, choose_index
from noisebank.search.segments import ENTRY_GROUP, Entries, Segment, merge_segments_from, open_segment, union_recall
from noisebank.stages.job import Made, ShardJob
from noisebank.storage import BankWriter, FileEntry, Store

_log = logging.getLogger(__name__)

_INDEX, _ENTRIES, _INFO = ".faiss", ".parquet", ".json"
_BLOCK = 65_536


@dataclasses.dataclass(frozen=True)
class IndexJob:
    """One index segment to build.

    Args:
        store: the bank.
        captions: the files of the captions shards of the build.
        parent: the snapshot that the build updates.
        fingerprint: of the captions stage.
        options: recall that the segments of the new snapshot must have together, and the type of this one.
        gone: numbers of the clips that leave the bank in this build.
        claimed: files of finished captions shards that the build claimed, and which of their rows it uses.
        purges: whether every older segment with deleted positions is replaced.
    """

    store: Store
    captions: tuple[FileEntry, ...]
    parent: Snapshot
    fingerprint: str
    options: IndexOptions
    gone: Nums
    claimed: tuple[tuple[FileEntry, Nums], ...] = ()
    purges: bool = False

    def shard(self) -> ShardJob:
        """The segment as the job of a shard."""
        return ShardJob(INDEX, self.fingerprint, self.inputs, self.size, self.make)

    @property
    def inputs(self) -> str:
        """Hash of everything that the segment and its recall follow from."""
        captions = sorted(entry.sha256 for entry in self.captions)
        captions += sorted(f"{entry.sha256} {rows.tolist()}" for entry, rows in self.claimed)
        older = [[old.index.sha256, old.deleted.sha256 if old.deleted else ""] for old in self.parent.index]
        options = [json.dumps(dataclasses.asdict(self.options))]
        return inputs_hash(self.fingerprint, *map(pa.array, (captions, older, self.gone, options)))

    @property
    def size(self) -> int:
        """Captions that the build adds."""
        return sum(entry.rows for entry in self.captions) + sum(len(rows) for _, rows in self.claimed)

    def make(self, writer: BankWriter) -> Made:
        """Builds the segment; :func:`noisebank.format.receipts.segment_of` reads the receipt.

        Raises:
            JobFailed: the recall cannot be reached; or captions that stay were embedded with another model.
            BankDamaged: a captions file or an earlier segment is missing or damaged.
        """
        with tempfile.TemporaryDirectory(prefix="noisebank-index-") as scratch:
            segment, replaces = self._build(Path(scratch), writer)
        info = {"segment": dataclasses.asdict(segment), "replaces": [old.index.path for old in replaces]}
        note = f"{segment.kind}, recall {segment.recall:.3f}, replaces {len(replaces)} earlier"
        return Made(segment.files, segment.size, info=info, note=note)

    def _build(self, scratch: Path, writer: BankWriter) -> tuple[IndexSegment, tuple[IndexSegment, ...]]:
        """The published segment, and those that it replaces."""
        first = self._first_replaced()
        while True:
            kept, replaced = self.parent.index[:first], self.parent.index[first:]
            entries, vectors = self._collect(replaced, scratch)
            n, dim = vectors.shape
            kind = choose_index(n, dim, self.options.memory, self.options.final)
            tuned = build_index(vectors, self.options.min_recall, kind)
            faiss.write_index(tuned.index, str(scratch / _INDEX))
            pq.write_table(entries, scratch / _ENTRIES, compression="zstd", row_group_size=ENTRY_GROUP)
            recall = self._recall(tuned, kept, entries.column("num").to_numpy(), scratch)
            if min(recall.values()) >= self.options.min_recall or not kept:
                return self._store(tuned, recall, scratch, writer), replaced
            _log.info("recall over %d segments is %s; merging them all", len(kept) + 1, recall)
            first = 0

    def _first_replaced(self) -> int:
        """Which of the older segments the new one takes in: this and all later."""
        if self.parent.fingerprints.get("captions") != self.fingerprint:
            return 0
        live, sizes = [old.live for old in self.parent.index], [old.size for old in self.parent.index]
        if self.purges:
            return next((i for i in range(len(live)) if live[i] < sizes[i]), len(live))
        return min(merge_segments_from([*live, self.size], [*sizes, self.size]), len(live))

    def _collect(self, replaced: Sequence[IndexSegment], scratch: Path) -> tuple[pa.Table, Vectors]:
        """Entries sorted by num and their vectors: of the captions made, and what is live in replaced segments."""
        places: list[tuple[FileEntry, Nums]] = [(entry, np.arange(entry.rows)) for entry in self.captions]
        places += self.claimed
        if replaced:
            new = nums_of(verified_table(self.store, entry, ["num"]).take(pa.array(rows)) for entry, rows in places)
            live = [read_nums(self.store, old)[~read_deleted(self.store, old)] for old in replaced]
            places += self._places(np.setdiff1d(np.concatenate(live), np.union1d(new, self.gone)))
        tables = []
        with (scratch / "unsorted").open("wb") as unsorted:
            for entry, rows in places:
                table = verified_table(self.store, entry).take(pa.array(rows))
                tables.append(table.select(ENTRIES.names))
                unsorted.write(table.column("embedding").combine_chunks().flatten().to_numpy().data)
        entries = pa.concat_tables(tables).cast(ENTRIES)
        order = np.argsort(entries.column("num").to_numpy(), kind="stable")
        collected = np.memmap(scratch / "unsorted", np.float32, "r").reshape(len(order), -1)
        vectors = np.memmap(scratch / "vectors", np.float32, "w+", shape=collected.shape)
        for start in range(0, len(order), _BLOCK):
            vectors[start : start + _BLOCK] = collected[order[start : start + _BLOCK]]
        return entries.take(pa.array(order)), vectors

    def _places(self, nums: Nums) -> list[tuple[FileEntry, Nums]]:
        """Captions files of the parent snapshot that hold the captions of ``nums``, and their rows there."""
        if not len(nums):
            return []
        part = read_parts(self.store, self.parent.parts.get("captions", ()))
        stale = set(part.filter(pc.field("fingerprint") != self.fingerprint).column("key").to_pylist())
        places = caption_places(self.store, self.parent.rows, part, pc.is_in(pc.field("num"), pa.array(nums)))
        if count := sum(len(rows) for entry, rows in places if entry.key in stale):
            raise JobFailed(
                f"{count} captions that stay in the bank were embedded with another model; list their sources in this "
                "build too, or remove them with --prune"
            )
        return places

    def _recall(self, built: TunedIndex, kept: Sequence[IndexSegment], nums: Nums, scratch: Path) -> dict[int, float]:
        """recall@k of the new snapshot's search."""
        if not kept:
            return built.recall
        dead = np.union1d(nums, self.gone)
        opened = [open_segment(self.store, segment, scratch) for segment in kept]
        masked = [segment.restricted(~np.isin(segment.entries.nums(), dead)) for segment in opened]
        return union_recall([*(s for s in masked if s.live), Segment(built.index, Entries(scratch / _ENTRIES))])

    def _store(self, built: TunedIndex, recall: dict[int, float], scratch: Path, writer: BankWriter) -> IndexSegment:
        info = {
            "kind": built.kind,
            "metric": "inner_product",
            "size": built.index.ntotal,
            "dim": built.index.d,
            "effort": built.effort,
            "recall": {str(k): value for k, value in built.recall.items()},
            "recall_of_all_segments": {str(k): value for k, value in recall.items()},
            "captions": self.fingerprint,
        }
        (scratch / _INFO).write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
        rows = int(built.index.ntotal)
        files = [(scratch / suffix, suffix, rows) for suffix in (_INDEX, _ENTRIES, _INFO)]
        index, entries, how = writer.group(files, INDEX)
        return IndexSegment(index, entries, how, None, built.kind, rows, min(recall.values()))


def index_job(store: Store, plan: Plan, captions: Iterable[FileEntry], options: IndexOptions) -> ShardJob | None:
    """The index segment of a build; None where it has no captions to index.

    Args:
        store: the bank.
        plan: of the build.
        captions: the files of its captions shards.
        options: what the index must be like.
    """
    files = sorted(set(captions), key=lambda entry: entry.path)
    receipts = find_receipts(store, (name for name in plan.claimed if name[0] == CAPTIONS))
    shards = {entry.key: entry for receipt in receipts for entry in receipt.files}
    wanted = pc.is_in(pc.field("caption_file"), pa.array(list(shards), pa.uint64()))
    used = rows_by_file(store, plan.changes.get("rows", ()), wanted) if shards else {}
    claimed = tuple((shards[key], all_captions(store, shards[key], rows)) for key, rows in sorted(used.items()))
    if not (files or claimed):
        return None
    parent = EMPTY if plan.parent is None else read_snapshot(store, plan.parent)
    rows = OverlayTable(store, plan.changes.get("rows", ()), schema=ROWS)
    gone = nums_of(piece.filter(pc.field("status") == int(Status.REMOVED)) for piece in rows.slices())
    return IndexJob(store, tuple(files), parent, plan.fingerprints[CAPTIONS], options, gone, claimed).shard()
