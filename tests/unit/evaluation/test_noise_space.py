"""Noise beside white noise: every measure has its known value there, and the mistakes that a study of noise can make
are caught: a clip retrieves itself, frames stand still, records were never inverted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from noisebank import UnknownNoiseSet
from noisebank.evaluation.diagnosis import diagnose, diagnosis_lines
from noisebank.evaluation.noise_space import leave_one_out, measure_noise, measure_record, white_noise
from noisebank.reader.priors import progressive
from noisebank.storage import open_store
from tests.support.bank import build
from tests.support.made_up import SHAPE

STUDIED = (4, 16, 32, 32)


def _captions(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_white_noise_has_its_known_values() -> None:
    space = measure_noise(white_noise(STUDIED, 12))
    values = {name: spread.mean for name, spread in space.measures.items()}
    assert values["norm"] == pytest.approx(np.prod(STUDIED) ** 0.5, rel=0.01)
    assert values["rms"] == pytest.approx(1, rel=0.01)
    assert values["spatial_high"] == pytest.approx(0.951, abs=0.003)
    assert values["temporal_high"] == pytest.approx(0.875, abs=0.003)
    assert values["tdiff_rel"] == pytest.approx(1.414, abs=0.01)
    assert values["frame_correlation"] == pytest.approx(0, abs=0.01)
    assert space.channel_mean == pytest.approx([0] * 4, abs=0.02)
    assert space.channel_std == pytest.approx([1] * 4, abs=0.02)
    assert space.direction_stability == pytest.approx(0, abs=0.005)
    assert space.evr1 == pytest.approx(1 / 11, abs=0.01)
    assert space.retrieval == ()


def test_noise_that_is_not_white_is_told_apart() -> None:
    (white,) = white_noise(STUDIED, 1)
    held = progressive(alpha=2.0).correlate(white[None], 2)[0]
    smooth = torch.nn.functional.avg_pool2d(white, 3, 1, 1)
    still = white[:, :1].expand(STUDIED)
    of_white, of_held, of_smooth, of_still = map(measure_record, (white, held, smooth, still))
    assert of_held["frame_correlation"] == pytest.approx(2 / 5**0.5, abs=0.02)
    assert of_held["temporal_high"] < of_white["temporal_high"] - 0.2
    assert of_held["spatial_high"] == pytest.approx(of_white["spatial_high"], abs=0.01)
    assert of_smooth["spatial_high"] < 0.8
    assert (of_still["tdiff_rel"], of_still["temporal_high"]) == pytest.approx((0, 0), abs=1e-6)
    shared = measure_noise(0.6 * white + 0.8 * other for other in white_noise(STUDIED, 8, seed=1))
    assert shared.direction_stability == pytest.approx(0.36, abs=0.02)
    one_axis = measure_noise(scale * white + other for scale, other in zip(range(8), white_noise(STUDIED, 8, 2)))  # noqa: B905
    assert one_axis.evr1 is not None and one_axis.evr1 > 0.7


@pytest.mark.parametrize("frames", [4, 8, 13, 16])
def test_white_noise_has_the_same_temporal_share_with_any_number_of_frames(frames: int) -> None:
    (white,) = white_noise((4, frames, 32, 32), 1)
    assert measure_record(white)["temporal_high"] == pytest.approx(0.875, abs=0.01)
    slow = torch.linspace(0.8, 1.2, frames)[None, :, None, None] + 0.1 * white
    assert measure_record(slow)["temporal_high"] < 0.6


def test_an_image_has_no_measures_over_frames() -> None:
    assert set(measure_record(torch.randn(4, 1, 8, 8))) == {"norm", "rms", "spatial_high"}


def test_pure_noise_scores_at_chance_in_retrieval() -> None:
    """A study that let a clip find itself gave pure noise the full score."""
    count = 300
    space = measure_noise(white_noise((2, 2, 4, 4), count), _captions(count))
    for one in space.retrieval:
        assert one.low <= one.chance <= one.high
        assert one.chance == pytest.approx(one.depth / (count - 1))
        assert one.recall < 0.1
    captions = _captions(count).astype(np.float64)
    noise = np.eye(count) + 0.01 * np.random.default_rng(0).normal(size=(count, count))
    with_itself = (np.argmax(captions @ captions.T, axis=1) == np.argmax(noise, axis=1)).mean()
    assert with_itself == 1.0
    assert leave_one_out(captions @ captions.T, noise)[0].recall < 0.05


def test_noise_that_knows_the_captions_is_found() -> None:
    captions = _captions(60)
    mixing = torch.randn(8, 128, generator=torch.Generator().manual_seed(1))
    known = (torch.from_numpy(captions) @ mixing).view(-1, 2, 4, 4, 4)
    records = [one + 0.3 * white for one, white in zip(known, white_noise((2, 4, 4, 4), 60), strict=True)]
    found = measure_noise(records, captions).retrieval[0]
    assert found.low > 10 * found.chance


def test_captions_that_are_equal_all_count_and_raise_the_chance() -> None:
    captions = np.repeat(_captions(10), 5, axis=0).astype(np.float64)
    noise = np.random.default_rng(3).normal(size=(50, 50))
    found = leave_one_out(captions @ captions.T, noise)
    assert found[0].chance == pytest.approx(4 / 49)
    expected = 1 - stats.hypergeom(49, 4, 5).pmf(0)
    assert found[1].chance == pytest.approx(expected)


@pytest.fixture
def captions() -> dict[str, str]:
    return {f"mine-{n}": f"a {colour} dog {n}" for n in range(9) for colour in (("red", "blue", "green")[n % 3],)}


def test_a_bank_is_diagnosed_set_by_set(captions: dict[str, str]) -> None:
    store = open_store("memory://diagnosed")
    build(store, captions, sets={"one": captions, "two": list(captions)[:5]})
    reports: list[tuple[int, int]] = []
    document = diagnose(store, progress=lambda done, total: reports.append((done, total)))
    assert {name: one["noise"]["records"] for name, one in document["sets"].items()} == {"one": 9, "two": 5}
    assert reports[-1] == (28, 28)
    one = document["sets"]["one"]
    assert one["shape"] == list(SHAPE)
    assert one["noise"]["channel_mean"] == pytest.approx([0.1] * 4, abs=0.15)
    assert one["noise"]["rms"]["mean"] == pytest.approx(1.2, abs=0.1)
    assert one["white"]["rms"]["mean"] == pytest.approx(1, abs=0.05)
    assert [found["depth"] for found in one["noise"]["retrieval"]] == [1, 5]
    assert one["noise"].keys() == one["white"].keys()
    lines = "\n".join(diagnosis_lines(document))
    assert "one: 9 of 9 records of 4x2x4x6" in lines
    assert "white noise" in lines
    sampled = diagnose(store, noise_set="one", sample=4)
    assert list(sampled["sets"]) == ["one"]
    assert sampled["sets"]["one"]["in_set"] == 9
    assert sampled["sets"]["one"]["noise"]["records"] == 4
    assert diagnose(store, noise_set="one", sample=4) == sampled
    with pytest.raises(UnknownNoiseSet, match="no noise set 'three'; it has one, two"):
        diagnose(store, noise_set="three")
