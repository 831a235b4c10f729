"""Plots as inline SVG, drawn by matplotlib in colours that the page's style sheet gives, light or dark.

matplotlib writes colours as they are; each stands for a variable of the style sheet, which takes its place. Text stays
text, escaped, in the page's own font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"text": "#010203", "muted": "#010204", "line": "#010205", "bar": "#010206", "mark": "#010207"}
"""Variables of the style sheet, and what matplotlib writes for them."""
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "noisebank",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _COLOURS["line"],
    "axes.labelcolor": _COLOURS["muted"],
    "axes.labelsize": 9,
    "axes.axisbelow": True,
    "xtick.color": _COLOURS["line"],
    "ytick.color": _COLOURS["line"],
    "xtick.labelcolor": _COLOURS["muted"],
    "ytick.labelcolor": _COLOURS["muted"],
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "grid.color": _COLOURS["line"],
    "grid.linewidth": 0.6,
    "font.family": "sans-serif",
}
_WIDTH, _HEIGHT = 4.4, 2.3
_BINS = 30
_WIDE = 20


def choose_bins(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], bool]:
    """Edges of the bins of a histogram of values, none negative, and whether they are wide apart: then bins are equal
    on a logarithmic axis, and the first has the zeros too."""
    positive = values[values > 0]
    if not len(positive):
        return np.linspace(0, 1, _BINS + 1), False
    low, high = positive.min(), positive.max()
    if high > _WIDE * low:
        edges = np.geomspace(low, high, _BINS + 1)
        edges[[0, -1]] = low, high  # (rounding must not leave a value out)
        return edges, True
    margin = max((high - values.min()) * 0.05, high * 0.05)
    return np.linspace(max(0, values.min() - margin), high + margin, _BINS + 1), False


def histogram(values: npt.NDArray[np.float64], label: str, about: str) -> Markup:
    """How values, none negative, are spread; a dashed line marks the median.

    Args:
        values: at least one.
        label: of the axis.
        about: what the picture shows, for those who cannot see it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    edges, is_wide = choose_bins(values)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        axes.hist(np.maximum(values, edges[0]), bins=edges.tolist(), color=_COLOURS["bar"])
        if is_wide:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if edges[-1] < 100 * edges[0] else (1,), numticks=6))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.axvline(float(np.median(values)), color=_COLOURS["mark"], linewidth=1.4, linestyle=(0, (3, 2)))
        axes.set_xlabel(label)
        axes.set_ylabel("records")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="y")
        axes.tick_params(axis="y", length=0)
        return _svg(figure, about)


def bars(names: Sequence[str], values: Sequence[float], shown: Sequence[str], about: str) -> Markup:
    """One horizontal bar a name, longest first as given.

    Args:
        names: of the bars, as text.
        values: their lengths.
        shown: what stands at their ends.
        about: what the picture shows, for those who cannot see it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 0.35 + 0.28 * len(names)), layout="constrained")
        axes: Axes = figure.add_subplot()
        drawn = axes.barh(range(len(names)), values, height=0.62, color=_COLOURS["bar"])
        axes.bar_label(drawn, shown, padding=4, fontsize=9, color=_COLOURS["text"])
        axes.set_yticks(range(len(names)), names, color=_COLOURS["text"])
        axes.invert_yaxis()
        axes.margins(x=0.22)
        axes.set_xlim(left=0)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return _svg(figure, about)


def _svg(figure: Any, about: str) -> Markup:
    """A figure as an element of HTML."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font-size: \1", text)
    for name, colour in _COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return Markup(text.replace("<svg ", Markup('<svg role="img" aria-label="{}" ').format(about), 1))
