"""The lists of a study: what is asked, what is in the pools, and what is true of both."""

from __future__ import annotations

import csv
from pathlib import Path

from noisebank.world.lists import write_study
from noisebank.world.world import World


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_no_prompt_is_asked_twice_and_one_that_was_asked_gives_way_to_a_later_row(tmp_path: Path) -> None:
    write_study(tmp_path, seed=0, pool=1, oracle=0, prompts=150)
    prompts = _read(tmp_path / "prompts.csv")
    assert len({row["prompt"] for row in prompts}) == len({row["id"] for row in prompts}) == 150
    world, places = World(0, "prompts"), [int(row["id"].removeprefix("p")) for row in prompts]
    moved = [place for place, number in enumerate(places) if place != number]
    assert moved
    for place in moved:
        assert world.row(place).caption in {row["prompt"] for row in prompts}
        assert places[place] >= 150
    for row, number in zip(prompts, places, strict=True):
        thing = world.row(number).scene.thing
        assert (row["prompt"], row["colour"], row["motion"]) == (world.row(number).caption, thing.colour, thing.motion)
    assert [row["prompt"] for row in _read(tmp_path / "rewrites.csv")] == [row["prompt"] for row in prompts]


def test_a_smaller_pool_is_the_first_rows_of_the_pool(tmp_path: Path) -> None:
    write_study(tmp_path, seed=0, pool=3, oracle=2, prompts=2, sizes=[2])
    assert _read(tmp_path / "pool-2.csv") == _read(tmp_path / "pool.csv")[:2]
    assert [row["id"] for row in _read(tmp_path / "clips.csv")] == [
        *(f"pool-{number}-0-1000" for number in range(3)),
        *(f"oracle-{number}-0-1000" for number in range(2)),
    ]
