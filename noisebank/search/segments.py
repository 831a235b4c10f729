"""Search over the immutable segments of a snapshot's index, with what has been deleted masked out.

A segment is a FAISS index whose ids are positions, a Parquet table of the caption that stands at each position (sorted
by the clips' numbers; a clip may have several) and a bitmap of deleted positions. Results of several segments are
merged by score.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.errors import BankDamaged
from noisebank.format.index_deletions import read_deleted
from noisebank.format.manifest import IndexSegment
from noisebank.format.reading import verified_path
from noisebank.format.tables import merge_from
from noisebank.ids import Mask, Nums
from noisebank.search.index import RECALL_AT, Vectors, blend, recall_of
from noisebank.storage import Store

ENTRY_GROUP = 8_192
"""Rows in a row group of the entries: what one lookup decodes."""

_MAPPED_BYTES = 64 << 20
_CACHED_GROUPS = 16
_DELETED_SHARE = 0.2
_QUERIES = 256
_SEED = 4321


@dataclass(frozen=True)
class Hit:
    """A clip that was found.

    Args:
        id: of the clip.
        caption: of its captions the one that was found; the first where the clip was asked for by its id.
        score: cosine of the embeddings of this caption and the prompt; 1 where the clip was asked for by its id.
        source: the list that it came from.
        num: its number.
    """

    id: str
    caption: str
    score: float
    source: str
    num: int = field(repr=False)


class Entries:
    """The entries of a segment, a local Parquet file sorted by num, read a row group at a time."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        metadata = self._file.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        self._starts: list[int] = [0, *itertools.accumulate(group.num_rows for group in groups)]
        self._first_nums = [group.column(0).statistics.min for group in groups]
        self._group = lru_cache(_CACHED_GROUPS)(self._file.read_row_group)

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, position: int, score: float = 1.0) -> Hit:
        """The clip at ``position``, found with a score."""
        group = bisect.bisect_right(self._starts, position) - 1
        row = position - self._starts[group]
        table = self._group(group)
        values = {name: table.column(name)[row].as_py() for name in ("num", "id", "source", "caption")}
        return Hit(score=score, **values)

    def find(self, num: int) -> int | None:
        """The position of the first caption of the clip ``num``; None if it is not in the segment."""
        return next(iter(self.positions(num)), None)

    def positions(self, num: int) -> range:
        """The positions of the captions of the clip ``num``; none if it is not in the segment."""
        found = range(0)
        first, last = bisect.bisect_left(self._first_nums, num) - 1, bisect.bisect_right(self._first_nums, num)
        for i in range(max(first, 0), last):
            nums, start = self._group(i).column("num").to_numpy(), self._starts[i]
            low, high = (start + int(np.searchsorted(nums, num, side)) for side in ("left", "right"))
            found = range(found.start if found else low, high) if low < high else found
        return found

    def ids(self) -> pa.Table:
        """Number and id of the clip at every position."""
        return self._file.read(columns=["num", "id"])

    def nums(self) -> Nums:
        """The number of the clip at every position."""
        nums: Nums = self._file.read(columns=["num"]).column("num").to_numpy()
        return nums


class Segment:
    """One open segment.

    Args:
        index: the FAISS index; never add to one that is memory-mapped, that aborts the process.
        entries: what stands at its positions.
        deleted: one bool a position, or None where nothing is deleted; not changed afterwards.
    """

    def __init__(self, index: Any, entries: Entries, deleted: Mask | None = None) -> None:
        self.index, self.entries, self.deleted = index, entries, deleted
        self.size = self.live = int(index.ntotal)  # (live: those positions that can be found)
        self._selector = None
        if deleted is not None:
            self.live -= int(deleted.sum())
            self._selector = faiss.IDSelectorBitmap(np.packbits(~deleted, bitorder="little"))

    def restricted(self, keep: Mask) -> Segment:
        """The same segment with only the positions ``keep``."""
        return Segment(self.index, self.entries, ~keep if self.deleted is None else self.deleted | ~keep)

    def search(self, queries: Vectors, k: int, exhaustive: bool = False) -> tuple[Vectors, Nums]:
        """Scores ``[Q, k]``, descending, and positions ``[Q, k]``; -inf and -1 where there are fewer than ``k``.

        Args:
            queries: ``[Q, D]`` float32 of length one.
            k: results a query.
            exhaustive: visit everything: exact up to the precision of the stored vectors.
        """
        index, parameters = self.index, None
        if exhaustive and isinstance(index, faiss.IndexHNSW):
            index = faiss.downcast_index(index.storage)
        if isinstance(index, faiss.IndexIVF):
            nprobe = index.nlist if exhaustive else index.nprobe
            parameters = faiss.SearchParametersIVF(sel=self._selector, nprobe=nprobe)
        elif isinstance(index, faiss.IndexHNSW):
            parameters = faiss.SearchParametersHNSW(sel=self._selector, efSearch=max(k, index.hnsw.efSearch))
        elif self._selector:
            parameters = faiss.SearchParameters(sel=self._selector)
        scores, positions = index.search(np.ascontiguousarray(queries), k, params=parameters)
        return np.where(positions < 0, -np.inf, scores), positions

    def vectors(self, positions: Nums) -> Vectors:
        """The stored vectors ``[N, D]`` at ``positions``."""
        if isinstance(self.index, faiss.IndexIVF):
            self.index.make_direct_map(True)
        found: Vectors = self.index.reconstruct_batch(positions)
        return found


