"""JSON lists, one object a line, in byte ranges of whole lines.

A line is read for itself, by the C scanner of the standard library: pyarrow's reader gives a whole block one type a
column, so that a row would depend on its neighbours, and a line that holds ``null`` crashes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from noisebank.sources.block import QUOTED, Block, text_block
from noisebank.sources.spans import whole_records

_FIRST_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_decode = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str).decode  # (numbers as they are written)


def read_header(file: BinaryIO) -> list[str]:
    """The keys of the objects in the first MiB, in their order; [] where there is none."""
    keys: dict[str, None] = {}
    for line in file.read(_FIRST_BYTES).split(b"\n"):
        with suppress(ValueError, RecursionError):
            keys |= dict.fromkeys(_object(line))
    return [*keys]


def ranges(file: BinaryIO, range_bytes: int) -> Iterator[tuple[int, int]]:
    """Cuts the file into ``(offset, length)`` of whole lines, about ``range_bytes`` each."""
    return whole_records(file, 0, range_bytes, lambda data: data.rfind(b"\n") + 1)


def parse(data: bytes, columns: list[str]) -> Block:
    """The wanted keys of whole lines as text, numbers as they are written; a key that an object lacks is null."""
    rows: list[list[str | None]] = []
    bad: dict[int, str] = {}
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            found = _object(line)
            rows.append([_text(found.get(column)) for column in columns])
            continue
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            bad[len(rows)] = f"bad_utf8: {error.reason} in {line[:QUOTED]!r}"
        except (ValueError, RecursionError) as error:
            bad[len(rows)] = f"bad_json: {error}: {line[:QUOTED].decode(errors='replace')!r}"
        rows.append([None] * len(columns))
    return text_block(rows, columns, bad)


def _object(line: bytes) -> dict[str, Any]:
    """The object that a line holds.

    Raises:
        ValueError: it holds none (UnicodeError: it is no text), or RecursionError: it is nested too deeply.
    """
    found = _decode(line.removeprefix(_BOM).decode())
    if not isinstance(found, dict):
        raise ValueError("an object is wanted")
    return found


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"text or a number is wanted, not {str(value)[:QUOTED]!r}")
    value.encode()  # (JSON can spell lone surrogates, which are no text)
    return value
