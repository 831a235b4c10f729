"""Measures of clips tell what they are named after, and a judge is measured before it is believed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from noisebank.errors import ConfigError
from noisebank.evaluation.judges import load_judge, read_attributes
from noisebank.evaluation.judging import LOOKS, JudgeAccuracy, measure_judge
from noisebank.evaluation.measures import diversity, dynamic_degree, shrink, similarity, temporal_consistency
from noisebank.evaluation.options import JudgeOptions
from noisebank.evaluation.plots import draw_plots
from noisebank.models import load_model
from noisebank.world.accuracy import add_grain
from noisebank.world.world import World


def _clip(motion: str) -> np.ndarray:
    world = World(0, "prompts")
    number = next(n for n in range(200) if world.row(n).scene.thing.motion == motion)
    return world.pixels(number)


def test_a_clip_that_stands_still_is_consistent_and_has_no_dynamics() -> None:
    """Consistency alone would call it the better one."""
    moving, still = shrink(_clip("left")), shrink(_clip("left")[[0] * 8])
    assert temporal_consistency(still) == pytest.approx(1)
    assert temporal_consistency(moving) < temporal_consistency(still)  # type: ignore[operator]
    assert dynamic_degree(still) == 0
    assert dynamic_degree(moving) > 0.01  # type: ignore[operator]
    assert temporal_consistency(moving[:1]) is dynamic_degree(moving[:1]) is None
    grained = shrink(np.stack([add_grain(frame[None], n)[0] for n, frame in enumerate(_clip("left")[[0] * 8])]))
    assert dynamic_degree(grained) < dynamic_degree(moving)  # type: ignore[operator]


def test_diversity_is_of_seeds_and_similarity_of_clips() -> None:
    left, up = shrink(_clip("left")), shrink(_clip("up"))
    assert diversity([left, left]) == [0, 0]
    one, other, third = diversity([left, up, left])
    assert one == third == pytest.approx(other / 2)  # type: ignore[operator]
    assert diversity([left]) == [None]
    assert similarity(left, left) == pytest.approx(1)
    assert similarity(left, 0.5 * left + 0.1) == pytest.approx(1)
    assert similarity(left, 1 - left) == pytest.approx(-1)
    assert abs(similarity(left, up)) < 0.9  # type: ignore[arg-type]
    assert similarity(left[:4], left) == pytest.approx(1)
    assert similarity(left, left[:4]) is similarity(left, None) is None
    assert left.shape == (8, 32, 32, 3)


def test_a_judge_is_measured_on_clips_as_they_are_and_as_the_model_makes_them(small_model: Path) -> None:
    judge, adapter = load_judge(JudgeOptions()), load_model(str(small_model))
    world = World(0, "pool")
    clips = [
        (str(n), world.row(n).caption, {"colour": thing.colour, "motion": thing.motion}, world.pixels(n))
        for n in range(3)
        for thing in (world.row(n).scene.thing,)
    ]
    accuracy = measure_judge(judge, clips, ("colour", "motion"), adapter, 4, 0)
    document = accuracy.document(("colour", "motion"))
    assert list(document) == list(LOOKS)
    assert [document[look]["colour"]["clips"] for look in LOOKS] == [3, 3, 3]
    assert accuracy.of("real", "colour") == accuracy.of("real", "motion") == 1
    accuracy.check(("colour", "motion"), 0.99)
    again = measure_judge(judge, clips, ("colour", "motion"), adapter, 4, 0)
    assert again.counts == accuracy.counts


def test_an_attribute_that_the_judge_misreads_is_refused() -> None:
    counts = {("real", "colour", "red", "red"): 98, ("real", "colour", "red", "none"): 2}
    accuracy = JudgeAccuracy(counts)
    assert accuracy.document(["colour"])["real"]["colour"]["confusion"] == {"red": {"none": 2, "red": 98}}
    accuracy.check(["colour"], 0.98)
    with pytest.raises(ConfigError, match=r"'colour': the judge is right on 98\.0% of the bank's own clips"):
        accuracy.check(["colour"], 0.99)
    JudgeAccuracy({}).check(["colour"], 0.99)
    for answer, said in (
        ({"colour": 3}, "reads 'colour' as 3"),
        ({"colour": ""}, "reads 'colour' as ''"),
        (None, "it answers None"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_attributes(lambda frames, answer=answer: answer, _clip("left"), ("colour",))  # type: ignore[misc]
    with pytest.raises(ConfigError, match="does not read 'smell'; it reads colour, shape, motion, position"):
        read_attributes(load_judge(JudgeOptions()), _clip("left"), ("colour", "smell"))


def test_pictures_are_drawn_of_what_a_study_has() -> None:
    pytest.importorskip("matplotlib")
    mean = {"prompts": 5, "mean": 0.5, "low": 0.4, "high": 0.6}
    contrast = {"treatment": "ona", "control": "gaussian", "prompts": 5, "mean": 0.1, "low": -0.1, "high": 0.2}
    points = [{"eta": eta, "arm": "a", **mean} for eta in (0.2, 0.5, "inf")]
    summary = {
        "arms": {"gaussian": {"outcomes": {"accuracy": mean}}, "oracle": {"outcomes": {"accuracy": None}}},
        "primary": {"contrasts": [contrast, {"treatment": "ona", "control": "oracle", "prompts": 0}]},
        "curves": {"eta": [{"name": "nearest", "points": points}], "pool": []},
    }
    drawn = draw_plots(summary)
    assert list(drawn) == ["arms.png", "contrasts.png", "eta.png"]
    for png in drawn.values():
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.width > 500
    assert draw_plots(summary) == drawn
