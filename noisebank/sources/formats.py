"""The formats of lists. A new one is a file like :mod:`.json_lines` and an entry of :data:`FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

from noisebank.sources import csv_text, json_lines, parquet, tar
from noisebank.sources.block import Block, whole_records
from noisebank.sources.list_file import ListFile


@dataclass(frozen=True)
class Format:
    """How lists of one format are read.

    Args:
        suffixes: what the names of its files end in.
        columns: all columns of a list.
        ranges: cuts a list into ``(start, length)``, of bytes or rows, about as many bytes each as asked for.
        blocks: reads such a range, given all columns of the list and those that are wanted.
        estimate_rows: how many rows a list has, rather too many than too few.
        compressible: whether a list may be compressed by gzip; not where its rows name places in it.
        is_open: whether its rows may have columns besides those that ``columns`` knows of.
    """

    suffixes: tuple[str, ...]
    columns: Callable[[ListFile], list[str]]
    ranges: Callable[[ListFile, int], Iterator[tuple[int, int]]]
    blocks: Callable[[ListFile, tuple[int, int], list[str], list[str]], Iterator[Block]]
    estimate_rows: Callable[[ListFile], int]
    compressible: bool = True
    is_open: bool = False


def text_format(
    suffixes: tuple[str, ...],
    read_header: Callable[[BinaryIO], tuple[list[str], int]],
    last_record_end: Callable[[bytes], int],
    parse: Callable[[bytes, list[str], list[str]], Block],
) -> Format:
    """A format of records that can be told apart in any stretch of bytes which begins with one."""

    def columns(file: ListFile) -> list[str]:
        with file.open() as stream:
            return read_header(stream)[0]

    def ranges(file: ListFile, range_bytes: int) -> Iterator[tuple[int, int]]:
        with file.open() as stream:
            yield from whole_records(stream, read_header(stream)[1], range_bytes, last_record_end)

    def blocks(file: ListFile, span: tuple[int, int], header: list[str], wanted: list[str]) -> Iterator[Block]:
        with file.open() as stream:
            stream.seek(span[0])
            yield parse(stream.read(span[1]), header, wanted)

    return Format(suffixes, columns, ranges, blocks, lambda file: file.size // 128)


def separated_format(suffixes: tuple[str, ...], separator: csv_text.Separator) -> Format:
    """A format of csv's kind."""
    return text_format(
        suffixes,
        partial(csv_text.read_header, separator=separator),
        partial(csv_text.last_record_end, separator=separator),
        partial(csv_text.parse, separator=separator),
    )


def _json_blocks(file: ListFile, span: tuple[int, int], header: list[str], wanted: list[str]) -> Iterator[Block]:
    with file.open() as stream:
        stream.seek(span[0])
        yield json_lines.parse(stream.read(span[1]), header, wanted, file.source.range)


_JSON = (".jsonl", ".ndjson", ".json")
_LINES = text_format(_JSON, json_lines.read_header, json_lines.last_record_end, json_lines.parse)
FORMATS = {
    "csv": separated_format((".csv",), csv_text.COMMA),
    "tsv": separated_format((".tsv",), csv_text.TAB),
    "jsonl": replace(
        text_format(_JSON, json_lines.read_header, json_lines.last_record_end, json_lines.parse), blocks=_json_blocks
    ),
    "parquet": Format((".parquet",), parquet.columns, parquet.ranges, parquet.blocks, parquet.count_rows),
    "tar": Format(
        (".tar",),
        columns=lambda _: tar.COLUMNS,
        ranges=lambda file, _: iter([(0, file.size)]),  # (all of it)
        blocks=tar.blocks,
        estimate_rows=lambda file: file.size >> 16,
        compressible=False,
        is_open=True,
    ),
}
