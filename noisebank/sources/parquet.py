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
from noisebank.video.cells import cell_uri, is_video

BATCH_ROWS = 1 << 16
_BATCH_VIDEOS = 16
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
    """The row group in a range, in blocks of at most 65,536 rows; of videos their addresses."""
    with file.open() as stream:
        parquet = pq.ParquetFile(stream, pre_buffer=False)
        group, row = _groups(parquet).index(span), span[0]
        videos = {name: _has_bytes(parquet, group, name) for name in wanted if is_video(parquet.schema_arrow, name)}
        unknown = [f"{name}.bytes" for name, has_bytes in videos.items() if has_bytes is None]
        columns = [f"{name}.path" if name in videos else name for name in wanted] + unknown
        rows = _BATCH_VIDEOS if unknown else BATCH_ROWS
        for batch in parquet.iter_batches(rows, row_groups=[group], columns=columns):
            bad: dict[int, str] = {}
            texts = {
                name: _addresses(batch.column(name), file, name, row, videos[name], bad)
                if name in videos
                else _text(batch.column(name), name, bad)
                for name in batch.schema.names
            }
            yield Block(pa.table(texts), bad)
            row += batch.num_rows


def _has_bytes(parquet: pq.ParquetFile, group: int, name: str) -> bool | None:
    """Whether all videos of a row group are there as bytes, or none; None: some, or nobody says without a look."""
    metadata = parquet.metadata.row_group(group)
    chunks = {metadata.column(i).path_in_schema: metadata.column(i) for i in range(metadata.num_columns)}
    statistics = chunks[f"{name}.bytes"].statistics
    nulls = statistics.null_count if statistics is not None and statistics.has_null_count else -1
    return {0: True, metadata.num_rows: False}.get(nulls)


def _addresses(
    column: pa.Array, file: ListFile, name: str, row: int, has_bytes: bool | None, bad: dict[int, str]
) -> pa.Array:
    """Where the videos of a column are: in its cells, or where their paths say."""
    in_cells = column.is_valid() if has_bytes else pa.array(np.zeros(len(column), bool))
    if has_bytes is None:
        in_cells = pc.struct_field(column, "bytes").is_valid()
    if file.copy and pc.any(in_cells).as_py():
        problem = "bad_uri: the bytes of a video in a Parquet list behind HTTP cannot be read one by one; download it"
        bad |= dict.fromkeys(np.flatnonzero(np.asarray(in_cells)).tolist(), problem)
    where = file.name if file.root else file.name.removeprefix(file.own_folder).removeprefix("/")
    cells = pa.array([cell_uri(where, name, row + i, file.size) for i in range(len(column))], pa.string())
    return pc.if_else(in_cells, cells, pc.struct_field(column, "path").cast(pa.string()))


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
