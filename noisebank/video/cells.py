"""Videos that are cells of a Parquet file, as Hugging Face ``datasets`` writes them: where one is, and its bytes.

``path/to/000.parquet#video@12+345678`` is row 12 of the column ``video`` in a file of 345,678 bytes. A file of another
size was rewritten, and gives an error, never another video.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from noisebank.errors import RowFailure
from noisebank.video.uris import kind_of, shown

_CELL = re.compile(
    r"(?P<file>.+\.parquet)#(?P<column>.+)@(?P<row>[0-9]{1,15})\+(?P<size>[0-9]{1,15})", re.DOTALL | re.IGNORECASE
)
_BATCH_ROWS = 8


@dataclass(frozen=True)
class VideoCell:
    """One video in a Parquet file."""

    file: str
    column: str
    row: int
    size: int
    """Of the file, in bytes."""

    def __str__(self) -> str:
        return f"{shown(self.file)}#{self.column}, row {self.row + 1}"


def cell_uri(file: str, column: str, row: int, size: int) -> str:
    """The address of a cell; rows count from 0.

    >>> cell_uri("a/000.parquet", "video", 12, 345678)
    'a/000.parquet#video@12+345678'
    """
    return f"{file}#{column}@{row}+{size}"


def parse_cell(uri: str) -> VideoCell | None:
    """The cell that ``uri`` addresses, or None where it is no such address."""
    match = _CELL.fullmatch(uri)
    return VideoCell(match["file"], match["column"], int(match["row"]), int(match["size"])) if match else None


def read_cell(cell: VideoCell) -> bytes:
    """The video of a cell.

    Raises:
        RowFailure: ``missing_file``: there is no such file, it is another by now, it has no such column of
            videos, or the cell is empty; ``bad_uri``: it
            is where no part of a file can be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with _open(cell) as stream:
            size = stream.seek(0, 2)
            if size != cell.size:
                raise RowFailure(
                    "missing_file", f"{cell}: the file has {size} bytes, not {cell.size}; it was rewritten"
                )
            video = _find(pq.ParquetFile(stream), cell)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise RowFailure("missing_file", f"{cell}: {getattr(error, 'strerror', None) or error}") from error
    if video is None:
        raise RowFailure("missing_file", f"{cell}: no bytes in it")
    return video


def is_video(schema: Any, name: str) -> bool:
    """Whether a column of an Arrow schema has videos as Hugging Face's ``Video``, the bytes or the path of each."""
    from pyarrow import types

    place = schema.get_field_index(name)  # (-1: none, or several)
    if place < 0 or not types.is_struct(type := schema.field(place).type):
        return False
    fields = {type.field(i).name: type.field(i).type for i in range(type.num_fields)}
    return {"bytes", "path"} <= fields.keys() and any(
        is_bytes(fields["bytes"]) for is_bytes in (types.is_binary, types.is_large_binary)
    )


def _find(parquet: Any, cell: VideoCell) -> bytes | None:
    if not is_video(parquet.schema_arrow, cell.column):
        raise RowFailure("missing_file", f"{cell}: the file has no such column of videos")
    first = 0
    for group in range(parquet.metadata.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if first <= cell.row < first + rows:
            for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[f"{cell.column}.bytes"]):
                if cell.row < first + batch.num_rows:
                    return cast("bytes | None", batch.column(0).field("bytes")[cell.row - first].as_py())
                first += batch.num_rows
        first += rows
    return None


def _open(cell: VideoCell) -> BinaryIO:
    kind = kind_of(cell.file)
    if kind == "local":
        return Path(cell.file).open("rb")
    if kind != "object":
        raise RowFailure("bad_uri", f"{cell}: a Parquet file behind HTTP cannot be read in parts; download it")
    from noisebank.storage.clients import FileSystem

    return cast(BinaryIO, FileSystem(cell.file.partition("://")[0]).open(cell.file))
