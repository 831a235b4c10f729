"""The one table of ratios: its rows, as markdown, and how they get into a document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

HEADER = """\
| benchmark | what | against | ratio | goal | CPU-s | notes |
|---|---|---|---|---|---|---|
"""
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


@dataclass(frozen=True)
class Row:
    """One measurement."""

    what: str
    against: str
    """What the ratio is to."""
    ratio: float | None
    goal: str
    cpu_seconds: float | None
    """Of ``what``."""
    notes: str = ""

    def cells(self) -> list[str]:
        """The row as text."""
        return [_number(cell) if cell is None or isinstance(cell, float) else str(cell) for cell in astuple(self)]


def lines(name: str, rows: Sequence[Row]) -> str:
    """The rows of one benchmark as lines of the table."""
    return "".join(f"| {' | '.join([name, *row.cells()])} |\n" for row in rows)


def replace_lines(path: Path, measured: Mapping[str, str], order: Sequence[str], machine: str) -> None:
    """Puts the lines of benchmarks into the table of a document; benchmarks that were not run keep theirs.

    Args:
        path: a document with the two markers, each on a line of its own.
        measured: lines of the table by benchmark.
        order: all benchmarks, as they are to stand.
        machine: stands under the table.

    Raises:
        ValueError: the document has no place for the table.
    """
    text = path.read_text(encoding="utf-8")
    found = re.search(f"(?<={BEGIN}\n).*?(?={END})", text, re.DOTALL)
    if found is None:
        raise ValueError(f"{path}: no lines {BEGIN} and {END} to put the table between")
    kept = {
        name: "".join(re.findall(rf"^\| {name} \|.*\n", found.group(), re.MULTILINE))
        for name in order
        if name not in measured
    }
    table = "".join({**kept, **measured}[name] for name in order)
    path.write_text(f"{text[: found.start()]}\n{HEADER}{table}\n{machine}\n\n{text[found.end() :]}", encoding="utf-8")


def _number(value: float | None) -> str:
    """Three significant digits; a dash for nothing."""
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
