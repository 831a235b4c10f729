"""Cuts the bytes of a list into ranges of whole records, whatever ends a record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO


def whole_records(
    file: BinaryIO, start: int, range_bytes: int, last_end: Callable[[bytes], int]
) -> Iterator[tuple[int, int]]:
    """Cuts the file from ``start`` on into ``(offset, length)`` of whole records, about ``range_bytes`` each.

    Args:
        file: of the list, open for reading and seeking.
        start: where the first record begins.
        range_bytes: bytes to read at first; twice as many while not one record ends in them.
        last_end: where the last whole record in some bytes ends, 0 if none does.
    """
    wanted = range_bytes
    while True:
        file.seek(start)
        data = file.read(wanted)
        final = len(data) < wanted
        length = len(data) if final else last_end(data)
        if length:
            yield start, length
        elif not final:
            wanted *= 2
            continue
        if final:
            return
        start, wanted = start + length, range_bytes
