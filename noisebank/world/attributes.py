"""What a scene of the world can hold: the values of every attribute, and the combinations that are held out.

Colours are saturated and sixty degrees of hue apart, backdrops are not saturated, shapes differ in how much of their
bounding box they fill, and motions cross at least a quarter of the picture: a reader needs no network.
"""

from __future__ import annotations

from itertools import product

SIDE = 64
"""Pixels of a frame, in height and in width."""
FRAMES = 8
"""Frames of a clip, shown at as many a second."""

COLOURS = {
    "red": (214, 40, 40),
    "yellow": (232, 204, 36),
    "green": (44, 170, 60),
    "cyan": (36, 196, 206),
    "blue": (44, 68, 216),
    "purple": (178, 44, 200),
}
SHAPES = ("circle", "square", "triangle")
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
"""Direction on the picture: x to the right, y downwards."""
POSITIONS = {"centre": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
"""Where the middle of a thing's way lies: off the middle of the picture to one side, across the way, or nowhere."""
SIZES = {"small": (20, 23), "large": (26, 29)}
"""Range of a thing's height and width in pixels."""
BACKDROPS = {
    "stone": ((92, 94, 98), (158, 158, 160)),
    "sand": ((168, 154, 132), (216, 204, 182)),
    "slate": ((34, 40, 50), (88, 96, 108)),
    "snow": ((204, 210, 218), (246, 248, 250)),
}
"""Darkest and lightest colour of the texture."""

Combination = tuple[str, str, str]
"""Colour, shape and motion."""

HELD_OUT: tuple[Combination, ...] = (
    ("red", "circle", "left"),
    ("yellow", "square", "right"),
    ("green", "triangle", "up"),
    ("cyan", "circle", "down"),
    ("blue", "square", "still"),
    ("purple", "triangle", "left"),
    ("red", "triangle", "right"),
    ("yellow", "circle", "up"),
    ("green", "square", "down"),
    ("cyan", "triangle", "still"),
    ("blue", "circle", "left"),
    ("purple", "square", "right"),
)
"""Absent from what a model is trained on and from pools; every value of each attribute is in others."""

COMBINATIONS: dict[str, tuple[Combination, ...]] = {
    "all": tuple(product(COLOURS, SHAPES, MOTIONS)),
    "seen": tuple(c for c in product(COLOURS, SHAPES, MOTIONS) if c not in HELD_OUT),
    "held-out": HELD_OUT,
}
"""Sets of combinations that scenes may be drawn from, by name."""
