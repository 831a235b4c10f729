"""Overlay tables: what a snapshot knows of every row, as immutable sorted segments of which the newest wins.

A commit writes what it changes as one more segment; nothing is modified in place. A segment is an Arrow IPC file
(uncompressed, for memory maps) or, for foreign readers, a Parquet file, sorted by ``num`` in batches of at most 65,536
rows, so that a slice of the numbers costs the batches that it touches.
"""

from __future__ import annotations

import bisect
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisebank.format.reading import PARQUET, check_columns, reading
from noisebank.format.schemas import schema_of
from noisebank.ids import Hashes, Mask, Nums
from noisebank.storage import BankWriter, FileEntry, Store

BATCH_ROWS = 65_536
FAILURE_KEY = ("num", "stage")
"""What identifies a row of the table of failures; the other tables have one row a ``num``."""

ARROW = ".arrow"
_MERGE_RATIO = 2
_SLICE_BATCHES = 16


def write_segment(
    writer: BankWriter, folder: str, tables: pa.Table | Iterable[pa.Table], suffix: str = ARROW
) -> FileEntry | None:
    """Writes one segment from one table or from several of ascending numbers.

    Args:
        writer: of the bank.
        folder: such as ``rows`` or ``records/<set>``.
        tables: sorted by ``num`` as one; of one schema.
        suffix: ``.arrow`` or ``.parquet``.

    Returns:
        The file, or None where there is no row to write.

    Raises:
        ValueError: the rows are not sorted by num.
    """
    pieces = (table for table in ([tables] if isinstance(tables, pa.Table) else tables) if table.num_rows)
    first = next(pieces, None)
    if first is None:
        return None
    schema = first.schema.remove_metadata()
    with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
        path, rows = Path(scratch, "segment"), 0
        is_parquet = suffix == PARQUET
        with (
            pq.ParquetWriter(path, schema, compression="zstd") if is_parquet else pa.ipc.new_file(path, schema) as file
        ):
            for batch in _cut_batches(chain([first], pieces), schema):
                file.write_batch(batch)
                rows += batch.num_rows
        return writer.file(path, folder, suffix, rows)


def write_parquet(writer: BankWriter, folder: str, table: pa.Table, **options: Any) -> FileEntry:
    """Writes a table that is small enough for memory as one Parquet file; ``options`` of ``pyarrow.parquet`` beside or
    in place of zstd."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **{"compression": "zstd", **options})
    return writer.data(memoryview(sink.getvalue()), folder, PARQUET, table.num_rows)


def _cut_batches(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Cuts tables, none empty, into full batches and one that may be smaller; checks that they ascend."""
    waiting, last = schema.empty_table(), -1
    for table in tables:
        nums = table.column("num").to_numpy()
        if nums[0] < last or (np.diff(nums) < 0).any():
            raise ValueError("the rows of a segment must be sorted by num")
        last = nums[-1]
        waiting = pa.concat_tables([waiting, table.replace_schema_metadata(None).cast(schema)])
        while waiting.num_rows >= BATCH_ROWS:
            yield from waiting.slice(0, BATCH_ROWS).combine_chunks().to_batches()
            waiting = waiting.slice(BATCH_ROWS)
        waiting = waiting.combine_chunks()
    yield from waiting.to_batches()


