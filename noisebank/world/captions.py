"""The grammar of captions: several ways to say each attribute, and several to put them together.

A caption always names colour, shape and motion; size, position and backdrop only where its pattern has a place for
them, so that a model can also be asked without.
"""

from __future__ import annotations

import re

import numpy as np

from noisebank.world.attributes import BACKDROPS, COLOURS, SIZES
from noisebank.world.scene import Scene, Thing

PATTERNS = (
    "{thing} {motion}",
    "{thing} {motion} over {backdrop}",
    "{thing} {motion} {place}",
    "{thing} {place} {motion}",
    "{thing} {place} {motion} over {backdrop}",
    "over {backdrop} {thing} {motion}",
    "a video of {thing} that {motion}",
    "{thing} on {backdrop} that {motion}",
)
SHAPE_WORDS = {"circle": ("circle", "disc"), "square": ("square", "box"), "triangle": ("triangle",)}
MOTION_WORDS = {
    "left": ("moves left", "moves to the left", "slides from right to left"),
    "right": ("moves right", "moves to the right", "slides from left to right"),
    "up": ("moves up", "rises", "climbs from the bottom to the top"),
    "down": ("moves down", "falls", "sinks from the top to the bottom"),
    "still": ("stays still", "does not move", "rests"),
}
PLACE_WORDS = {
    "centre": ("in the middle", "at the centre"),
    "left": ("near the left edge", "at the left side"),
    "right": ("near the right edge", "at the right side"),
    "top": ("near the upper edge", "high up"),
    "bottom": ("near the lower edge", "low down"),
}


def write_caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of the captions of a scene: lower-case English without punctuation."""
    told = [_describe(thing, scene.backdrop, rng) for thing in scene.things]
    return " and ".join(told)


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption can have, sorted."""
    texts = [*PATTERNS, *COLOURS, *SIZES, *BACKDROPS, "a", "and"]
    texts += [text for words in (SHAPE_WORDS, MOTION_WORDS, PLACE_WORDS) for ways in words.values() for text in ways]
    return tuple(sorted({word for text in texts for word in re.findall(r"[a-z]+", re.sub(r"{\w+}", "", text))}))


def _describe(thing: Thing, backdrop: str, rng: np.random.Generator) -> str:
    size = f"{thing.size} " if rng.random() < 0.3 else ""
    return _choose(PATTERNS, rng).format(
        thing=f"a {size}{thing.colour} {_choose(SHAPE_WORDS[thing.shape], rng)}",
        motion=_choose(MOTION_WORDS[thing.motion], rng),
        place=_choose(PLACE_WORDS[thing.position], rng),
        backdrop=backdrop,
    )


def _choose(ways: tuple[str, ...], rng: np.random.Generator) -> str:
    return ways[int(rng.integers(len(ways)))]
