"""Parquet lists, one range a row group."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisebank.sources.block import QUOTED, Block
from noisebank.sources.list_file import ListFile

BATCH_ROWS = 1 << 16
_UNITS = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}
_BYTES = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def columns(file: ListFile) -> list[str]:
    """Column names."""
    with file.open() as stream:
        return list(pq.ParquetFile(stream).schema_arrow.names)


def count_rows(file: ListFile) -> int:
    """Rows of a list, as its footer says."""
    with file.open() as stream:
        return int(pq.ParquetFile(stream).metadata.num_rows)


def ranges(file: ListFile, range_bytes: int) -> Iterator[tuple[int, int]]:
    """``(first row, rows)`` of each row group, whatever its bytes."""
    with file.open() as stream:
        yield from ((start, rows) for start, rows in _groups(pq.ParquetFile(stream)) if rows)


def blocks(file: ListFile, span: tuple[int, int], header: list[str], wanted: list[str]) -> Iterator[Block]:
    """The row group in a range, in blocks of at most 65,536 rows."""
    with file.open() as stream:
        parquet = pq.ParquetFile(stream, pre_buffer=False)
        group = _groups(parquet).index(span)
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted):
            bad: dict[int, str] = {}
            texts = {name: _text(batch.column(name), name, bad) for name in batch.schema.names}
            yield Block(pa.table(texts), bad)


def _groups(parquet: pq.ParquetFile) -> list[tuple[int, int]]:
    rows = [parquet.metadata.row_group(group).num_rows for group in range(parquet.metadata.num_row_groups)]
    return list(zip(accumulate(rows, initial=0), rows, strict=False))


def _text(column: pa.Array, name: str, bad: dict[int, str]) -> pa.Array:
    """Numbers as they are, durations as seconds, everything else as checked text; lists of text as lists, lists of
    lists as JSON text."""
    if _is_list(column.type) and _is_list(column.type.value_type):
        return pa.array([None if row is None else json.dumps(row) for row in column.to_pylist()], pa.string())
    if _is_list(column.type):
        return _lists(column, name, bad)
    if pa.types.is_duration(column.type):
        return pc.divide(column.cast(pa.int64()).cast(pa.float64(), safe=False), _UNITS[column.type.unit])
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type not in _BYTES:
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


def _is_list(type: pa.DataType) -> bool:
    return any(is_a(type) for is_a in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _lists(column: pa.Array, name: str, bad: dict[int, str]) -> pa.Array:
    flat, rows = column.flatten(), pc.list_parent_indices(column).to_pylist()
    bad_values: dict[int, str] = {}
    texts = pc.cast(_text(flat, name, bad_values), pa.string())
    for i, reason in bad_values.items():
        bad.setdefault(rows[i], reason)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    offsets = pa.array([0, *np.cumsum(lengths).tolist()], pa.int32())
    return pa.ListArray.from_arrays(offsets, texts, mask=column.is_null())
