"""Captions say what the scene shows, in several ways, with words of a closed vocabulary."""

from __future__ import annotations

import numpy as np

from noisebank.world.attributes import COMBINATIONS
from noisebank.world.captions import MOTION_WORDS, PLACE_WORDS, SHAPE_WORDS, vocabulary, write_caption
from noisebank.world.scene import draw_scene
from noisebank.world.world import World


def test_every_caption_names_colour_shape_and_motion_and_nothing_that_is_not_so() -> None:
    for number in range(500):
        row = World(0, "prompts").row(number)
        thing, caption = row.scene.thing, f" {row.caption} "
        assert f" {thing.colour} " in caption
        for words, truth in ((SHAPE_WORDS, thing.shape), (MOTION_WORDS, thing.motion)):
            assert [name for name, ways in words.items() if any(f" {way} " in caption for way in ways)] == [truth]
        told = [name for name, ways in PLACE_WORDS.items() if any(f" {way} " in caption for way in ways)]
        assert told in ([], [thing.position])


def test_every_combination_can_be_said() -> None:
    rng = np.random.default_rng(0)
    captions = {c: write_caption(draw_scene(rng, [c]), rng) for c in COMBINATIONS["all"]}
    assert len(set(captions.values())) == 90


def test_a_scene_has_several_captions() -> None:
    scene = World(0, "train").row(0).scene
    rng = np.random.default_rng(0)
    assert len({write_caption(scene, rng) for _ in range(100)}) > 30


def test_the_vocabulary_is_every_word_that_captions_use() -> None:
    used = {word for number in range(3000) for word in World(0, "prompts", things=2).row(number).caption.split()}
    used |= {word for number in range(3000) for word in World(0, "prompts").row(number).caption.split()}
    assert used == set(vocabulary())
