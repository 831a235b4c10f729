"""Which clips are measured: a share by number, the largest residuals, and on from there while what is found is bad."""

import math
import random

import pytest

from noisebank.ids import clip_number
from noisebank.stages.measuring import is_drawn, measure_clips

NUMBERS = [clip_number(f"mine-{i}") for i in range(4000)]
SHARE = 0.05


def measured(numbers, residuals, errors=None, share=SHARE):
    """The numbers that are measured, given every clip's residual and error; an error above 0.5 is bad."""
    asked = []

    def measure(clips):
        asked.extend(numbers[i] for i in clips)
        return [errors[numbers[i]] if errors else 0.1 for i in clips]

    found = measure_clips(numbers, [residuals[number] for number in numbers], share, measure, lambda error: error > 0.5)
    assert sorted(asked) == sorted(numbers[i] for i in found)  # (none twice)
    return set(asked)


def healthy(numbers, seed=0):
    draw = random.Random(seed)
    return {number: draw.uniform(0.1, 0.15) for number in numbers}


def test_the_share_is_drawn_by_the_clips_number():
    chosen = {share: {n for n in NUMBERS if is_drawn(n, share)} for share in (0.0, 0.1, 0.5, 1.0)}
    assert (len(chosen[0.0]), len(chosen[1.0])) == (0, 4000)
    assert 300 < len(chosen[0.1]) < 500
    assert chosen[0.1] < chosen[0.5]


def test_residuals_above_the_95th_percentile_of_those_drawn_are_measured_too():
    numbers = NUMBERS[:1000]
    drawn = [number for number in numbers if is_drawn(number, SHARE)]
    residuals = dict.fromkeys(numbers, 0.05) | {number: 0.1 + i / 1000 for i, number in enumerate(drawn)}
    limit = 0.1 + 0.95 * (len(drawn) - 1) / 1000
    others = [number for number in numbers if number not in drawn]
    residuals |= {others[0]: limit - 1e-4, others[1]: limit + 1e-4, others[2]: 7.0}
    assert measured(numbers, residuals) == {*drawn, others[1], others[2]}


@pytest.mark.parametrize("count", [10, 16, 64, 512])
def test_what_is_measured_of_good_shards_is_at_most_fifteen_in_a_hundred(count):
    shards = [NUMBERS[start : start + count] for start in range(0, 4000 - count + 1, count)]
    chosen = [measured(shard, healthy(shard, seed)) for seed, shard in enumerate(shards)]
    assert sum(map(len, chosen)) <= 0.15 * count * len(shards)
    assert all(chosen)


def test_it_depends_on_the_clips_alone_not_on_their_order():
    shard = NUMBERS[:300]
    residuals = {number: round(residual, 2) for number, residual in healthy(shard).items()}  # (with many equal ones)
    errors = {number: 0.9 if i % 20 == 0 else 0.1 for i, number in enumerate(shard)}
    shuffled = random.Random(1).sample(shard, len(shard))
    assert measured(shard, residuals, errors) == measured(shuffled, residuals, errors)


@pytest.mark.parametrize("count", [4, 16, 64, 400])
def test_bad_clips_that_are_not_drawn_are_all_found_however_many(count):
    shard = [number for number in NUMBERS if not is_drawn(number, SHARE)][:count]
    bad = shard[:: max(2, count // 40)]
    residuals = healthy(shard) | {number: 0.5 + i / 1000 for i, number in enumerate(bad)}
    few = residuals | dict.fromkeys(bad[1:], 0.12)
    assert bad[0] in measured(shard, few, {number: 0.9 if number == bad[0] else 0.1 for number in shard})
    assert set(bad) <= measured(shard, residuals, {number: 0.9 if number in bad else 0.1 for number in shard})


def test_a_residual_that_is_no_number_counts_as_the_largest():
    shard = [number for number in NUMBERS if not is_drawn(number, SHARE)][:40]
    assert shard[7] in measured(shard, healthy(shard) | {shard[7]: math.nan})


def test_nothing_or_everything_is_measured_where_that_is_asked_for():
    shard = NUMBERS[:50]
    assert measured(shard, healthy(shard) | {shard[0]: 9.0}, share=0.0) == set()
    assert measured(shard, healthy(shard), share=1.0) == set(shard)
    assert measured([], {}) == set()


def test_noise_found_without_residuals_is_measured_by_the_share_alone():
    drawn = {number for number in NUMBERS[:200] if is_drawn(number, SHARE)}
    assert measured(NUMBERS[:200], dict.fromkeys(NUMBERS[:200], 0.0)) == drawn
