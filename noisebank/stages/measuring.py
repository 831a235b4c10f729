"""Which clips of a shard are measured, that is, sampled again to see how well their records give them back.

A share is drawn by the clips' numbers. Residuals are free, so the clips whose inversion looks worst are measured too,
and from there on down for as long as what is measured is bad. All of it follows from the shard's clips alone, whatever
their order or the batches that they went through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median_low

import numpy as np

from noisebank.ids import CLIP_BITS

PERCENTILE = 95
"""Of the residuals of the clips drawn: above it a clip is measured too."""
STEP = 0.05
"""Share of a shard's clips that is measured next, where one that was measured is bad."""
MOST = 0.1
"""Share of a shard's clips that residuals alone may add to those drawn."""
STANDS_OUT = 2.0
"""In a shard too small for a share, the largest residual is measured if it is more than this times their median."""


def is_drawn(number: int, share: float) -> bool:
    """Whether the clip of this number is among the ``share`` that is always measured: always the same clips."""
    return (number & ((1 << CLIP_BITS) - 1)) < share * (1 << CLIP_BITS)


def measure_clips(
    numbers: Sequence[int],
    residuals: Sequence[float],
    share: float,
    measure: Callable[[list[int]], list[float]],
    is_bad: Callable[[float], bool],
) -> dict[int, float]:
    """Measures the clips of a shard that are to be measured.

    Args:
        numbers: of the clips.
        residuals: the largest of each.
        share: that is drawn; at 0 nothing is measured.
        measure: gives the errors of clips, by their positions.
        is_bad: whether an error is one that should not be.

    Returns:
        The errors by position.
    """
    if not share:
        return {}
    size = [math.inf if math.isnan(residual) else residual for residual in residuals]
    chosen = [i for i, number in enumerate(numbers) if is_drawn(number, share)]
    others = sorted(set(range(len(numbers))).difference(chosen), key=lambda i: (-size[i], numbers[i]))
    first = _count_suspects([size[i] for i in chosen], [size[i] for i in others], share)
    chosen, others = sorted([*chosen, *others[:first]], key=lambda i: numbers[i]), others[first:]
    step = max(1, _rounded(STEP * len(numbers)))
    errors: dict[int, float] = {}
    while chosen:
        found = measure(chosen)
        errors.update(zip(chosen, found, strict=True))
        chosen, others = (others[:step], others[step:]) if any(map(is_bad, found)) else ([], [])
    return errors


def _count_suspects(drawn: list[float], others: list[float], share: float) -> int:
    """How many of the ``others``, whose residuals descend, are measured beside the ``drawn``."""
    count = len(drawn) + len(others)
    if not others or not others[0]:
        return 0
    most = _rounded(STEP * count) or int(others[0] > STANDS_OUT * median_low([*drawn, *others]))
    if drawn:
        most = max(most, int((share + MOST) * count) - len(drawn))
        limit = float(np.quantile(drawn, PERCENTILE / 100))
        return sum(residual > limit for residual in others[:most])
    return most


def _rounded(number: float) -> int:
    return int(number + 0.5)