def open_segment(store: Store, segment: IndexSegment, scratch: Path) -> Segment:
    """Opens a segment for search; remote files are copied to the folder ``scratch`` first.

    Raises:
        BankDamaged: one of its files is missing, damaged or does not fit the others.
    """
    path = verified_path(store, segment.index, scratch)
    flags = faiss.IO_FLAG_MMAP_IFC if segment.index.bytes > _MAPPED_BYTES else 0
    try:
        index = faiss.read_index(str(path), flags)
        entries = Entries(verified_path(store, segment.entries, scratch))
    except (RuntimeError, pa.ArrowException) as error:
        raise BankDamaged(f"{segment.index.path}: cannot be read ({error}); run verify") from error
    if not index.ntotal == len(entries) == segment.size:
        raise BankDamaged(
            f"{segment.index.path}: {index.ntotal} vectors and {len(entries)} entries, the manifest says "
            f"{segment.size}; run verify"
        )
    return Segment(index, entries, read_deleted(store, segment) if segment.deleted else None)


def search_segments(
    segments: Sequence[Segment], queries: Vectors, k: int, exhaustive: bool = False
) -> tuple[Vectors, Nums, Nums]:
    """The ``k`` best over all segments.

    Returns:
        Scores ``[Q, k]``, descending; which segment each is from ``[Q, k]``; its position there ``[Q, k]``. Where there
        are fewer results: -inf, -1, -1. Equal scores: the earlier segment, the lower position first.
    """
    found = [segment.search(queries, k, exhaustive) for segment in segments]
    empty = np.full((len(queries), k), -1, np.int64)
    scores = np.concatenate([np.full(empty.shape, -np.inf, np.float32), *(pair[0] for pair in found)], axis=1)
    positions = np.concatenate([empty, *(pair[1] for pair in found)], axis=1)
    origin = np.repeat(np.arange(-1, len(segments)), k)[None].repeat(len(queries), axis=0)
    origin = np.where(positions < 0, -1, origin)
    order = np.lexsort((positions, origin, -scores))[:, :k]
    scores, origin, positions = (np.take_along_axis(found, order, axis=1) for found in (scores, origin, positions))
    return scores, origin, positions


def union_recall(segments: Sequence[Segment]) -> dict[int, float]:
    """recall@1 and recall@5 of searching all segments, against visiting everything in them.

    The queries are blends of two live captions drawn from the union (:func:`noisebank.search.index.blend`), always the
    same. Segments that hold their vectors in 8 bits are compared with those.
    """
    random = np.random.default_rng(_SEED)
    pools = [np.arange(s.size) if s.deleted is None else np.flatnonzero(~s.deleted) for s in segments]
    shares = np.asarray([len(pool) for pool in pools]) / sum(len(pool) for pool in pools)
    counts = random.multinomial(2 * _QUERIES, shares)
    drawn = [
        segment.vectors(random.choice(pool, number))
        for segment, pool, number in zip(segments, pools, counts, strict=True)
        if number
    ]
    vectors = random.permutation(np.concatenate(drawn))
    queries = blend(vectors[:_QUERIES], vectors[_QUERIES:])
    exact, _, _ = search_segments(segments, queries, max(RECALL_AT), exhaustive=True)
    found, _, _ = search_segments(segments, queries, max(RECALL_AT))
    return recall_of(found, exact)


def merge_segments_from(live: Sequence[int], sizes: Sequence[int]) -> int:
    """The first of the segments, oldest first, that should be merged into one with all that follow it.

    Segments are merged when they are many (their sizes grow like powers of two, see
    :func:`noisebank.format.tables.merge_from`) or when more than a fifth of one's positions can no longer be found.

    >>> merge_segments_from([1000, 10], [1000, 10]), merge_segments_from([700, 10], [1000, 10])
    (2, 0)
    """
    worn = [i for i, (n, size) in enumerate(zip(live, sizes, strict=True)) if size - n > _DELETED_SHARE * size]
    return min([merge_from(live), *worn])
