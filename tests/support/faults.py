"""Faults that tests put into a local bank: a writer that dies between two writes, and files that are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from noisebank.storage.local import LocalStore

_WRITES = ("create", "_replace", "delete", "sweep")


class PowerCut(Exception):
    """What the writer gets for every write after the cut."""


class Power:
    """How many writes are still let through; ``writes`` counts those that were."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.writes = 0

    @property
    def is_cut(self) -> bool:
        """Whether a write was refused."""
        return self.left < 0

    def write(self) -> None:
        """Lets a write through, or refuses it and all that follow."""
        if self.left > 0:
            self.left -= 1
            self.writes += 1
            return
        self.left = -1
        raise PowerCut("nothing more is written")


@contextmanager
def power_cut(after: int) -> Iterator[Power]:
    """Local stores carry out ``after`` writes or deletions; nothing that is tried later changes a byte.

    So the bank is left as by a process that was killed just there, whatever its ``finally`` blocks do.
    """
    power = Power(after)
    with ExitStack() as stack:
        for name in _WRITES:
            stack.enter_context(patch.object(LocalStore, name, _guarded(getattr(LocalStore, name), power)))
        yield power


def _guarded(method: Any, power: Power) -> Any:
    def guarded(self: LocalStore, *arguments: Any) -> Any:
        power.write()
        return method(self, *arguments)

    return guarded
