"""Pictures of a study, by matplotlib: every arm's accuracy with its interval, the primary contrasts, and curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from noisebank.evaluation.options import OUTCOME

INCHES = (7.0, 4.2)


def draw_plots(summary: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG files by name; of what a study has none of, none.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    accuracies = {name: arm["outcomes"][OUTCOME] for name, arm in summary["arms"].items()}
    arms = {name: mean for name, mean in accuracies.items() if mean and mean["low"] is not None}
    contrasts = [one for one in summary["primary"]["contrasts"] if one["prompts"]]
    drawn = {}
    if arms:
        drawn["arms.png"] = _draw_intervals(arms, "mean attribute accuracy in % (of the prompts that an arm has)")
    if contrasts:
        named = {f"{one['treatment']} - {one['control']}": one for one in contrasts}
        drawn["contrasts.png"] = _draw_intervals(named, "difference in mean attribute accuracy, in points", zero=True)
    for axis, label in (("eta", "eta"), ("pool", "records in the pool")):
        if summary["curves"][axis]:
            drawn[f"{axis}.png"] = _draw_curves(summary["curves"][axis], axis, label)
    return drawn


def _draw_intervals(rows: Mapping[str, Mapping[str, Any]], label: str, zero: bool = False) -> bytes:
    figure, axes = _figure((INCHES[0], 1.2 + 0.32 * len(rows)))
    places = range(len(rows) - 1, -1, -1)
    means, reach = _in_percent(list(rows.values()))
    axes.errorbar(means, list(places), xerr=reach, fmt="o", capsize=3)
    axes.set_yticks(list(places), list(rows))
    axes.set_xlabel(label)
    if zero:
        axes.axvline(0, color="grey", linewidth=1)
    return _save(figure)


def _draw_curves(curves: list[dict[str, Any]], axis: str, label: str) -> bytes:
    figure, axes = _figure(INCHES)
    for curve in curves:
        points = [p for p in curve["points"] if not isinstance(p[axis], str) and p["low"] is not None]
        means, reach = _in_percent(points)
        axes.errorbar([p[axis] for p in points], means, yerr=reach, marker="o", capsize=3, label=curve["name"])
    if axis == "pool":
        axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("mean attribute accuracy in %")
    axes.legend()
    return _save(figure)


def _in_percent(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[list[float]]]:
    """Means, and how far their intervals reach below and above them."""
    means = [100 * row["mean"] for row in rows]
    return means, [[100 * abs(row["mean"] - row[end]) for row in rows] for end in ("low", "high")]


def _figure(inches: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    return figure, figure.add_subplot()


def _save(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()
