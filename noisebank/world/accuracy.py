"""How often the judge reads the world's own videos right, clean and as a small model would blur and grain them.

``python -m noisebank.world.accuracy --count 2000`` prints a table by attribute, and what was taken for what.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from noisebank.world.judge import ATTRIBUTES, read_clip
from noisebank.world.render import Pixels
from noisebank.world.scene import Thing
from noisebank.world.world import World

REQUIRED = 0.99
"""Least accuracy on real videos of an attribute that is used."""


@dataclass
class Accuracy:
    """What was read for what was so: a count for every attribute, true value and reading."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, thing: Thing, pixels: Pixels) -> None:
        """Reads one clip that shows ``thing``."""
        reading = read_clip(pixels)
        for name in ATTRIBUTES:
            self.counts[name, getattr(thing, name), getattr(reading, name) or "none"] += 1

    def of(self, attribute: str) -> float:
        """Share of the clips whose reading is right; ``none`` is not."""
        rows = [(true == read, count) for (name, true, read), count in self.counts.items() if name == attribute]
        return sum(count for right, count in rows if right) / sum(count for _, count in rows)

    def mistaken(self, attribute: str) -> dict[tuple[str, str], int]:
        """Counts of wrong readings, by true value and reading."""
        return {(t, r): c for (name, t, r), c in sorted(self.counts.items()) if name == attribute and t != r}


def measure(world: World, numbers: Iterable[int], spoil: Callable[[Pixels, int], Pixels] | None = None) -> Accuracy:
    """The judge's accuracy on some rows of a world.

    Args:
        spoil: makes of a clip and its number what the judge is to read; default: the clip.
    """
    accuracy = Accuracy()
    for number in numbers:
        pixels = world.pixels(number)
        accuracy.add(world.row(number).scene.thing, pixels if spoil is None else spoil(pixels, number))
    return accuracy


def blur(pixels: Pixels, sigma: float = 1.5) -> Pixels:
    """Each frame through a Gaussian of ``sigma`` pixels."""
    return np.asarray(ndimage.gaussian_filter(pixels, (0, sigma, sigma, 0)))


def add_grain(pixels: Pixels, seed: int, deviation: float = 12.0, pixels_wide: float = 1.0) -> Pixels:
    """Noise of some standard deviation in grey levels, in each channel and frame, as coarse as a decoder's."""
    noise = ndimage.gaussian_filter(
        np.random.default_rng(seed).standard_normal(pixels.shape), (0, pixels_wide, pixels_wide, 0)
    )
    return np.asarray(np.clip(pixels + noise * (deviation / noise.std()), 0, 255), np.uint8)


SPOILED: dict[str, Callable[[Pixels, int], Pixels]] = {
    "real": lambda pixels, number: pixels,
    "blurred": lambda pixels, number: blur(pixels),
    "grained": add_grain,
    "both": lambda pixels, number: add_grain(blur(pixels), number),
}
"""What a clip can be made to look like, by name."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="videos")
    parser.add_argument("--seed", type=int, default=0, help="of the world")
    options = parser.parse_args()
    world = World(options.seed, "prompts")
    print(f"{options.count} videos\t" + "\t".join(ATTRIBUTES))
    mistakes = []
    for look, spoil in SPOILED.items():
        accuracy = measure(world, range(options.count), spoil)
        print(f"{look}\t" + "\t".join(f"{accuracy.of(name):.2%}" for name in ATTRIBUTES))
        for name in ATTRIBUTES:
            taken = accuracy.mistaken(name).items()
            mistakes += [f"{look}\t{name}\t{true} for {read}\t{count}" for (true, read), count in taken]
    print("\n".join(["", "what was taken for what", *mistakes]))


if __name__ == "__main__":
    main()
