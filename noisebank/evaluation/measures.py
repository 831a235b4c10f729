"""Measures of clips that no attribute tells: how steady, how lively, how different from each other, how like another.

All are taken on frames averaged over blocks to some thirty pixels a side, so that grain counts for little; values of
pixels are from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from noisebank.evaluation.judges import Frames

SIDE = 32
"""Pixels of the shorter side that are left at least."""

Small = npt.NDArray[np.float64]
"""A clip averaged over blocks, ``[F, h, w, 3]``, 0 to 1."""


def shrink(frames: Frames) -> Small:
    """A clip averaged over blocks of pixels; what is over at the edges is left out."""
    count, height, width, _ = frames.shape
    block = max(1, min(height, width) // SIDE)
    rows, columns = height // block, width // block
    cut = frames[:, : rows * block, : columns * block].astype(np.float64) / 255
    small: Small = cut.reshape(count, rows, block, columns, block, 3).mean(axis=(2, 4))
    return small


def psnr(found: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB, of uint8 values; of equal ones infinite."""
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def temporal_consistency(clip: Small) -> float | None:
    """Mean correlation of neighbouring frames; None for an image. A clip that stands still has 1, so this is to be
    read beside :func:`dynamic_degree`."""
    pairs = [_correlation(one, other) for one, other in pairwise(clip)]
    return float(np.mean(pairs)) if pairs else None


def dynamic_degree(clip: Small) -> float | None:
    """Root mean square of what changes from frame to frame; None for an image."""
    return float(np.sqrt(np.mean(np.diff(clip, axis=0) ** 2))) if len(clip) > 1 else None


def diversity(clips: Sequence[Small]) -> list[float | None]:
    """Of each of the clips of one prompt the mean root mean square distance to the others; None where it is alone."""
    found: list[float | None] = []
    for place, clip in enumerate(clips):
        others = [other for number, other in enumerate(clips) if number != place]
        distances = [float(np.sqrt(np.mean((clip - other) ** 2))) for other in others]
        found.append(float(np.mean(distances)) if distances else None)
    return found


def similarity(clip: Small, other: Small | None) -> float | None:
    """Correlation of two clips over all their pixels, around the mean of each; None where they differ in shape."""
    if other is None:
        return None
    other = other[: len(clip)]
    return _correlation(clip, other) if clip.shape == other.shape else None


def _correlation(one: Small, other: Small) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt((one**2).sum() * (other**2).sum())
    if scale == 0:
        return float(np.array_equal(one, other))
    return float((one * other).sum() / scale)
