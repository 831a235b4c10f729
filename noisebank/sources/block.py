"""What a format reader hands to a layout: the wanted columns of some rows of a list, and the rows it could not read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

QUOTED = 200
"""Characters of a bad value that a message shows."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a list.

    Args:
        table: the columns asked for that the list has, as text (or numbers, where a column has a type).
        bad: why a row could not be read, ``"code: message"``, by its place in ``table``, where it is all null.
    """

    table: pa.Table
    bad: dict[int, str] = field(default_factory=dict)


def concat_blocks(blocks: Iterable[Block]) -> Block:
    """The rows of ``blocks`` one after the other."""
    tables: list[pa.Table] = []
    bad: dict[int, str] = {}
    rows = 0
    for block in blocks:
        bad |= {rows + i: reason for i, reason in block.bad.items()}
        tables.append(block.table)
        rows += block.table.num_rows
    return Block(pa.concat_tables(tables).combine_chunks(), bad)


def text_block(rows: Sequence[Sequence[str | None]], columns: Sequence[str], bad: dict[int, str]) -> Block:
    """A block of ``rows``, each with a value for every one of ``columns``."""
    arrays = [pa.array([row[i] for row in rows], pa.string()) for i in range(len(columns))]
    return Block(pa.table(dict(zip(columns, arrays, strict=True))), bad)
