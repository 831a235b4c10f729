"""Rows whose cells are lists: one clip for each range of a video, as Panda-70M lists them.

A cell is a real list, or text that spells one in JSON or as Python does (``['0:00:01.033', '0:00:11.078']``), which is
read as a literal and never evaluated.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from noisebank.ids import Nums
from noisebank.sources.block import LISTS, QUOTED, Block

START, END = "range[0]", "range[1]"
"""Columns that a block has after :func:`split_ranges`."""
_LONGEST_CELL = 1 << 20


def split_ranges(block: Block, column: str, captions: Sequence[str]) -> tuple[Block, Nums]:
    """One row a range, with the columns :data:`START` and :data:`END`.

    A cell is a range ``[start, end]``, or a list of them, and then of the other columns those with a list of as many
    entries are taken entry by entry. Captions are as many as the ranges; a row in which they are not is ``bad_range``.

    Args:
        block: some rows of a list.
        column: of the ranges.
        captions: columns of captions.

    Returns:
        The new block, and for each of its rows the place of the row of ``block`` that it comes from.
    """
    cells = {name: [_parse(cell) for cell in block.table.column(name).to_pylist()] for name in block.table.column_names}
    rows: dict[str, list[Any]] = {name: [] for name in (*cells, START, END)}
    origin: list[int] = []
    bad: dict[int, str] = {}
    for i, cell in enumerate(cells[column]):
        row = {name: values[i] for name, values in cells.items()}
        entries, problem = _entries(cell, {name: row[name] for name in captions})
        if problem := block.bad.get(i) or problem:
            bad[len(origin)] = problem
        for number, (start, end) in enumerate(entries):
            for name, value in row.items():  # (of a bad row no list is needed)
                taken = _is_nested(cell) and isinstance(value, list) and len(value) == len(entries)
                rows[name].append(None if problem and isinstance(value, list) else value[number] if taken else value)
            rows[START].append(start)
            rows[END].append(end)
            origin.append(i)
    table = pa.table({name: _to_array(values) for name, values in rows.items()})
    return Block(table, bad), np.array(origin, np.int64)


def _entries(cell: Any, captions: dict[str, Any]) -> tuple[list[tuple[Any, Any]], str]:
    """The ranges of a row, and what is wrong with it, if so."""
    nothing = [(None, None)]
    ranges = cell if _is_nested(cell) else [cell]
    if not ranges or not all(map(_is_pair, ranges)):
        return nothing, f"bad_range: [start, end], or a list of such, is wanted, not {_spell(cell)!r:.{QUOTED}}"
    if _is_nested(cell):
        for name, value in captions.items():
            count = len(value) if isinstance(value, list) else 1
            if count != len(ranges):
                return nothing, f"bad_range: {len(ranges)} ranges and {count} of {name}"
    return [(start, end) for start, end in ranges], ""


def _is_pair(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2
    return is_pair and all(item is None or isinstance(item, (str, int, float)) for item in value)


def _is_nested(cell: Any) -> bool:
    return isinstance(cell, list) and (not cell or isinstance(cell[0], list))


def _parse(cell: Any) -> Any:
    """A cell, as a list if it is one or spells one; numbers are texts."""
    if isinstance(cell, list):
        return [_parse(item) for item in cell]
    if not isinstance(cell, str) or not cell.lstrip().startswith("[") or len(cell) > _LONGEST_CELL:
        return cell
    try:
        found = json.loads(cell, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return cell
    return found if isinstance(found, list) and _is_text(found) else cell


def _is_text(found: list[Any]) -> bool:
    """Whether what a cell spells can be written again; lone surrogates, which escapes can spell, cannot."""
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _to_array(values: list[Any]) -> pa.Array:
    """Texts, or lists of texts if one is a list."""
    if not any(isinstance(value, list) for value in values):
        return pa.array([_spell(value) for value in values], pa.string())
    lists = (value if isinstance(value, list) or value is None else [value] for value in values)
    return pa.array([value and [_spell(item) for item in value] for value in lists], LISTS)


def _spell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict, tuple)) else str(value)
