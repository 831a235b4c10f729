"""Overlay tables: what a snapshot knows of every row, as immutable sorted segments of which the newest wins.

A commit writes what it changes as one more segment; nothing is modified in place. A segment is an Arrow IPC file
(uncompressed, for memory maps) or, for foreign readers, a Parquet file, sorted by ``num`` in batches of at most 65,536
rows, so that a slice of the numbers costs the batches that it touches.
"""

from __future__ import annotations

import bisect
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisebank.format.reading import PARQUET, arrow_buffer, reading
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
    first = next(iter(pieces), None)
    if first is None:
        return None
    schema = first.schema.remove_metadata()
    with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
        path = Path(scratch, "segment")
        rows = 0
        with _SegmentFile(path, schema, suffix) as file:
            for table in chain([first], pieces):
                file.write(table.replace_schema_metadata(None).cast(schema))
                rows += table.num_rows
        return writer.file(path, folder, suffix, rows)


class _SegmentFile:
    """Cuts tables into full batches and checks that they ascend."""

    def __init__(self, path: Path, schema: pa.Schema, suffix: str) -> None:
        if suffix == PARQUET:
            self._file = pq.ParquetWriter(path, schema, compression="zstd")
        else:
            self._file = pa.ipc.new_file(path, schema)
        self._parquet = suffix == PARQUET
        self._waiting = schema.empty_table()
        self._last = -1

    def __enter__(self) -> _SegmentFile:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None and self._waiting.num_rows:
            self._write_batch(self._waiting)
        self._file.close()

    def write(self, table: pa.Table) -> None:
        nums = table.column("num").to_numpy()
        if nums[0] < self._last or (np.diff(nums) < 0).any():
            raise ValueError("the rows of a segment must be sorted by num")
        self._last = nums[-1]
        table = pa.concat_tables([self._waiting, table])
        whole = table.num_rows - table.num_rows % BATCH_ROWS
        for start in range(0, whole, BATCH_ROWS):
            self._write_batch(table.slice(start, BATCH_ROWS))
        self._waiting = table.slice(whole).combine_chunks()

    def _write_batch(self, table: pa.Table) -> None:
        if self._parquet:
            self._file.write_table(table, row_group_size=BATCH_ROWS)
        else:
            self._file.write_batch(table.combine_chunks().to_batches()[0])


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

    def __init__(
        self,
        store: Store,
        entries: Sequence[FileEntry],
        key: tuple[str, ...] = ("num",),
        schema: pa.Schema | None = None,
    ) -> None:
        self.store = store
        self.entries = tuple(entries)
        self.key = key
        self._schema = schema

    @cached_property
    def _segments(self) -> list[_Segment]:
        return [_Segment(self.store, entry) for entry in self.entries]

    @cached_property
    def _finders(self) -> list[_Finder]:
        return [_Finder(self.store, entry) for entry in reversed(self.entries)]

    def slice(self, lo: int, hi: int | None = None) -> pa.Table:
        """The rows with ``lo <= num < hi`` (no ``hi``: to the end), sorted by key.

        Raises:
            BankDamaged: a segment is missing or cannot be read.
        """
        empty = [] if self._schema is None else [self._schema.empty_table()]
        return merge([*empty, *(segment.slice(lo, hi) for segment in self._segments)], self.key)

    def read(self) -> pa.Table:
        """All rows, sorted by key."""
        return self.slice(0)

    def slices(self) -> Iterator[pa.Table]:
        """All rows, sorted by key, in tables of about a million rows, for work in bounded memory."""
        edges = slice_edges([self]) if self.entries else []
        for lo, hi in zip(edges, [*edges[1:], None], strict=False):
            yield self.slice(lo, hi)

    def find(self, num: int) -> tuple[Any, ...] | None:
        """The values of the newest row of ``num``, in the order of the columns; None if there is no such row.

        A few microseconds; for Arrow segments of numbers without nulls. Local segments are memory-mapped, remote ones
        read whole at the first call.
        """
        for finder in self._finders:
            if (row := finder.find(num)) is not None:
                return row
        return None


def matches(
    nums: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Places of ``wanted`` in the sorted ``nums``, and which are there; places of the others are 0."""
    if not len(nums):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    places = np.minimum(np.searchsorted(nums, wanted), len(nums) - 1)
    found = nums[places] == wanted
    return np.where(found, places, 0), found


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

    def __init__(self, store: Store, entry: FileEntry) -> None:
        self.entry = entry
        with reading(entry.path):
            path = store.local_path(entry.path)
            source = pa.OSFile(str(path)) if path else pa.PythonFile(store.open(entry.path), mode="r")
            self._file: _Batches = _ParquetBatches(source) if entry.path.endswith(PARQUET) else _ArrowBatches(source)
            self.batches = self._file.count
        self._first: dict[int, int] = {}

    def first(self, i: int) -> int:
        """The smallest number in batch ``i``."""
        if i not in self._first:
            with reading(self.entry.path):
                self._first[i] = self._file.first(i)
        return self._first[i]

    def slice(self, lo: int, hi: int | None) -> pa.Table:
        """The rows with ``lo <= num < hi``."""
        batches = range(self.batches)
        begin = max(0, bisect.bisect_left(batches, lo, key=self.first) - 1)
        end = self.batches if hi is None else bisect.bisect_left(batches, hi, key=self.first)
        with reading(self.entry.path):
            tables = [self._file.read(i) for i in range(begin, end)]
            table = pa.concat_tables([self._file.schema.empty_table(), *tables])
            nums = table.column("num").to_numpy()
        start = bisect.bisect_left(nums, lo, key=int)  # (numpy would compare 1 << 63 as a float)
        stop = len(nums) if hi is None else bisect.bisect_left(nums, hi, key=int)
        return table.slice(start, stop - start)


class _Batches(Protocol):
    count: int
    schema: pa.Schema

    def first(self, i: int) -> int: ...

    def read(self, i: int) -> pa.Table: ...


class _ArrowBatches:
    def __init__(self, source: pa.NativeFile) -> None:
        self._reader = pa.ipc.open_file(source)
        self.schema = self._reader.schema
        self.count = self._reader.num_record_batches
        options = pa.ipc.IpcReadOptions(included_fields=[self.schema.get_field_index("num")])
        self._nums = pa.ipc.open_file(source, options=options)

    def first(self, i: int) -> int:
        return int(self._nums.get_batch(i).column(0)[0].as_py())

    def read(self, i: int) -> pa.Table:
        return pa.Table.from_batches([self._reader.get_batch(i)])


class _ParquetBatches:
    def __init__(self, source: pa.NativeFile) -> None:
        self._file = pq.ParquetFile(source)
        self.schema = self._file.schema_arrow
        self.count = self._file.num_row_groups
        self._num = self.schema.get_field_index("num")

    def first(self, i: int) -> int:
        return int(self._file.metadata.row_group(i).column(self._num).statistics.min)

    def read(self, i: int) -> pa.Table:
        return self._file.read_row_group(i)


class _Finder:
    """The columns of an Arrow segment as numpy arrays over its memory map."""

    def __init__(self, store: Store, entry: FileEntry) -> None:
        with reading(entry.path):
            path = store.local_path(entry.path)
            source = pa.memory_map(str(path)) if path else pa.BufferReader(arrow_buffer(store.read(entry.path)))
            reader = pa.ipc.open_file(source)
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
    values = column.unique().sort()
    return pc.index_in(column, value_set=values).to_numpy()  # type: ignore[no-any-return]
