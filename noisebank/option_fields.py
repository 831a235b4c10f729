"""One option: a field of a dataclass that knows its help, its limits and whether it changes what a stage writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import field
from typing import Any


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    hashed: bool | Callable[[Any], bool] = True,
    since_first: bool = True,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    parse: Callable[[Any], Any] | None = None,
) -> Any:
    """A dataclass field with its help text, limits (numbers have both) and whether it is part of the fingerprint; one
    that was not there ``since_first`` is not at its default, which is how all was made before."""
    if (minimum is None) != (maximum is None):
        raise TypeError(f"an option has a minimum and a maximum or neither, not {minimum} and {maximum}")
    limits = {"choices": choices, "minimum": minimum, "maximum": maximum}
    known = {"help": help, "hashed": hashed, "since_first": since_first, "parse": parse}
    return field(default=default, metadata={**known, **limits})


def is_unsaid(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether an option was not there at first and is at its default, as if in a plan from before it."""
    return not field.metadata["since_first"] and bool(value == field.default)
