"""What a paired study says of its differences: one number a prompt, so that prompts are the sample and seeds are not.

Intervals are percentile bootstraps over prompts, p-values come from flipping signs, a family of contrasts is corrected
by Holm's method, and every contrast says which effect it could have found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

_AT_ONCE = 1 << 22
"""Random numbers held at once."""
_TIE = 1e-12
"""Means that differ by less are equal: what a sum leaves in its last bits is no evidence."""


@dataclass(frozen=True)
class Contrast:
    """What came of one contrast: differences of two arms, one a prompt.

    Args:
        prompts: how many differences there are.
        mean: of the differences.
        low, high: percentile bootstrap interval of the mean.
        p: of the sign-flip permutation test, two-sided.
        d_z: mean by standard deviation of the differences; 0 where all are 0, infinite where all are another number.
        wins, ties: shares of the prompts whose difference is above 0, and is 0.
        detectable: smallest effect that would have been found with the power that was asked for, in the outcome's unit.
        detectable_d_z: the same as a d_z.
    """

    prompts: int
    mean: float
    low: float
    high: float
    p: float
    d_z: float
    wins: float
    ties: float
    detectable: float
    detectable_d_z: float


def contrast(
    differences: Values,
    *,
    resamples: int = 10_000,
    permutations: int = 10_000,
    level: float = 0.95,
    power: float = 0.8,
    seed: int = 0,
) -> Contrast:
    """Compares two arms.

    Args:
        differences: ``[N]``, treatment less control, the mean over seeds of each prompt.
        resamples: of the bootstrap.
        permutations: of the sign-flip test.
        level: of the interval; the test that :attr:`Contrast.detectable` is about has the level's complement.
        power: of that test.
        seed: of resamples and flips.

    Raises:
        ValueError: there are fewer than two differences, or one is not finite.
    """
    differences = np.asarray(differences, np.float64)
    if len(differences) < 2 or not np.isfinite(differences).all():
        raise ValueError(f"{len(differences)} differences: at least two, all of them finite, are wanted")
    low, high = bootstrap_interval(differences, resamples, level, seed)
    smallest = smallest_detectable(len(differences), power, 1 - level)
    spread = float(differences.std(ddof=1))
    return Contrast(
        prompts=len(differences),
        mean=float(differences.mean()),
        low=low,
        high=high,
        p=sign_flip_p(differences, permutations, seed),
        d_z=cohen_dz(differences),
        wins=float((differences > _TIE).mean()),
        ties=float((np.abs(differences) <= _TIE).mean()),
        detectable=smallest * spread,
        detectable_d_z=smallest,
    )


def bootstrap_interval(
    values: Values, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean.

    Args:
        values: ``[N]``, one a prompt.
        resamples: how many samples of N prompts are drawn with replacement.
        level: of the interval.
        seed: of the draws.
    """
    rng, count = np.random.default_rng([seed, 0]), len(values)
    means = np.empty(resamples)
    step = max(1, _AT_ONCE // count)
    for first in range(0, resamples, step):
        last = min(first + step, resamples)
        means[first:last] = values[rng.integers(count, size=(last - first, count))].mean(axis=1)
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def sign_flip_p(differences: Values, permutations: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the sign-flip permutation test: ``(1 + #{|mean(s d)| >= |mean d|}) / (1 + B)``.

    Args:
        differences: ``[N]``; under the null each is as likely as its negative.
        permutations: B, random flips of all signs.
        seed: of the flips.
    """
    rng, count = np.random.default_rng([seed, 1]), len(differences)
    observed = abs(differences.sum()) - _TIE * max(float(np.abs(differences).sum()), _TIE)
    reached, step = 0, max(1, _AT_ONCE // count)
    for first in range(0, permutations, step):
        signs = rng.integers(0, 2, size=(min(step, permutations - first), count), dtype=np.int8)
        flipped = 2 * (signs @ differences) - differences.sum()
        reached += int((np.abs(flipped) >= observed).sum())
    return (1 + reached) / (1 + permutations)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for the family that they are (Holm, 1979): the k-th smallest of m times ``m - k + 1``, never
    below the one before, at most 1."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def holm_levels(p_values: Sequence[float], alpha: float = 0.05) -> list[float]:
    """The level that Holm's method holds each p-value against: ``alpha / (m - k + 1)`` of the k-th smallest of m, and
    behind the first that is above its level, that level: no further one is tested."""
    levels, level, holds = [0.0] * len(p_values), 0.0, True
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        if holds:
            level = alpha / (len(p_values) - rank)
            holds = p_values[place] <= level
        levels[place] = level
    return levels


def cohen_dz(differences: Values) -> float:
    """Mean of the differences by their standard deviation (n - 1)."""
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread <= _TIE * max(1.0, abs(mean)):
        return 0.0 if abs(mean) <= _TIE else float(np.copysign(np.inf, mean))
    return mean / spread


def power_of(d_z: float, count: int, alpha: float = 0.05) -> float:
    """Power of the two-sided paired t-test, which the sign-flip test comes near to, from the noncentral t.

    Args:
        d_z: the effect.
        count: prompts.
        alpha: level of the test.
    """
    from scipy.stats import nct, t

    limit, shift = t.ppf(1 - alpha / 2, count - 1), d_z * count**0.5
    below = nct.cdf(-limit, count - 1, shift)  # (not a number where it is next to nothing)
    return float(nct.sf(limit, count - 1, shift) + np.nan_to_num(below))


@lru_cache(256)
def smallest_detectable(count: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest d_z that a study of ``count`` prompts finds with ``power`` at level ``alpha``; infinite for one.

    >>> round(smallest_detectable(100), 2)
    0.28
    """
    from scipy.optimize import brentq

    if count < 2:
        return float("inf")
    enough = count**-0.5
    while power_of(enough, count, alpha) < power:
        enough *= 2
    return float(brentq(lambda d_z: power_of(d_z, count, alpha) - power, 0.0, enough))
