"""Writes what a study in the world needs: videos of pool and oracle, lists of them, prompts, and what is true of each.

``python -m noisebank.world.lists --out FOLDER --seed 0 --pool 2000 --oracle 500 --prompts 400 --sizes 100 500``. Splits
share no random number; the combinations that are held out are in prompts and oracle alone.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from noisebank.world.captions import write_caption
from noisebank.world.judge import ATTRIBUTES
from noisebank.world.world import World

DURATION_MS = 1000
SOURCES = ("pool", "oracle")
"""The splits that become banks; each list is to be read as a source of that name."""


def write_study(out: Path, seed: int, pool: int, oracle: int, prompts: int, sizes: Sequence[int] = ()) -> list[Path]:
    """Writes the lists of a study, and the videos of its pools.

    Args:
        out: folder; videos lie in ``pool`` and ``oracle``, and those that are there already stay as they are.
        seed: of the world.
        pool, oracle, prompts: how many of each.
        sizes: of smaller pools, each the first rows of the pool.

    Returns:
        ``pool.csv``, ``oracle.csv`` and ``pool-<size>.csv`` (WebVid's columns), ``clips.csv`` (the attributes of their
        clips, by the ids that a bank gives them where the sources are named ``pool`` and ``oracle``), ``prompts.csv``,
        and ``rewrites.csv``, each prompt in other words of the grammar.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths, known = [], []
    for name, count in zip(SOURCES, (pool, oracle), strict=True):
        world = World(seed, name)
        world.write_videos(out / name, range(count))
        paths.append(world.write_list(out / f"{name}.csv", count, str((out / name).absolute())))
        ids = (f"{name}-{number}-0-{DURATION_MS}" for number in range(count))
        known += [(id, *_attributes(world, number)) for number, id in enumerate(ids)]
    paths += [World(seed, "pool").write_list(out / f"pool-{n}.csv", n, str((out / "pool").absolute())) for n in sizes]
    paths.append(_write(out / "clips.csv", ("id", *ATTRIBUTES), known))
    world = World(seed, "prompts")
    numbers = _number_prompts(world, prompts)
    asked = ((f"p{number}", world.row(number).caption, *_attributes(world, number)) for number in numbers)
    paths.append(_write(out / "prompts.csv", ("id", "prompt", *ATTRIBUTES), asked))
    said = ((world.row(number).caption, _say_again(world, number)) for number in numbers)
    return [*paths, _write(out / "rewrites.csv", ("prompt", "rewritten"), said)]


def _number_prompts(world: World, count: int) -> list[int]:
    """Rows with as many different captions; one whose caption is taken gives way to a later row."""
    numbers, taken, later = [], set(), itertools.count(count)
    for number in range(count):
        while (caption := world.row(number).caption) in taken:
            number = next(later)
        numbers.append(number)
        taken.add(caption)
    return numbers


def _say_again(world: World, number: int) -> str:
    """Another caption of the scene of a row: of twenty the longest, which says most."""
    row = world.row(number)
    rng = np.random.default_rng([world.seed, number])
    captions = {write_caption(row.scene, rng) for _ in range(20)} - {row.caption}
    return max(sorted(captions), key=len)


def _attributes(world: World, number: int) -> tuple[str, ...]:
    thing = world.row(number).scene.thing
    return tuple(getattr(thing, name) for name in ATTRIBUTES)


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def main() -> None:
    """Writes a study and names its files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--seed", type=int, default=0, help="of the world")
    for name, count in (("pool", 2000), ("oracle", 500), ("prompts", 400)):
        parser.add_argument(f"--{name}", type=int, default=count, help=f"how many (default: {count})")
    parser.add_argument("--sizes", type=int, nargs="*", default=(), help="of smaller pools, each the pool's first rows")
    options = parser.parse_args()
    print("\n".join(map(str, write_study(**vars(options)))))


if __name__ == "__main__":
    main()
