"""Lists of captioned videos: WebVid, InternVid, tables, webdataset tars.

A source is a list of files (:func:`open_lists`), a file is cut into ranges (:func:`cut_ranges`) that workers read on
their own (:func:`read_range`), and whatever its kind a row comes out in one shape (:func:`.rows.listed_rows`). What is
special to a format or to a kind is in two tables: :data:`.FORMATS` and, by :func:`register_layout`, :data:`.LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import ConfigError
from noisebank.ids import Mask
from noisebank.options import SourceOptions
from noisebank.sources.block import QUOTED, Block
from noisebank.sources.files import expand, open_lists
from noisebank.sources.formats import FORMATS
from noisebank.sources.layouts import layout_of, register_layout
from noisebank.sources.list_file import ListFile
from noisebank.sources.ranges import split_ranges
from noisebank.sources.rows import Fields, listed_rows, read_fields
from noisebank.sources.template import add_rendered, check_template, columns_of, is_template
from noisebank.sources.where import filter_reasons

__all__ = ["FORMATS", "Block", "Fields", "ListFile", "Range", "check_columns", "cut_ranges", "expand"]
__all__ += ["open_lists", "read_columns", "read_fields", "read_range", "register_layout"]

RANGE_BYTES = 16 << 20
FILE_SHIFT = 44
"""A row's position is the number of its file shifted by this, plus the start of its range, plus its place there."""

_UPWARDS = r"(?:^|/)\.\.(?:[/#]|$)"
_SCHEME = r"^[A-Za-z][A-Za-z0-9+.-]*://"


@dataclass(frozen=True)
class Range:
    """A part of a list file: bytes of csv and jsonl, rows of Parquet, a whole tar."""

    file: int
    start: int
    length: int


def check_columns(file: ListFile) -> list[str]:
    """All columns of a list.

    Raises:
        ConfigError: one that is needed is missing or there twice, or the file is not of its format; names the file, the
            column and those found. Or a template has a brace too many.
    """
    format, source = FORMATS[file.format], file.source
    for name in (source.id, source.uri):
        check_template(name)
    found = read_columns(file)
    layout = layout_of(source)
    for column in layout.columns(source) if format.is_open or layout.is_folder else _wanted_columns(source):
        if found.count(column) != 1:
            problem = "is there twice" if column in found else "is missing"
            raise ConfigError(
                f"source {file.source_name}: {file.name}: column {column!r} {problem}; found: {', '.join(found)}"
            )
    return found


def read_columns(file: ListFile) -> list[str]:
    """All columns of a list, whatever its source wants of them.

    Raises:
        ConfigError: it has none, and what is there instead.
    """
    if found := FORMATS[file.format].columns(file):
        return found
    with file.open() as stream:
        head = stream.read(QUOTED).strip()
    problem = "there is no row in it"
    if head:
        begins = f"it begins with {head.decode(errors='replace')!r}"
        problem = f"no line of its first MiB is a JSON object, nor is it a whole JSON document; {begins}"
    raise ConfigError(f"source {file.source_name}: {file.name}: {problem}")


def cut_ranges(file: ListFile, number: int, range_bytes: int = RANGE_BYTES) -> Iterator[Range]:
    """Cuts a list into ranges that can be read on their own.

    Args:
        file: the list.
        number: its place among all lists of the build.
        range_bytes: about how large.
    """
    for start, length in FORMATS[file.format].ranges(file, range_bytes):
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
    position = (part.file << FILE_SHIFT) + part.start
    for block in FORMATS[file.format].blocks(file, (part.start, part.length), header, _wanted_columns(file.source)):
        yield _list_rows(block, file, base, position)
        position += block.table.num_rows


def _wanted_columns(source: SourceOptions) -> list[str]:
    """What is read of a list of a source: the columns of its kind, of its templates and of its conditions."""
    others = [*columns_of(source.uri), *(condition.column for condition in source.conditions)]
    return list(dict.fromkeys([*layout_of(source).columns(source), *others]))


def _list_rows(block: Block, file: ListFile, base: int, position: int) -> pa.Table:
    """The rows of a block, as :func:`.rows.listed_rows`; those of one row of the list have its position."""
    source, entries = file.source, None
    if source.range:
        block, entries = split_ranges(block, source.range, source.caption_columns)
    for name in filter(is_template, (source.id, source.uri)):
        block = add_rendered(block, str(name))
    fields = layout_of(source).fields(block, source)
    fields.is_cut = source.cut
    if source.uri:
        fields.uri = block.text(source.uri)
    if source.where:
        fields.filtered = filter_reasons(block, source.conditions)
    if file.is_http:
        what = "a list behind HTTP may not name files of this machine:"
        fields.refuse(_names_local_files(fields.uri, file), "bad_uri", what, fields.uri)
    elif file.root and not is_template(source.uri):
        fields.refuse(_leads_out(fields.uri, file), "bad_uri", "this leads out of the source's root:", fields.uri)
    rows = listed_rows(fields, file.source_name, base, position, source.rhythm)
    if entries is None:
        return rows
    return rows.set_column(rows.column_names.index("position"), "position", pa.array(position + entries))


def _names_local_files(uri: pa.Array, file: ListFile) -> Mask:
    """Which addresses of a list from elsewhere are paths of this machine that nobody here named."""
    local = pc.starts_with(uri, "/")
    if file.root:
        local = pc.or_(local, pc.match_substring(uri, ".."))
    return np.asarray(local.fill_null(False))


def _leads_out(uri: pa.Array, file: ListFile) -> Mask:
    """Which addresses are local paths elsewhere than in the root of their source; the list's own cells are not."""
    elsewhere = pc.or_(pc.starts_with(uri, "/"), pc.match_substring_regex(uri, _UPWARDS))
    allowed = pc.or_(pc.match_substring_regex(uri, _SCHEME), pc.starts_with(uri, f"{file.name}#"))
    return np.asarray(pc.and_not(elsewhere, allowed).fill_null(False))
