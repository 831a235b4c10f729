"""CSV lists in byte ranges that hold whole records, parsed fast where they are plain and row by row where not.

A record may hold newlines inside quotes, so a range can only end at a newline outside of them. A quoted field starts at
a quote behind a comma or a newline and ends at the next single quote, which a comma, a newline or the end must follow
within :data:`LONGEST_FIELD` bytes. A quote that does not fit this is text: a stray one costs the row it stands in, not
everything up to the next quote. Records end at a newline: a carriage return that stands alone is no end of one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from noisebank.sources.block import QUOTED, Block, concat_blocks, text_block
from noisebank.sources.spans import whole_records

LONGEST_FIELD = 1 << 17
_PIECE_BYTES = 1 << 16
_QUOTE, _COMMA, _NEWLINE, _RETURN = b'",\n\r'
_BOM = b"\xef\xbb\xbf"
_ENDS = np.zeros(256, bool)
_ENDS[[_COMMA, _NEWLINE, _RETURN]] = True


class Quotes(NamedTuple):
    """Quoted stretches of some bytes: positions of opening and closing quotes, pairwise."""

    opens: npt.NDArray[np.int64]
    closes: npt.NDArray[np.int64]
    unclosed: int
    """Position of an opening quote whose field may end behind the bytes; their number where there is none."""
    regular: bool
    """Whether every quote has its place."""


def read_header(file: BinaryIO) -> tuple[list[str], int]:
    """Column names and the offset of the first record."""
    data = file.read(LONGEST_FIELD)
    length = len(data) if len(data) < LONGEST_FIELD else 0
    end = next(iter(record_ends(data, final=True)), length)
    text = data[:end].removeprefix(_BOM).decode("utf-8", "replace")
    return [name.strip() for name in next(csv.reader([text]), [])], end


def ranges(file: BinaryIO, start: int, range_bytes: int) -> Iterator[tuple[int, int]]:
    """Cuts the file from ``start`` on into ``(offset, length)`` of whole records, about ``range_bytes`` each."""
    return whole_records(file, start, range_bytes, last_record_end)


def parse(data: bytes, header: list[str], columns: list[str]) -> Block:
    """The wanted columns of whole records, as text.

    Args:
        data: bytes of a range of :func:`ranges`.
        header: all columns of the file.
        columns: those wanted; each is in ``header``.
    """
    if _is_plain(data):
        try:
            return Block(_parse_fast(data, header, columns))
        except pa.ArrowInvalid:
            pass  # (a ragged row or bad UTF-8 somewhere: the pieces without it are still parsed fast)
    pieces = list(_pieces(data)) if len(data) > _PIECE_BYTES else []
    if len(pieces) < 2:
        return _parse_rows(data, header, columns)
    return concat_blocks(parse(piece, header, columns) for piece in pieces)


def quotes_of(data: bytes, *, final: bool) -> Quotes:
    """Where quoted fields begin and end in ``data``, which starts at a record; ``final``: nothing comes behind it."""
    codes = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(codes == _QUOTE)
    opens, closes = places[0::2], places[1::2]
    if _is_regular(codes, places, opens, closes):
        unclosed = int(opens[-1]) if len(opens) > len(closes) else len(codes)
        if unclosed == len(codes) or not final:
            return Quotes(opens[: len(closes)], closes, unclosed, True)
    return _irregular_quotes(codes, places.tolist(), final)


def last_record_end(data: bytes) -> int:
    """The offset behind the last newline of ``data`` that ends a record, 0 if there is none."""
    quotes = quotes_of(data, final=False)
    limit = quotes.unclosed
    while (newline := data.rfind(b"\n", 0, limit)) >= 0:
        field = int(np.searchsorted(quotes.opens, newline)) - 1
        if field < 0 or newline > quotes.closes[field]:
            return newline + 1
        limit = int(quotes.opens[field])
    return 0


def record_ends(data: bytes, *, final: bool) -> list[int]:
    """The offset behind each newline that ends a record."""
    ends: list[int] = _record_ends(data, quotes_of(data, final=final)).tolist()
    return ends


def _record_ends(data: bytes, quotes: Quotes) -> npt.NDArray[np.int64]:
    newlines = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE)
    field = np.searchsorted(quotes.opens, newlines) - 1
    inside = field >= 0
    inside[inside] = newlines[inside] < quotes.closes[field[inside]]
    return newlines[~inside & (newlines < quotes.unclosed)] + 1


def _is_regular(
    codes: npt.NDArray[np.uint8],
    places: npt.NDArray[np.int64],
    opens: npt.NDArray[np.int64],
    closes: npt.NDArray[np.int64],
) -> bool:
    """Whether opening and closing quotes alternate; a doubled one inside a field closes and opens again."""
    if not len(places):
        return True
    follows = np.zeros(len(places), bool)
    follows[1:] = np.diff(places) == 1
    begins = follows[0::2] | _ENDS[codes[opens - 1]] | (opens == 0)
    before_quote = np.append(follows[1:], False)[1::2]
    last = len(codes) - 1
    ends = before_quote | (closes == last) | _ENDS[codes[np.minimum(closes + 1, last)]]
    short = closes - opens[: len(closes)] <= LONGEST_FIELD
    unclosed_short = len(opens) == len(closes) or len(codes) - opens[-1] <= LONGEST_FIELD
    return bool(begins.all() and ends.all() and short.all() and unclosed_short)


def _irregular_quotes(codes: npt.NDArray[np.uint8], places: list[int], final: bool) -> Quotes:
    opens: list[int] = []
    closes: list[int] = []
    i = 0
    while i < len(places):
        start = places[i]
        if start and not _ENDS[codes[start - 1]]:
            i += 1
            continue
        j = i + 1
        while j + 1 < len(places) and places[j + 1] == places[j] + 1:
            j += 2
        if j >= len(places):
            if not final and len(codes) - start <= LONGEST_FIELD:
                return Quotes(np.array(opens, np.int64), np.array(closes, np.int64), start, False)
            i += 1
        elif places[j] - start <= LONGEST_FIELD and (places[j] + 1 == len(codes) or _ENDS[codes[places[j] + 1]]):
            opens.append(start)
            closes.append(places[j])
            i = j + 1
        else:
            i += 1
    return Quotes(np.array(opens, np.int64), np.array(closes, np.int64), len(codes), False)


def _is_plain(data: bytes) -> bool:
    """Whether Arrow and Python's csv read the same from these records, as far as both can read them.

    Arrow also ends records at a lone carriage return, and skips a byte order mark; Python takes no long fields.
    """
    if data.startswith(_BOM) or (b"\r" in data and data.count(b"\r") != data.count(b"\r\n")):
        return False
    quotes = quotes_of(data, final=True)
    lengths = np.diff(_record_ends(data, quotes), prepend=0, append=len(data))
    return quotes.regular and int(lengths.max()) <= LONGEST_FIELD


def _parse_fast(data: bytes, header: list[str], columns: list[str]) -> pa.Table:
    return pa.csv.read_csv(
        pa.BufferReader(data),
        pa.csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=header),
        pa.csv.ParseOptions(newlines_in_values=b'"' in data),
        pa.csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string())),
    )


def _pieces(data: bytes) -> Iterator[bytes]:
    """``data`` in pieces of whole records, 16 or more."""
    size = max(_PIECE_BYTES, len(data) // 16)
    start = 0
    for end in [*record_ends(data, final=True), len(data)]:
        if end - start >= size or end == len(data) > start:
            yield data[start:end]
            start = end


def _parse_rows(data: bytes, header: list[str], columns: list[str]) -> Block:
    places = [header.index(column) for column in columns]
    rows: list[list[str | None]] = []
    bad: dict[int, str] = {}
    start = 0
    for end in [*record_ends(data, final=True), len(data)]:
        record, start = data[start:end].rstrip(b"\r\n"), end
        if not record:
            continue
        try:
            fields = next(csv.reader([record.decode("latin-1")]))  # (only the wanted columns need be UTF-8)
            if len(fields) != len(header):
                raise csv.Error(f"{len(fields)} fields where the header has {len(header)}")
            rows.append([fields[place].encode("latin-1").decode() for place in places])
            continue
        except UnicodeDecodeError as error:
            bad[len(rows)] = f"bad_utf8: {error.reason} in {record[:QUOTED]!r}"
        except csv.Error as error:
            bad[len(rows)] = f"ragged_row: {error}: {record[:QUOTED].decode(errors='replace')!r}"
        rows.append([None] * len(columns))
    return text_block(rows, columns, bad)
