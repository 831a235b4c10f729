"""What formats have in common: ranges of whole records, and blocks of the rows that are read from them.

A block is what a format hands to a layout: the wanted columns of some rows of a list, and the rows it could not read.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

QUOTED = 200
"""Characters of a bad value that a message shows."""
LISTS = pa.list_(pa.string())
Cell = str | list[str] | None
"""What stands in a row and a column of a list that is read row by row."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a list.

    Args:
        table: the columns asked for that the list has, as text (or numbers, where a column has a type); a column with
            lists of texts in it has lists alone.
        bad: why a row cannot be used, ``"code: message"``, by its place in ``table``.
    """

    table: pa.Table
    bad: dict[int, str] = field(default_factory=dict)

    def column(self, name: str | None) -> pa.Array:
        """A column as one array, or nulls where the list has none."""
        if name is None or name not in self.table.column_names:
            return pa.nulls(self.table.num_rows, pa.string())
        return self.table.column(name).combine_chunks()

    def text(self, name: str | None) -> pa.Array:
        """A column as text, whole numbers without a decimal point; a list of other than one text makes its row bad."""
        column = self.column(name)
        if not pa.types.is_list(column.type):
            return pc.cast(column, pa.string())
        texts: list[str | None] = []
        for i, values in enumerate(column.to_pylist()):
            texts.append(values[0] if values is not None and len(values) == 1 else None)
            if values is not None and len(values) != 1:
                self.bad.setdefault(i, f"bad_list: one text is wanted in {name}, not {str(values)[:QUOTED]}")
        return pa.array(texts, pa.string())

    def texts(self, names: Sequence[str]) -> pa.Array:
        """The texts of several columns, or of cells that are lists, as a list a row; text, where one column has it."""
        listed = [pa.types.is_list(self.column(name).type) for name in names]
        columns = [self.column(name) if lists else self.text(name) for name, lists in zip(names, listed, strict=True)]
        if listed == [False]:
            return columns[0]
        cells = zip(*(column.to_pylist() for column in columns), strict=True)
        rows = [[text for cell in row for text in (cell if isinstance(cell, list) else [cell])] for row in cells]
        return pa.array(rows, LISTS)


def concat_blocks(blocks: Iterable[Block]) -> Block:
    """The rows of ``blocks`` one after the other."""
    parts = list(blocks)
    starts = accumulate((part.table.num_rows for part in parts), initial=0)
    bad = {start + i: reason for start, part in zip(starts, parts, strict=False) for i, reason in part.bad.items()}
    return Block(pa.concat_tables(part.table for part in parts).combine_chunks(), bad)


def parse_records(
    records: Iterable[bytes], columns: Sequence[str], parse: Callable[[bytes], Sequence[Cell]], code: str
) -> Block:
    """A block of records that are read one by one; one that is not UTF-8 is ``bad_utf8``.

    Args:
        records: bytes of each.
        columns: names of the values of a record.
        parse: these values; one that raises ValueError, csv.Error or RecursionError makes the record a bad row.
        code: of these bad rows.
    """
    rows: list[Sequence[Cell]] = []
    bad: dict[int, str] = {}
    for record in records:
        try:
            rows.append(parse(record))
            continue
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            bad[len(rows)] = f"bad_utf8: {error.reason} in {record[:QUOTED]!r}"
        except (ValueError, csv.Error, RecursionError) as error:
            bad[len(rows)] = f"{code}: {error}: {record[:QUOTED].decode(errors='replace')!r}"
        rows.append([None] * len(columns))
    arrays = [to_array([row[i] for row in rows]) for i in range(len(columns))]
    return Block(pa.table(dict(zip(columns, arrays, strict=True))), bad)


def to_array(cells: list[Cell]) -> pa.Array:
    """A column of cells, as text; as lists of it where one is a list."""
    if not any(isinstance(cell, list) for cell in cells):
        return pa.array(cells, pa.string())
    return pa.array([[cell] if isinstance(cell, str) else cell for cell in cells], LISTS)


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
    wanted, final = range_bytes, False
    while not final:
        file.seek(start)
        data = file.read(wanted)
        final = len(data) < wanted
        length = len(data) if final else last_end(data)
        if length:
            yield start, length
        start, wanted = start + length, range_bytes if length else wanted * 2
