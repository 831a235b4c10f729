"""JSON lists, one object a line, in byte ranges of whole lines.

A line is read for itself, by the C scanner of the standard library: pyarrow's reader gives a whole block one type a
column, so that a row would depend on its neighbours, and a line that holds ``null`` crashes it.
"""

from __future__ import annotations

import codecs
import json
from contextlib import suppress
from typing import Any, BinaryIO

from noisebank.sources.block import QUOTED, Block, Cell, parse_records

_FIRST_BYTES = 1 << 20
_decode = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str).decode  # (numbers as they are written)


def read_header(file: BinaryIO) -> tuple[list[str], int]:
    """The keys of the objects in the first MiB, in their order, and the offset of the first record."""
    keys: dict[str, None] = {}
    for line in file.read(_FIRST_BYTES).split(b"\n"):
        with suppress(ValueError, RecursionError):
            keys |= dict.fromkeys(_object(line))
    return [*keys], 0


def last_record_end(data: bytes) -> int:
    """The offset behind the last newline of ``data``, 0 if there is none."""
    return data.rfind(b"\n") + 1


def parse(data: bytes, header: list[str], columns: list[str], nested: str | None = None) -> Block:
    """The wanted keys of whole lines as text or lists of it, numbers as they are written; a key that an object lacks is
    null, and lists of the key ``nested`` are JSON text."""

    def values(line: bytes) -> list[Cell]:
        found = _object(line)
        if nested and isinstance(found.get(nested), list):
            found[nested] = json.dumps(found[nested], ensure_ascii=False)
        return [_cell(found.get(column)) for column in columns]

    return parse_records(filter(bytes.strip, data.split(b"\n")), columns, values, "bad_json")


def _object(line: bytes) -> dict[str, Any]:
    """The object that a line holds; ValueError if there is none, RecursionError if it is nested too deeply."""
    found = _decode(line.removeprefix(codecs.BOM_UTF8).decode())
    if not isinstance(found, dict):
        raise ValueError("an object is wanted")
    return found


def _cell(value: Any) -> Cell:
    if isinstance(value, list):
        return [text for text in map(_text, value) if text is not None]
    return _text(value)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        value = str(value).lower()
    if not isinstance(value, str):
        raise ValueError(f"text or a number is wanted, not {str(value)[:QUOTED]!r}")
    value.encode()  # (JSON can spell lone surrogates, which are no text)
    return value
