"""Conditions on the columns of a list, as ``where`` of a source has them: ``{score: ">= 5", lang: in en, de}``.

They are checked here, without pyarrow, when a configuration is read; :mod:`noisebank.sources.where` applies them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

WANTED = "like '>= 0.4': >=, <=, >, < and a number; ==, !=, in, not in, contains or matches and text"
_CONDITION = re.compile(r"\s*(>=|<=|==|!=|>|<|(?:not\s+in|in|contains|matches)(?=[\s\[]))\s*(.*?)\s*", re.DOTALL)
_ORDERED = (">=", "<=", ">", "<")
_EQUAL = ("==", "!=")
_SIGNS = tuple("=<>~!")
NUMBER = r"^\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*$"
"""What is a number, in a condition and in a cell: decimal digits of ASCII, nothing between them."""


class Condition(NamedTuple):
    """What one column must be like."""

    column: str
    operator: str
    """``>=``, ``<=``, ``>``, ``<``, ``==``, ``!=``, ``in``, ``not in``, ``contains`` or ``matches``."""
    operand: str

    @property
    def number(self) -> float | None:
        """The operand as a number, if it is one."""
        return _number(self.operand)

    @property
    def items(self) -> list[str]:
        """What ``in`` looks among."""
        inner = self.operand.removeprefix("[").removesuffix("]")
        return [item.strip().strip("\"'") for item in inner.split(",")]

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {self.operand}"


def parse_condition(column: str, text: str) -> Condition:
    """A condition from its text; text without an operator is what the column must equal.

    >>> parse_condition("score", ">=0.4")
    Condition(column='score', operator='>=', operand='0.4')

    Raises:
        ValueError: it has no operand, one that is no number where one is wanted, one that begins as an operator does,
            or no valid pattern.
    """
    match = _CONDITION.fullmatch(text)
    operator, operand = (" ".join(match[1].split()), match[2]) if match else ("==", text.strip())
    if not operand or (operator in _ORDERED and _number(operand) is None):
        raise ValueError(f"conditions {WANTED}; not {text!r} of {column!r}")
    if operator in _EQUAL and operand.startswith(_SIGNS):
        raise ValueError(
            f"conditions {WANTED}; {text!r} of {column!r} has no such operator (text like it: 'in {text}')"
        )
    if operator == "matches":
        try:
            re.compile(operand)
        except re.error as error:
            raise ValueError(f"a valid pattern for {column!r}, not {operand!r}: {error}") from error
    return Condition(column, operator, operand)


def parse_where(value: Any) -> tuple[tuple[str, str], ...]:
    """``(column, condition)`` in their order, from a mapping of columns to a condition or a list of them (all of which
    must hold), from a list of pairs, or from the text ``column: condition``.

    Raises:
        ValueError: it is none of these, or a condition is wrong.
    """
    pairs = tuple(_pairs(value))
    for column, text in pairs:
        parse_condition(column, text)
    return pairs


def _pairs(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and ":" in value:
        column, _, text = value.partition(":")
        value = {column.strip(): text}
    if isinstance(value, Mapping):
        value = [(column, text) for column, given in value.items() for text in _listed(given)]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"a mapping of columns to conditions {WANTED}")
    for pair in value:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[1], (str, int, float))):
            raise ValueError(f"a mapping of columns to conditions {WANTED}")
        text = str(pair[1]).lower() if isinstance(pair[1], bool) else str(pair[1])
        yield str(pair[0]), text


def _listed(given: Any) -> list[Any]:
    if isinstance(given, (list, tuple)) and not given:
        raise ValueError(f"at least one condition a column {WANTED}")
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _number(text: str) -> float | None:
    number = float(text) if re.match(NUMBER, text, re.ASCII) else math.inf
    return number if math.isfinite(number) else None
