"""Plots for a page: every value is in a bin, colours are the style sheet's, and names of others stay text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from noisebank.report.plots import bars, choose_bins, histogram

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    "values",
    [[0.0], [1e-3], [0.25, 0.3, 0.31], [0.0, 1e-5, 1e-2, 3.0], list(np.geomspace(1e-7, 12.3, 50)), [0.1] * 9],
    ids=["a zero", "one", "near each other", "zeros too", "far apart", "all equal"],
)
def test_every_value_is_in_a_bin(values: list[float]) -> None:
    edges, _ = choose_bins(np.array(values))
    assert (np.diff(edges) > 0).all()
    assert np.histogram(np.maximum(values, edges[0]), edges)[0].sum() == len(values)


def test_only_values_far_apart_are_on_a_logarithmic_axis() -> None:
    assert [choose_bins(np.array(values))[1] for values in ([0.1, 0.5], [1e-4, 0.5])] == [False, True]


@pytest.mark.parametrize(("low", "high"), [(2e-4, 8e-3), (1e-7, 3.0)], ids=["two decades", "many"])
def test_labels_of_a_logarithmic_axis_are_plain_numbers_and_few(low: float, high: float) -> None:
    tree = ElementTree.fromstring(histogram(np.geomspace(low, high, 9), "", "").replace("xlink:", ""))
    axis = next(element for element in tree.iter(f"{SVG}g") if element.get("id") == "matplotlib.axis_1")
    labels = [(element.text or "").strip() for element in axis.iter(f"{SVG}text")]
    assert 2 <= len(labels) <= 8 and all(low / 2 <= float(label) <= 2 * high for label in labels)


def test_colours_are_those_of_the_page() -> None:
    for svg in (histogram(np.geomspace(1e-4, 1, 20), "relative", "errors"), bars(["a"], [1.0], ["1"], "sizes")):
        styled = re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)
        assert "var(--bar)" in styled
        assert {colour for colour in styled if not colour.startswith("var(")} <= {"none"}


def test_names_of_others_are_text() -> None:
    name = "<script>taken()</script> $\\frac{1}{2}$ & \u202e"
    svg = bars([name], [3.0], ["3"], 'of "others" <b>')
    tree = ElementTree.fromstring(svg.replace("xlink:", "").replace("&nbsp;", " "))
    assert tree.attrib["aria-label"] == 'of "others" <b>'
    assert name in [element.text for element in tree.iter(f"{SVG}text")]
    assert not [*tree.iter(f"{SVG}script")]