@dataclass(eq=False)
class OverlayTable:
    """A table made of segments, oldest first; of the rows of one key the newest segment's counts.

    Reading a slice touches the batches it needs, by plain reads locally and range requests remotely, so that memory
    stays small; :meth:`find` memory-maps local files and is for readers.

    Args:
        store: the bank.
        entries: the segments, oldest first.
        key: the columns that identify a row; the first is ``num``.
        schema: of a table that may have no segment yet.

    Example:
        >>> rows = OverlayTable(store, snapshot.rows)               # doctest: +SKIP
        >>> rows.slice(0, 1 << 40).num_rows                         # doctest: +SKIP
    """

    store: Store
    entries: Sequence[FileEntry]
    key: tuple[str, ...] = ("num",)
    schema: pa.Schema | None = None

    @cached_property
    def _segments(self) -> list[_Segment]:
        return [_Segment(self.store, entry, self.schema or schema_of(entry.path)) for entry in self.entries]

    @cached_property
    def _finders(self) -> list[_Finder]:
        return [_Finder(self.store, entry) for entry in reversed(self.entries)]

    def slice(self, lo: int, hi: int | None = None) -> pa.Table:
        """The rows with ``lo <= num < hi`` (no ``hi``: to the end), sorted by key.

        Raises:
            BankDamaged: a segment is missing or cannot be read.
        """
        empty = [] if self.schema is None else [self.schema.empty_table()]
        return merge([*empty, *(segment.slice(lo, hi) for segment in self._segments)], self.key)

    def read(self) -> pa.Table:
        """All rows, sorted by key."""
        return self.slice(0)

    def slices(self) -> Iterator[pa.Table]:
        """All rows, sorted by key, in tables of about a million rows, for work in bounded memory."""
        edges = slice_edges([self]) if self.entries else []
        for lo, hi in zip(edges, [*edges[1:], None], strict=False):
            yield self.slice(lo, hi)

    __iter__ = slices

    def find(self, num: int) -> tuple[Any, ...] | None:
        """The values of the newest row of ``num``, in the order of the columns; None if there is no such row.

        A few microseconds; for Arrow segments of numbers without nulls. Local segments are memory-mapped, remote ones
        read whole at the first call.
        """
        return next((row for finder in self._finders if (row := finder.find(num)) is not None), None)


def matches(nums: Nums, wanted: Nums) -> tuple[Nums, Mask]:
    """Places of ``wanted`` in the sorted ``nums``, and which are there; places of the others are 0."""
    if not len(nums):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    places = np.minimum(np.searchsorted(nums, wanted), len(nums) - 1)
    found = nums[places] == wanted
    return np.where(found, places, 0), found


def column_at(nums: Nums, tables: Iterable[pa.Table], name: str) -> Hashes:
    """A column of numbers at ``nums``, 0 where they are in none of the tables, which are sorted by ``num``."""
    values = np.zeros(len(nums), np.uint64)
    for table in tables:
        at, found = matches(table.column("num").to_numpy(), nums)
        values[found] = table.column(name).to_numpy()[at[found]]
    return values


def nums_of(tables: Iterable[pa.Table]) -> Nums:
    """The numbers of the rows of all tables, one after the other."""
    return np.concatenate([np.zeros(0, np.int64), *(table.column("num").to_numpy() for table in tables)])


def slice_edges(tables: Iterable[OverlayTable]) -> list[int]:
    """Numbers, from 0, that cut the largest of the tables' segments into slices of about a million rows."""
    segments = [segment for table in tables for segment in table._segments]
    if not segments:
        return [0]
    largest = max(segments, key=lambda segment: segment.entry.rows)
    return [0, *(largest.first(i) for i in range(_SLICE_BATCHES, largest.batches, _SLICE_BATCHES))]


def merge(tables: Sequence[pa.Table], key: tuple[str, ...] = ("num",)) -> pa.Table:
    """One table out of several, oldest first: of each key the newest row, sorted by key.

    Raises:
        ValueError: there is no table (an empty one with the schema is one).
    """
    if not tables:
        raise ValueError("nothing to merge: give at least an empty table")
    filled = [table for table in tables if table.num_rows]
    if len(filled) < 2:
        return filled[0] if filled else tables[0]
    table = pa.concat_tables(filled).combine_chunks()
    columns = [_ranks(table.column(name)) for name in key]
    order = np.argsort(columns[0], kind="stable") if len(columns) == 1 else np.lexsort(columns[::-1])
    newest = np.zeros(len(order), bool)
    newest[-1] = True
    for column in columns:
        ordered = column[order]
        newest[:-1] |= ordered[1:] != ordered[:-1]
    return table.take(pa.array(order[newest]))


