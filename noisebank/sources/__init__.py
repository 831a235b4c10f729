"""Lists of captioned videos: WebVid, InternVid, tables, webdataset tars.

A source is a list of files (:func:`open_lists`), a file is cut into ranges (:func:`cut_ranges`) that workers read on
their own (:func:`read_range`), and whatever its kind a row comes out in one shape (:func:`.rows.listed_rows`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import ConfigError
from noisebank.options import SourceOptions
from noisebank.sources import csv_text, internvid, json_lines, parquet, table, webdataset, webvid
from noisebank.sources.block import Block
from noisebank.sources.files import ListFile, expand, open_lists
from noisebank.sources.rows import Fields, listed_rows

__all__ = ["ListFile", "Range", "check_columns", "cut_ranges", "expand", "open_lists", "read_range"]

RANGE_BYTES = 16 << 20
FILE_SHIFT = 44
"""A row's position is the number of its file shifted by this, plus the start of its range, plus its place there."""


@dataclass(frozen=True)
class Range:
    """A part of a list file: bytes of csv and jsonl, rows of Parquet, a whole tar."""

    file: int
    start: int
    length: int


def check_columns(file: ListFile) -> list[str]:
    """All columns of a list; [] for tars.

    Raises:
        ConfigError: one that is needed is missing or there twice, or the file is not of its format; names the file, the
            column and those found.
    """
    if file.format == "tar":
        return []
    found = _header(file)
    for column in _wanted(file.source):
        if found.count(column) != 1:
            problem = "is there twice" if column in found else "is missing"
            raise ConfigError(
                f"source {file.source_name}: {file.name}: column {column!r} {problem}; found: {', '.join(found)}"
            )
    return found


def cut_ranges(file: ListFile, number: int, range_bytes: int = RANGE_BYTES) -> Iterator[Range]:
    """Cuts a list into ranges that can be read on their own.

    Args:
        file: the list.
        number: its place among all lists of the build.
        range_bytes: about how large.
    """
    with file.open() as stream:
        if file.format == "tar":
            spans = iter([(0, file.bytes)])
        elif file.format == "parquet":
            spans = parquet.ranges(stream)
        elif file.format == "csv":
            _, start = csv_text.read_header(stream)
            spans = csv_text.ranges(stream, start, range_bytes)
        else:
            spans = json_lines.ranges(stream, range_bytes)
        for start, length in spans:
            yield Range(number, start, length)


def read_range(file: ListFile, part: Range, header: list[str], base: int) -> Iterator[pa.Table]:
    """The rows of a range, in tables of :func:`.rows.listed_rows`.

    Args:
        file: the list.
        part: one of its :func:`cut_ranges`.
        header: :func:`check_columns` of the file.
        base: number of the folder that relative uris start from.

    Raises:
        ConfigError: the file changed or is damaged.
    """
    try:
        for start, fields in _fields(file, part, header):
            if file.is_http:
                _refuse_local(fields)
            yield listed_rows(fields, file.source_name, base, (part.file << FILE_SHIFT) + start)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"source {file.source_name}: {file.name}: cannot be read: {error}") from error


def _fields(file: ListFile, part: Range, header: list[str]) -> Iterator[tuple[int, Fields]]:
    columns = _wanted(file.source)
    with file.open() as stream:
        if file.format == "tar":
            yield part.start, webdataset.fields(stream, file.relative_name)
        elif file.format == "parquet":
            for start, block in parquet.parse(stream, part.start, columns):
                yield start, _layout(block, file.source)
        else:
            stream.seek(part.start)
            data = stream.read(part.length)
            is_csv = file.format == "csv"
            block = csv_text.parse(data, header, columns) if is_csv else json_lines.parse(data, columns)
            yield part.start, _layout(block, file.source)


def _refuse_local(fields: Fields) -> None:
    """Marks the rows of a list from elsewhere invalid that name a file of this machine by its path."""
    local = np.asarray(pc.starts_with(fields.uri, "/").fill_null(False))
    fields.refuse(local, "bad_uri", "a list behind HTTP may not name files of this machine:", fields.uri)


def _layout(block: Block, source: SourceOptions) -> Fields:
    if source.kind == "webvid":
        return webvid.fields(block)
    return internvid.fields(block) if source.kind == "internvid" else table.fields(block, source)


def _wanted(source: SourceOptions) -> list[str]:
    if source.kind == "table":
        return table.columns(source)
    return webvid.COLUMNS if source.kind == "webvid" else internvid.COLUMNS


def _header(file: ListFile) -> list[str]:
    with file.open() as stream:
        try:
            if file.format == "parquet":
                return parquet.read_header(stream)
            return csv_text.read_header(stream)[0] if file.format == "csv" else json_lines.read_header(stream)
        except (OSError, pa.ArrowException, csv.Error) as error:
            raise ConfigError(f"source {file.source_name}: {file.name}: cannot be read: {error}") from error
