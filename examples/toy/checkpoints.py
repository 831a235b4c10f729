"""State of a training on disk, replaced as a whole: a kill at any moment loses what came since the last one."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a state beside the old one, then puts it in its place."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The last state; None where there is none yet."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def append_line(path: Path, **values: Any) -> None:
    """Adds one JSON line to a log, and says it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")
    print(f"{path.stem}: " + ", ".join(f"{name} {value}" for name, value in values.items()), flush=True)


def say_start(what: str, step: int, steps: int) -> None:
    """Says where a stage begins, or goes on."""
    if step < steps:
        print(f"{what}: {f'goes on after step {step} of' if step else 'begins,'} {steps} steps", flush=True)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; of those with the same ``step``, as after a kill, the last, and none that a kill cut off."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            values = json.loads(line)
            found[values["step"]] = values
    return list(found.values())


class OutOfTime(Exception):
    """The piece of training that was asked for is over; the state is saved."""


class Clock:
    """Says when to save, and when the piece of training is over."""

    def __init__(self, minutes: float, every_seconds: float) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.every = every_seconds
        self.saved = time.monotonic()

    def is_over(self) -> bool:
        """Whether the piece is over."""
        return time.monotonic() >= self.end

    def is_time_to_save(self) -> bool:
        """True once every so many seconds, and at the end."""
        if time.monotonic() - self.saved < self.every and not self.is_over():
            return False
        self.saved = time.monotonic()
        return True
