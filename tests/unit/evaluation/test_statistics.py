"""Statistics agree with scipy where it has them; power agrees with simulation; planted effects are found and planted
nulls are not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from noisebank.evaluation.statistics import (
    bootstrap_interval,
    cohen_dz,
    contrast,
    holm,
    holm_levels,
    power_of,
    sign_flip_p,
    smallest_detectable,
)

STUDIES = 500


def _draw(seed: int, count: int, mean: float = 0.0, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, count)


def test_the_bootstrap_is_scipys() -> None:
    values = np.random.default_rng(0).exponential(size=60)
    ours = bootstrap_interval(values, 20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert ours == pytest.approx(theirs, abs=0.01)
    wider = bootstrap_interval(values, 20_000, level=0.99)
    assert wider[0] < ours[0] < values.mean() < ours[1] < wider[1]


@pytest.mark.parametrize("mean", [0.0, 0.3, -0.5])
def test_the_sign_flip_test_is_scipys(mean: float) -> None:
    differences = _draw(3, 40, mean)
    theirs = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=9_999, rng=2)
    assert sign_flip_p(differences, 9_999) == pytest.approx(theirs.pvalue, abs=0.02)


def test_with_every_flip_counted_the_p_value_is_exact() -> None:
    differences = np.array([0.5, 0.25, 0.0, -0.25, 1.0, 0.75, 0.5, 0.125])
    flips = np.array(list(itertools.product((-1, 1), repeat=8)))
    exact = (np.abs(flips @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert sign_flip_p(differences, 100_000) == pytest.approx(exact, abs=0.004)
    assert sign_flip_p(np.zeros(8), 999) == 1.0
    assert sign_flip_p(np.full(30, 0.1), 999) == 1 / 1000


def test_holm_is_what_the_papers_example_gives() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm_levels([0.01, 0.04, 0.03], 0.06) == pytest.approx([0.02, 0.06, 0.03])
    assert holm_levels([0.01, 0.02, 0.04], 0.05) == pytest.approx([0.05 / 3, 0.025, 0.05])
    assert holm_levels([0.001, 0.03, 0.04], 0.05) == pytest.approx([0.05 / 3, 0.025, 0.025])


def test_effect_size_is_the_paired_t_by_the_root_of_n() -> None:
    differences = _draw(5, 25, 0.2)
    assert cohen_dz(differences) == pytest.approx(stats.ttest_1samp(differences, 0).statistic / 5)
    assert cohen_dz(np.zeros(5)) == 0
    assert cohen_dz(np.full(5, -0.5)) == -np.inf


def test_power_agrees_with_simulation() -> None:
    assert smallest_detectable(100) == pytest.approx(0.28, abs=0.005)
    d_z = smallest_detectable(30)
    studies = np.random.default_rng(7).normal(d_z, 1, (4000, 30))
    found = (stats.ttest_1samp(studies, 0, axis=1).pvalue <= 0.05).mean()
    assert found == pytest.approx(0.8, abs=0.025)
    flipped = [sign_flip_p(study, 499, seed) <= 0.05 for seed, study in enumerate(studies[:STUDIES])]
    low, high = stats.binomtest(sum(flipped), STUDIES).proportion_ci(0.99)
    assert low <= 0.8 <= high
    assert power_of(0.0, 30) == pytest.approx(0.05)
    assert smallest_detectable(1) == float("inf")


def test_planted_nulls_are_found_at_the_nominal_rate() -> None:
    """Differences of mean accuracies, as a study has them: many ties, and values of a coarse grid."""
    rng = np.random.default_rng(11)
    arms = rng.binomial(6, rng.beta(4, 2, (STUDIES, 50, 1)), (STUDIES, 50, 2)) / 6
    found = [contrast(study, resamples=99, permutations=399).p <= 0.05 for study in arms[..., 0] - arms[..., 1]]
    low, high = stats.binom.interval(0.99, STUDIES, 0.05)
    assert low <= sum(found) <= high


def test_in_a_family_of_nulls_one_is_found_no_more_often_than_nominal() -> None:
    """Three contrasts that share an arm, corrected by Holm's method."""
    rng = np.random.default_rng(13)
    arms = rng.normal(size=(STUDIES, 4, 40)) + rng.normal(size=(STUDIES, 1, 40))
    families = [[sign_flip_p(study[0] - control, 399, 1) for control in study[1:]] for study in arms]
    found = sum(min(holm(family)) <= 0.05 for family in families)
    assert 0 < found <= stats.binom.ppf(0.995, STUDIES, 0.05)


def test_planted_effects_are_found_and_their_intervals_hold_the_truth() -> None:
    contrasts = [contrast(_draw(seed, 60, 0.1, 0.2), resamples=399, permutations=399) for seed in range(200)]
    assert sum(one.p <= 0.05 for one in contrasts) / 200 == pytest.approx(power_of(0.5, 60), abs=0.06)
    covered = sum(one.low <= 0.1 <= one.high for one in contrasts)
    assert covered >= stats.binom.ppf(0.005, 200, 0.93)
    one = contrasts[0]
    assert one.detectable == pytest.approx(one.detectable_d_z * _draw(0, 60, 0.1, 0.2).std(ddof=1))
    assert one.wins + one.ties <= 1


def test_what_no_study_can_tell_is_refused() -> None:
    with pytest.raises(ValueError, match="1 differences: at least two"):
        contrast(np.array([0.5]))
    with pytest.raises(ValueError, match="all of them finite"):
        contrast(np.array([0.5, np.nan, 1.0]))
