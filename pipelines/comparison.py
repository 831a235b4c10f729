"""One picture of what a bank does: clips of several kinds below each other, a column for every prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]

SHOWN = 4
"""Frames of a clip that are shown, evenly spread from the first to the last."""
SIDE = 112
"""Pixels of a frame in the picture."""
LABEL, GAP, TEXT = 210, 18, 20
"""Pixels: width of the rows' labels, between columns, and height of a line of text."""


@dataclass(frozen=True)
class Shown:
    """A clip in the picture: frames uint8 ``[F, H, W, 3]``, what stands below them, and whether it is as asked for."""

    frames: Pixels
    note: str
    good: bool | None = None


def draw_comparison(rows: Sequence[str], columns: Mapping[str, Sequence[Shown]]) -> Any:
    """The picture, a PIL image.

    Args:
        rows: what stands left of each row; lines are separated by newlines.
        columns: by the title of a column, its clips from top to bottom.
    """
    width, height = SHOWN * SIDE, SIDE + 2 * TEXT
    size = (LABEL + (width + GAP) * len(columns), 2 * TEXT + height * len(rows))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    plain, large = ImageFont.load_default(13), ImageFont.load_default(15)
    for number, label in enumerate(rows):
        draw.multiline_text((8, 2 * TEXT + number * height + SIDE // 3), label, fill="black", font=large)
    for column, (title, clips) in enumerate(columns.items()):
        left = LABEL + column * (width + GAP)
        draw.text((left, 8), title, fill="black", font=large)
        for number, shown in enumerate(clips):
            top = 2 * TEXT + number * height
            picture.paste(_strip(shown.frames), (left, top))
            colour = {None: "black", True: (0, 120, 40), False: (180, 30, 30)}[shown.good]
            draw.text((left, top + SIDE + 2), shown.note, fill=colour, font=plain)
    return picture


def _strip(frames: Pixels) -> Any:
    chosen = frames[np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)]
    strip = Image.new("RGB", (SHOWN * SIDE, SIDE), "white")
    for number, frame in enumerate(chosen):
        strip.paste(Image.fromarray(frame).resize((SIDE - 2, SIDE), Image.Resampling.NEAREST), (number * SIDE, 0))
    return strip
