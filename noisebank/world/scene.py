"""A scene of the world, and how one is drawn from a random generator: every attribute and every pixel of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from noisebank.world.attributes import BACKDROPS, MOTIONS, POSITIONS, SIDE, SIZES, Combination

LANE = 14.0
"""Pixels from the middle of the picture to the lane of a thing that is not at the centre."""
JITTER = 2.5
"""Most pixels by which a thing's lane, and the middle of its way, are off."""
WAY = (18.0, 26.0)
"""Range of the pixels that a moving thing covers from the first frame to the last."""
PAN = (8.0, 16.0)
"""Range of the pixels by which a panning camera shifts the backdrop."""


@dataclass(frozen=True)
class Thing:
    """What moves, or rests, in a scene; the middle of its way is at ``x``, ``y``, in pixels."""

    colour: str
    shape: str
    motion: str
    position: str
    size: str
    pixels: float
    x: float
    y: float
    way: float

    @property
    def combination(self) -> Combination:
        """Colour, shape and motion."""
        return self.colour, self.shape, self.motion

    def at(self, share: float) -> tuple[float, float]:
        """Where its middle is when ``share`` of the clip, 0 to 1, is over: x and y in pixels."""
        dx, dy = MOTIONS[self.motion]
        return self.x + dx * self.way * (share - 0.5), self.y + dy * self.way * (share - 0.5)


@dataclass(frozen=True)
class Scene:
    """Things over a backdrop, in the order in which they are painted."""

    things: tuple[Thing, ...]
    backdrop: str
    texture_seed: int
    pan: tuple[float, float] = (0.0, 0.0)
    """Pixels, x and y, by which the camera shifts the backdrop during the clip; things move as their motion says."""

    @property
    def thing(self) -> Thing:
        """The only thing of the scene; ``ValueError`` where there are others."""
        (thing,) = self.things
        return thing


def draw_scene(
    rng: np.random.Generator, combinations: Sequence[Combination], things: int = 1, pan: bool = False
) -> Scene:
    """A scene whose things are of some combinations; all else is drawn evenly.

    Args:
        combinations: of colour, shape and motion, to draw from.
        things: how many; two rest or move on either side of the picture.
        pan: whether the camera pans.
    """
    names = ("left", "right") if things == 2 else (None,) * things
    drawn = tuple(_draw_thing(rng, combinations, name) for name in names)
    shift = (float(rng.choice((-1, 1)) * rng.uniform(*PAN)), 0.0) if pan else (0.0, 0.0)
    return Scene(drawn, str(rng.choice(list(BACKDROPS))), int(rng.integers(2**31)), shift)


def _draw_thing(rng: np.random.Generator, combinations: Sequence[Combination], position: str | None) -> Thing:
    if position is not None:
        combinations = [c for c in combinations if _fits(c[2], position)]
    colour, shape, motion = combinations[int(rng.integers(len(combinations)))]
    if position is None:
        position = str(rng.choice([name for name in POSITIONS if _fits(motion, name)]))
    size = str(rng.choice(list(SIZES)))
    right, down = POSITIONS[position]
    x = SIDE / 2 + LANE * right + rng.uniform(-JITTER, JITTER)
    y = SIDE / 2 + LANE * down + rng.uniform(-JITTER, JITTER)
    way = 0.0 if motion == "still" else rng.uniform(*WAY)
    return Thing(colour, shape, motion, position, size, rng.uniform(*SIZES[size]), float(x), float(y), float(way))


def _fits(motion: str, position: str) -> bool:
    """Whether a thing of a motion stays in the picture there: a lane runs along the motion."""
    along = np.dot(MOTIONS[motion], POSITIONS[position])
    return bool(along == 0)
