"""Conditions of a source, in columns: which rows of a block it does not take, and why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.conditions import NUMBER, Condition
from noisebank.errors import ConfigError
from noisebank.ids import Mask
from noisebank.sources.block import Block

_COMPARE = {">=": pc.greater_equal, "<=": pc.less_equal, ">": pc.greater, "<": pc.less}
_TRUTH = ("true", "false")


def filter_reasons(block: Block, conditions: Sequence[Condition]) -> pa.Array:
    """For every row of a block, what of it the first condition that does not hold is about; null where all hold.

    A cell that is a list is as wanted where one of its items is. A value that is missing, or no number where one is
    compared, is never as wanted.

    Raises:
        ConfigError: a pattern is one that RE2 does not take.
    """
    reasons = pa.nulls(block.table.num_rows, pa.string())
    for condition in conditions:
        column = block.column(condition.column)
        held = _holds_lists(column, condition) if pa.types.is_list(column.type) else _holds(column, condition)
        if held.all():
            continue
        shown = _shown(column)
        wanted = f", wanted: {condition.operator} {condition.operand}"
        failed = pc.binary_join_element_wise(f"{condition.column} is ", shown, wanted, "")
        reasons = pc.coalesce(reasons, pc.if_else(pa.array(~held), failed, None))
    unread = np.isin(np.arange(len(reasons)), [*block.bad])  # (nobody knows what they say)
    return pc.if_else(pa.array(unread), None, reasons)


def _holds(column: pa.Array, condition: Condition) -> Mask:
    operator, operand = condition.operator, condition.operand
    if operator in _COMPARE:
        found = _COMPARE[operator](_numbers(column), condition.number)
    elif operator in ("==", "!="):
        found = _equals(column, condition)
        found = pc.invert(found) if operator == "!=" else found
    elif operator in ("in", "not in"):
        found = pc.is_in(column.cast(pa.string()), value_set=pa.array(condition.items, pa.string()))
        found = pc.if_else(column.is_valid(), pc.invert(found) if operator == "not in" else found, None)
    else:
        search = pc.match_substring if operator == "contains" else pc.match_substring_regex
        try:
            found = search(column.cast(pa.string()), operand)
        except pa.ArrowInvalid as error:
            raise ConfigError(f"where: {condition}: {error}") from error
    return np.asarray(found.fill_null(False), bool)


def _equals(column: pa.Array, condition: Condition) -> pa.Array:
    """As text, or as numbers; whatever the case of ``true`` and ``false``. Null where nothing is."""
    texts, operand = column.cast(pa.string()), condition.operand
    if operand.lower() in _TRUTH:
        texts, operand = pc.utf8_lower(texts), operand.lower()
    found = pc.equal(texts, operand)
    if condition.number is not None:
        found = pc.or_(found, pc.equal(_numbers(column), condition.number).fill_null(False))
    return found


def _holds_lists(column: pa.Array, condition: Condition) -> Mask:
    held = np.zeros(len(column), bool)
    held[pc.list_parent_indices(column).to_numpy()[_holds(column.flatten(), condition)]] = True
    return held


def _numbers(column: pa.Array) -> pa.Array:
    """A column as float64, null where it has no number."""
    if pa.types.is_string(column.type):
        plain = pc.match_substring_regex(column, NUMBER)
        column = pc.utf8_trim_whitespace(pc.if_else(plain, column, None))
    return column.cast(pa.float64(), safe=False)


def _shown(column: pa.Array) -> pa.Array:
    """The cells of a column for a message."""
    if pa.types.is_list(column.type):
        column = pc.binary_join(column, ", ")
    return pc.coalesce(pc.utf8_slice_codeunits(column.cast(pa.string()), 0, 80), "missing")