def merge_from(sizes: Sequence[int]) -> int:
    """The first of the segments, oldest first, that should be merged into one with all that follow it.

    A segment stays while it has at least twice the rows of all that follow: sizes grow like powers of two, so that
    segments are few (20 after a million commits) and a row is rewritten a logarithmic number of times.

    >>> merge_from([1000, 10])
    2
    >>> merge_from([1000, 10, 10])
    1
    """
    first = len(sizes) - 1
    following = sizes[-1] if sizes else 0
    while first > 0 and sizes[first - 1] < _MERGE_RATIO * following:
        first -= 1
        following += sizes[first]
    return first if first < len(sizes) - 1 else len(sizes)


class _Segment:
    """One segment, read in batches (of an Arrow file) or row groups (of a Parquet file)."""

    def __init__(self, store: Store, entry: FileEntry, schema: pa.Schema) -> None:
        self.entry = entry
        self._first: Callable[[int], Any]
        with reading(entry.path):
            path = store.local_path(entry.path)
            source = pa.OSFile(str(path)) if path else pa.PythonFile(store.open(entry.path), mode="r")
            if entry.path.endswith(PARQUET):
                groups = pq.ParquetFile(source)
                self._schema, self.batches = groups.schema_arrow, groups.num_row_groups
                self._read = groups.read_row_group
            else:
                reader = pa.ipc.open_file(source)
                self._schema, self.batches = reader.schema, reader.num_record_batches
                self._read = lambda i: pa.Table.from_batches([reader.get_batch(i)])
            check_columns(entry.path, self._schema, ["num", *schema.names], schema)
            at = self._schema.get_field_index("num")
            if entry.path.endswith(PARQUET):
                self._first = lambda i: groups.metadata.row_group(i).column(at).statistics.min
            else:
                nums = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=[at]))
                self._first = lambda i: nums.get_batch(i).column(0)[0].as_py()
        self.first = cache(self._read_first)

    def _read_first(self, i: int) -> int:
        with reading(self.entry.path):
            return int(self._first(i))

    def slice(self, lo: int, hi: int | None) -> pa.Table:
        """The rows with ``lo <= num < hi``."""
        batches = range(self.batches)
        begin = max(0, bisect.bisect_left(batches, lo, key=self.first) - 1)
        end = self.batches if hi is None else bisect.bisect_left(batches, hi, key=self.first)
        with reading(self.entry.path):
            table = pa.concat_tables([self._schema.empty_table(), *map(self._read, range(begin, end))])
        nums = table.column("num").to_numpy()
        start = bisect.bisect_left(nums, lo, key=int)  # (numpy would compare 1 << 63 as a float)
        stop = len(nums) if hi is None else bisect.bisect_left(nums, hi, key=int)
        return table.slice(start, stop - start)


class _Finder:
    """The columns of an Arrow segment as numpy arrays over its memory map."""

    def __init__(self, store: Store, entry: FileEntry) -> None:
        with reading(entry.path):
            path = store.local_path(entry.path)
            if path:
                source = pa.memory_map(str(path))
            else:
                content = pa.BufferOutputStream()  # (Arrow's threads may free it when the interpreter has ended)
                content.write(store.read(entry.path))
                source = pa.BufferReader(content.getvalue())
            reader = pa.ipc.open_file(source)
            check_columns(entry.path, reader.schema, ["num", *schema_of(entry.path).names], schema_of(entry.path))
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            self._columns = [[column.to_numpy() for column in batch.columns] for batch in batches]
            self._nums = [batch.column("num").to_numpy() for batch in batches]
        self._first = [int(nums[0]) for nums in self._nums]

    def find(self, num: int) -> tuple[Any, ...] | None:
        i = bisect.bisect_right(self._first, num) - 1
        if i < 0:
            return None
        nums = self._nums[i]
        row = int(nums.searchsorted(num))
        if row == len(nums) or nums[row] != num:
            return None
        return tuple(column.item(row) for column in self._columns[i])


def _ranks(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Numbers that sort and compare as the values of ``column`` do."""
    if pa.types.is_integer(column.type):
        return column.to_numpy()  # type: ignore[no-any-return]
    return pc.rank(column, tiebreaker="dense").to_numpy()  # type: ignore[no-any-return]
