"""A world is its seed: rows, pixels, files and lists are the same whenever and in whatever order they are made."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from noisebank.options import ClipOptions
from noisebank.video.decode import decode
from noisebank.world.attributes import COMBINATIONS, FRAMES, HELD_OUT, POSITIONS, SIDE
from noisebank.world.judge import read_clip
from noisebank.world.world import SPLITS, World


def test_a_row_is_the_same_whenever_it_is_made() -> None:
    world = World(3, "pool")
    in_order = [world.row(number) for number in range(20)]
    assert [World(3, "pool").row(number) for number in reversed(range(20))] == in_order[::-1]
    assert (world.pixels(7) == World(3, "pool").pixels(7)).all()
    assert World(4, "pool").row(7) != in_order[7]


def test_splits_share_no_scene() -> None:
    scenes = [World(0, split).row(number).scene for split in SPLITS for number in range(300)]
    assert len({scene.texture_seed for scene in scenes}) == len(scenes)
    assert len(set(scenes)) == len(scenes)


def test_held_out_combinations_are_in_prompts_but_in_neither_training_nor_pool() -> None:
    drawn = {split: {World(0, split).row(number).scene.thing.combination for number in range(1500)} for split in SPLITS}
    assert drawn["train"] == drawn["pool"] == set(COMBINATIONS["seen"])
    assert drawn["prompts"] == drawn["oracle"] == set(COMBINATIONS["all"])
    assert not drawn["train"] & set(HELD_OUT)
    for place in range(3):
        assert {c[place] for c in COMBINATIONS["seen"]} == {c[place] for c in COMBINATIONS["all"]}


def test_a_list_of_any_length_is_written_without_its_videos(tmp_path: Path) -> None:
    path = World(0, "pool").write_list(tmp_path / "pool.csv", 2500, "http://127.0.0.1:8000/pool")
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert len(rows) == 2500
    assert rows[2001]["contentUrl"] == "http://127.0.0.1:8000/pool/0002/0002001.mp4"
    assert rows[2001]["name"] == World(0, "pool").row(2001).caption
    assert rows[2001]["duration"] == "PT00H00M01S"
    assert list(tmp_path.iterdir()) == [path]
    assert World(0, "pool").row(10**9).caption


def test_a_video_on_disk_is_the_row_to_a_few_grey_levels(tmp_path: Path) -> None:
    world = World(0, "pool")
    paths = world.write_videos(tmp_path, [4, 1004])
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["0000/0000004.mp4", "0001/0001004.mp4"]
    options = ClipOptions(frames=FRAMES, frame_stride=1, size=SIDE, pixel_format="yuv444p")
    for path, number in zip(paths, (4, 1004), strict=True):
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in decode(path, options).frames])
        error = frames.astype(float) - world.pixels(number)
        assert np.sqrt((error**2).mean()) < 3
    first = paths[0].read_bytes()
    assert world.write_videos(tmp_path / "again", [4])[0].read_bytes() == first


@pytest.mark.parametrize("number", range(3))
def test_two_things_and_a_panning_camera_can_be_had(number: int) -> None:
    scene = World(0, "train", things=2, pan=True).row(number).scene
    left, right = scene.things
    pixels = World(0, "train", things=2, pan=True).pixels(number)
    assert (left.position, right.position) == ("left", "right")
    assert abs(scene.pan[0]) >= 8
    assert World(0, "train", things=2).row(number).caption.count(" and ") == 1
    assert read_clip(pixels).shape is None
    still = World(0, "train", things=2, pan=False)
    corner = (slice(None), slice(0, 6), slice(0, 6))
    moved = np.abs(np.diff(pixels[corner].astype(int), axis=0)).mean()
    rested = np.abs(np.diff(still.pixels(number)[corner].astype(int), axis=0)).mean()
    assert moved > rested


def test_things_are_large_enough_and_stay_in_the_picture() -> None:
    for number, share in itertools.product(range(200), (0.0, 1.0)):
        thing = World(1, "prompts").row(number).scene.thing
        assert thing.pixels >= 20
        assert thing.position in POSITIONS
        for middle in thing.at(share):
            assert thing.pixels / 2 <= middle <= SIDE - thing.pixels / 2


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="no split 'test'; choose one of train, pool, prompts, oracle"):
        World(0, "test")
