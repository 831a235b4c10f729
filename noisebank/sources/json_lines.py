"""JSON lists, one object a line, in byte ranges of whole lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.json

from .block import QUOTED, Block, concat_blocks, text_block
from .spans import whole_records

_PIECE_BYTES = 1 << 16
_FIRST_BYTES = 1 << 20


def read_header(file: BinaryIO) -> list[str]:
    """The keys of the objects in the first MiB, in their order; [] where there is none."""
    lines = file.read(_FIRST_BYTES).split(b"\n")
    objects = (found for line in lines if isinstance(found := _object(line), dict))
    return list(dict.fromkeys(key for found in objects for key in found))


def ranges(file: BinaryIO, range_bytes: int) -> Iterator[tuple[int, int]]:
    """Cuts the file into ``(offset, length)`` of whole lines, about ``range_bytes`` each."""
    return whole_records(file, 0, range_bytes, lambda data: data.rfind(b"\n") + 1)


def parse(data: bytes, columns: list[str]) -> Block:
    """The wanted keys of whole lines; a key that an object lacks is null. Numbers stay numbers."""
    try:
        return Block(_parse_fast(data, columns))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # (a line that is no object, or types that vary: the pieces without it are still parsed fast)
    pieces = list(_pieces(data)) if len(data) > _PIECE_BYTES else []
    if len(pieces) < 2:
        return _parse_lines(data, columns)
    return concat_blocks(parse(piece, columns) for piece in pieces)


def _parse_fast(data: bytes, columns: list[str]) -> pa.Table:
    first = _object(data.lstrip().partition(b"\n")[0])
    types = {column: _type(first.get(column) if isinstance(first, dict) else None) for column in columns}
    return pa.json.read_json(
        pa.BufferReader(data),
        pa.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        pa.json.ParseOptions(explicit_schema=pa.schema(types), unexpected_field_behavior="ignore"),
    )


def _type(value: Any) -> pa.DataType:
    return pa.float64() if isinstance(value, float) else pa.int64() if type(value) is int else pa.string()


def _object(line: bytes) -> Any:
    """What a line holds; None where it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _pieces(data: bytes) -> Iterator[bytes]:
    size = max(_PIECE_BYTES, len(data) // 16)
    start = 0
    while start < len(data):
        newline = data.find(b"\n", start + size - 1)
        end = newline + 1 if newline >= 0 else len(data)
        yield data[start:end]
        start = end


def _parse_lines(data: bytes, columns: list[str]) -> Block:
    rows: list[list[str | None]] = []
    bad: dict[int, str] = {}
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            if not isinstance(found, dict):
                raise ValueError("an object is wanted")
            rows.append([_text(found.get(column)) for column in columns])
            continue
        except UnicodeDecodeError as error:
            bad[len(rows)] = f"bad_utf8: {error.reason} in {line[:QUOTED]!r}"
        except (ValueError, RecursionError) as error:
            bad[len(rows)] = f"bad_json: {error}: {line[:QUOTED].decode(errors='replace')!r}"
        rows.append([None] * len(columns))
    return text_block(rows, columns, bad)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        if value is not None:
            value.encode()  # (JSON can spell lone surrogates, which are no text)
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"text or a number is wanted, not {str(value)[:QUOTED]!r}")
    return str(value)
