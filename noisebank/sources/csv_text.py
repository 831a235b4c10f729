"""CSV and TSV lists in byte ranges that hold whole records, parsed fast where they are plain, row by row where not.

A record may hold newlines inside quotes, so a range can only end at a newline outside of them. A quoted field starts at
a quote behind a comma or a newline and ends at the next single quote, which a comma, a newline or the end must follow
within :data:`LONGEST_FIELD` bytes. A quote that does not fit this is text: a stray one costs the row it stands in, not
everything up to the next quote. Records end at a newline: a carriage return that stands alone is no end of one.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from noisebank.ids import Nums
from noisebank.sources.block import Block, concat_blocks, parse_records

LONGEST_FIELD = 1 << 17
_PIECE_BYTES = 1 << 16
_QUOTE, _NEWLINE = b'"\n'


class Separator:
    """What stands between the fields of a record."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.beside = np.zeros(256, bool)
        self.beside[[*text.encode(), *b'\n\r"']] = True
        """What may stand outside of the quotes of a field; a quote, because a doubled one inside closes and opens it
        again."""
        other = b"[^%b\\n\\r]" % text.encode()
        self.field = re.compile(rb'(?<!%b)"(?:[^"]++|"")*+("(?!%b)|\Z)' % (other, other))
        """A quoted field, or one that is not closed."""


COMMA, TAB = Separator(","), Separator("\t")


class Quotes(NamedTuple):
    """Quoted fields of some bytes."""

    edges: Nums
    """Positions of opening and closing quotes in turn; the field of a last opening one may end behind the bytes."""
    regular: bool
    """Whether every quote has its place."""


def read_header(file: BinaryIO, separator: Separator = COMMA) -> tuple[list[str], int]:
    """Column names and the offset of the first record."""
    data = file.read(LONGEST_FIELD)
    length = len(data) if len(data) < LONGEST_FIELD else 0
    end = next(iter(record_ends(data, final=True, separator=separator)), length)
    text = data[:end].removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    return [name.strip() for name in next(csv.reader([text], delimiter=separator.text), [])], end


def parse(data: bytes, header: list[str], columns: list[str], separator: Separator = COMMA) -> Block:
    """The wanted columns of whole records, as text.

    Args:
        data: bytes that begin and end with a record.
        header: all columns of the file.
        columns: those wanted; each is in ``header``.
        separator: of the fields.
    """
    if _is_plain(data, separator):
        with suppress(pa.ArrowInvalid):  # (a ragged row or bad UTF-8: the pieces without it are still parsed fast)
            return Block(_parse_fast(data, header, columns, separator))
    pieces = list(_pieces(data, separator)) if len(data) > _PIECE_BYTES else []
    if len(pieces) < 2:
        return _parse_rows(data, header, columns, separator)
    return concat_blocks(parse(piece, header, columns, separator) for piece in pieces)


def quotes_of(data: bytes, *, final: bool, separator: Separator = COMMA) -> Quotes:
    """Where quoted fields begin and end in ``data``, which starts at a record; ``final``: nothing comes behind it."""
    codes = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(codes == _QUOTE)
    opens, closes = places[0::2], places[1::2]
    lengths = np.append(closes, len(codes))[: len(opens)] - opens
    begins, ends = (separator.beside.take(codes.take(beside, mode="clip")) for beside in (opens - 1, closes + 1))
    regular = begins.all() and ends.all() and (lengths <= LONGEST_FIELD).all()
    if regular and not (final and len(places) % 2):
        return Quotes(places, True)
    return Quotes(_irregular_edges(data, final, separator), False)


def last_record_end(data: bytes, separator: Separator = COMMA) -> int:
    """The offset behind the last newline of ``data`` that ends a record, 0 if there is none."""
    edges, limit = quotes_of(data, final=False, separator=separator).edges, len(data)
    while (newline := data.rfind(b"\n", 0, limit)) >= 0:
        before = int(np.searchsorted(edges, newline))
        if before % 2 == 0:
            return newline + 1
        limit = int(edges[before - 1])
    return 0


def record_ends(data: bytes, *, final: bool, separator: Separator = COMMA) -> list[int]:
    """The offset behind each newline that ends a record."""
    ends: list[int] = _record_ends(data, quotes_of(data, final=final, separator=separator)).tolist()
    return ends


def _record_ends(data: bytes, quotes: Quotes) -> Nums:
    newlines = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE)
    outside: Nums = newlines[np.searchsorted(quotes.edges, newlines) % 2 == 0]
    return outside + 1


def _irregular_edges(data: bytes, final: bool, separator: Separator) -> Nums:
    edges: list[int] = []
    place = 0
    while match := separator.field.search(data, place):
        start, place = match.start(), match.start() + 1
        if match.end() - start <= LONGEST_FIELD + len(match[1]):
            if match[1]:
                edges += [start, match.start(1)]
                place = match.end()
            elif not final:
                return np.array([*edges, start], np.int64)
    return np.array(edges, np.int64)


def _is_plain(data: bytes, separator: Separator) -> bool:
    """Whether Arrow and Python's csv read the same from these records, as far as both can read them.

    Arrow also ends records at a lone carriage return, and skips a byte order mark; Python takes no long fields.
    """
    if data.startswith(codecs.BOM_UTF8) or (b"\r" in data and data.count(b"\r") != data.count(b"\r\n")):
        return False
    quotes = quotes_of(data, final=True, separator=separator)
    lengths = np.diff(_record_ends(data, quotes), prepend=0, append=len(data))
    return quotes.regular and int(lengths.max()) <= LONGEST_FIELD


def _parse_fast(data: bytes, header: list[str], columns: list[str], separator: Separator) -> pa.Table:
    return pa.csv.read_csv(
        pa.BufferReader(data),
        pa.csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=header),
        pa.csv.ParseOptions(delimiter=separator.text, newlines_in_values=b'"' in data),
        pa.csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string())),
    )


def _pieces(data: bytes, separator: Separator) -> Iterator[bytes]:
    """``data`` in pieces of whole records, 16 or more."""
    size = max(_PIECE_BYTES, len(data) // 16)
    start = 0
    for end in [*record_ends(data, final=True, separator=separator), len(data)]:
        if end - start >= size or end == len(data) > start:
            yield data[start:end]
            start = end


def _parse_rows(data: bytes, header: list[str], columns: list[str], separator: Separator) -> Block:
    places = [header.index(column) for column in columns]
    ends = [*record_ends(data, final=True, separator=separator), len(data)]
    records = (data[start:end].rstrip(b"\r\n") for start, end in pairwise([0, *ends]))

    def parse_record(record: bytes) -> list[str]:
        text = record.decode("latin-1")  # (only the wanted columns need be UTF-8)
        fields = next(csv.reader([text], delimiter=separator.text))
        if len(fields) != len(header):
            raise csv.Error(f"{len(fields)} fields where the header has {len(header)}")
        return [fields[place].encode("latin-1").decode() for place in places]

    return parse_records(filter(None, records), columns, parse_record, "ragged_row")
