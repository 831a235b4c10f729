"""Which clips of a snapshot are complete, and where what is known of each lies: read from the tables in slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.format.caption_places import HELD
from noisebank.format.reading import verified_store
from noisebank.format.schemas import ROWS
from noisebank.format.status import Status
from noisebank.format.tables import OverlayTable, matches, slice_edges
from noisebank.ids import Hashes, Nums
from noisebank.reader.pinned import PinnedSet, PinnedSnapshot

Places = dict[str, npt.NDArray[np.generic]]
"""Columns of equal length, sorted by ``num``: ``clip_file``, ``clip_row``, ``caption_file``, ``caption_row`` (of the
first caption), and of a noise set ``file``, ``row`` and ``checksum``."""

_HELD = ("num", "clip_file", "clip_row", "caption_file", "caption_row")
_RECORD = ("file", "row", "checksum")


def complete_places(pinned: PinnedSnapshot, records: PinnedSet | None) -> Iterator[Places]:
    """The clips with a caption and, if ``records`` are given, a record in that set, in slices of about a million rows.

    Raises:
        BankDamaged: a table is missing or damaged.
    """
    entries = pinned.snapshot.rows
    rows = OverlayTable(verified_store(pinned.store, entries, pinned.scratch), entries, schema=ROWS)
    edges = slice_edges([rows, *([records.table] if records else [])])
    for lo, hi in zip(edges, [*edges[1:], None], strict=True):
        held = rows.slice(lo, hi).filter(HELD)
        places: Places = {name: held.column(name).to_numpy() for name in _HELD}
        yield _with_records(places, records.table.slice(lo, hi)) if records else places


def places_in(pinned: PinnedSnapshot, records: PinnedSet | None, column: str, files: Hashes) -> Places:
    """Those of :func:`complete_places` whose ``column`` is one of the keys ``files``."""
    empty = {name: ROWS.field(name).type.to_pandas_dtype() for name in _HELD}
    found: list[Places] = [{name: np.zeros(0, dtype) for name, dtype in empty.items()}]
    if records:
        found[0] |= {"file": np.zeros(0, np.uint64), "row": np.zeros(0, np.int32), "checksum": np.zeros(0, np.uint64)}
    for places in complete_places(pinned, records):
        wanted = np.isin(places[column], files)
        found.append({name: values[wanted] for name, values in places.items()})
    return {name: np.concatenate([places[name] for places in found]) for name in found[0]}


def count_by_file(pinned: PinnedSnapshot, records: PinnedSet | None, column: str) -> tuple[Hashes, Nums]:
    """The keys in ``column`` of the complete clips, sorted, and how many clips have each."""
    keys, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    for places in complete_places(pinned, records):
        united, at = np.unique(np.concatenate([keys, places[column].astype(np.uint64)]), return_inverse=True)
        ones = np.ones(len(at) - len(keys), np.int64)
        keys, counts = united, np.bincount(at, np.concatenate([counts, ones]), len(united)).astype(np.int64)
    return keys, counts


def complete_ids(pinned: PinnedSnapshot, records: PinnedSet | None) -> list[str]:
    """The ids of the complete clips, by their numbers."""
    nums = np.concatenate([np.zeros(0, np.int64), *(p["num"] for p in complete_places(pinned, records))])
    ids: npt.NDArray[np.object_] = np.full(len(nums), None, object)
    for segment in pinned.segments:
        entries = segment.entries.ids()
        at, found = matches(nums, entries.column("num").to_numpy())
        if segment.deleted is not None:
            found &= ~segment.deleted
        ids[at[found]] = np.asarray(entries.column("id").filter(pa.array(found)).to_pylist(), object)
    return [id for id in ids.tolist() if id is not None]


def _with_records(places: Places, table: pa.Table) -> Places:
    held = table.filter((pc.field("status") == int(Status.OK)) & (pc.field("file") != pa.scalar(0, pa.uint64())))
    at, found = matches(held.column("num").to_numpy(), places["num"].astype(np.int64, copy=False))
    records = {name: held.column(name).to_numpy()[at[found]] for name in _RECORD}
    return {name: values[found] for name, values in places.items()} | records


def slice_of(counts: Nums, shares: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """The part of rows, in shards of these counts, that falls to one worker of one rank.

    Args:
        counts: rows of each shard, in the order in which they are read.
        shares: ``(number, of how many)``, the coarsest first: the rank, then the worker.

    Returns:
        ``(shard, first row, row after the last)`` of every shard that is not left out. Shares of one level differ by
        one row at most, and are cut out of the rows one after the other, so that few shards are read by two.

    >>> slice_of(np.array([3, 3]), [(0, 2)]), slice_of(np.array([3, 3]), [(1, 2), (0, 2)])
    ([(0, 0, 3)], [(1, 0, 1)])
    """
    ends = np.cumsum(counts)
    low, high = 0, int(counts.sum())
    for number, of in shares:
        low, high = low + (high - low) * number // of, low + (high - low) * (number + 1) // of
    parts = []
    for shard in range(int(np.searchsorted(ends, low, side="right")), len(counts)):
        start = int(ends[shard] - counts[shard])
        if start >= high:
            break
        parts.append((shard, max(low - start, 0), min(high - start, int(counts[shard]))))
    return parts
