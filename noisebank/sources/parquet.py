"""Parquet lists, one range a row group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisebank.sources.block import QUOTED, Block

BATCH_ROWS = 1 << 16
_UNITS = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}
_BYTES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


def read_header(file: BinaryIO) -> list[str]:
    """Column names."""
    return list(pq.ParquetFile(file).schema_arrow.names)


def ranges(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """``(first row, rows)`` of each row group."""
    metadata = pq.ParquetFile(file).metadata
    start = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if rows:
            yield start, rows
        start += rows


def parse(file: BinaryIO, start: int, columns: list[str]) -> Iterator[tuple[int, Block]]:
    """The row group that begins with row ``start``, in blocks of at most 65,536 rows, each with its first row."""
    parquet = pq.ParquetFile(file, pre_buffer=False)
    group, first = 0, 0
    while first < start:
        first += parquet.metadata.row_group(group).num_rows
        group += 1
    for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
        yield start, _block(pa.Table.from_batches([batch]))
        start += batch.num_rows


def _block(table: pa.Table) -> Block:
    bad: dict[int, str] = {}
    columns = {name: _text(table.column(name).combine_chunks(), name, bad) for name in table.column_names}
    return Block(pa.table(columns), bad)


def _text(column: pa.Array, name: str, bad: dict[int, str]) -> pa.Array:
    """Numbers as they are, durations as seconds, everything else as checked text."""
    if pa.types.is_duration(column.type):
        return pc.divide(column.cast(pa.int64()).cast(pa.float64(), safe=False), _UNITS[column.type.unit])
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not any(is_bytes(column.type) for is_bytes in _BYTES):
        try:
            return pc.cast(column, pa.string())
        except pa.ArrowException as error:
            raise pa.ArrowInvalid(f"column {name!r} of type {column.type} cannot be taken as text") from error
    data = column.cast(pa.binary())
    try:
        return data.cast(pa.string())  # (validates UTF-8, which reading does not)
    except pa.ArrowInvalid:
        values: list[str | None] = []
        for i, value in enumerate(data.to_pylist()):
            try:
                values.append(None if value is None else value.decode())
            except UnicodeDecodeError as error:
                bad[i] = f"bad_utf8: {error.reason} in {name} {value[:QUOTED]!r}"
                values.append(None)
        return pa.array(values, pa.string())
