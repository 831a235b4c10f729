"""The judge reads the world's videos right, also blurred and grained, and nothing where there is nothing to read."""

from __future__ import annotations

import numpy as np
import pytest

from noisebank.world.accuracy import REQUIRED, SPOILED, measure
from noisebank.world.attributes import FRAMES, SIDE
from noisebank.world.judge import ATTRIBUTES, Reading, read_clip
from noisebank.world.render import Pixels
from noisebank.world.world import World


@pytest.mark.parametrize(("look", "clips"), [("real", 200), ("blurred", 100), ("grained", 100)])
def test_it_reads_every_attribute(look: str, clips: int) -> None:
    accuracy = measure(World(5, "prompts"), range(clips), SPOILED[look])
    for name in ATTRIBUTES:
        assert accuracy.of(name) >= REQUIRED, accuracy.mistaken(name)


def test_of_videos_both_blurred_and_grained_it_misses_few_and_mistakes_none() -> None:
    accuracy = measure(World(5, "prompts"), range(60), SPOILED["both"])
    for name in ATTRIBUTES:
        assert accuracy.of(name) >= 0.95
        assert {read for _, read in accuracy.mistaken(name)} <= {"none"}


def _noise(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (FRAMES, SIDE, SIDE, 3)).astype(np.uint8)


def test_it_reads_nothing_in_garbage() -> None:
    grey = np.full((FRAMES, SIDE, SIDE, 3), 128, np.uint8)
    red = np.full_like(grey, (214, 40, 40))
    blobs = np.kron(_noise(1)[:, ::8, ::8], np.ones((1, 8, 8, 1), np.uint8))
    world = World(0, "prompts")
    backdrop_alone = np.stack([world.pixels(0)[0, :8, :8].repeat(8, 0).repeat(8, 1)] * FRAMES)
    for clip in (_noise(0), grey, red, blobs, backdrop_alone):
        assert read_clip(clip) == Reading()


def test_frames_of_other_clips_have_no_motion_and_no_common_colour() -> None:
    world = World(0, "prompts")
    clips = [world.pixels(number) for number in range(60)]
    mixed = [np.stack([clips[(first + 7 * f) % 60][f] for f in range(FRAMES)]) for first in range(60)]
    readings = [read_clip(clip) for clip in mixed]
    assert sum(reading.colour is None for reading in readings) >= 50
    assert sum(reading.motion is None for reading in readings) >= 20


def test_what_it_reads_turns_with_the_frames() -> None:
    world = World(0, "prompts")
    number = next(n for n in range(100) if world.row(n).scene.thing.motion == "left")
    clip = world.pixels(number)
    assert read_clip(clip[::-1]).motion == "right"
    assert read_clip(clip.transpose(0, 2, 1, 3)).motion == "up"
    assert read_clip(clip[[0] * FRAMES]).motion == "still"
    assert read_clip(clip[:, :, :, ::-1]).shape == read_clip(clip).shape
    double = clip.repeat(2, axis=1).repeat(2, axis=2)
    assert read_clip(double) == read_clip(clip)
