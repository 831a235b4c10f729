"""A contact sheet: for every prompt of a shard its candidates with their rewards, the anchor marked, and frames of the
clip, so that a look tells whether the images show the prompt and whether the clip moves."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

SIDE = 96
"""Longest side of a thumbnail, in pixels."""
FRAMES = 6
"""Frames of a clip that are shown."""
ROWS = 64
"""Prompts on a sheet at most, so that it costs the same memory however large its shard is."""
_TEXT, _GAP = 14, 4
_INK, _PAPER, _MARK = (20, 20, 20), (255, 255, 255), (220, 40, 30)


def draw_row(title: str, candidates: torch.Tensor, labels: Sequence[str], chosen: int, frames: torch.Tensor) -> bytes:
    """The row of one prompt, as PNG: the same arguments give the same bytes.

    Args:
        title: above it; control characters are left out.
        candidates: ``[N, H, W, 3]`` uint8 RGB.
        labels: one a candidate, below it.
        chosen: which candidate is the anchor.
        frames: of the clip, ``[F, H, W, 3]`` uint8 RGB; the first, the last and those evenly between are shown.
    """
    shown = frames[torch.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().long()]
    pictures = [_thumbnail(picture) for picture in [*candidates, *shown]]
    width, height = pictures[0].size
    step = width + _GAP
    row = _paper(len(pictures) * step + 4 * _GAP, height + 2 * _TEXT + 3 * _GAP)
    pen = ImageDraw.Draw(row)
    pen.text((_GAP, 0), _printable(title), _INK, _font())
    for place, picture in enumerate(pictures):
        left = _GAP + place * step + (2 * _GAP if place >= len(candidates) else 0)
        row.paste(picture, (left, _TEXT + _GAP))
        if place < len(candidates):
            colour = _MARK if place == chosen else _INK
            pen.text((left, _TEXT + height + 2 * _GAP), labels[place], colour, _font())
        if place == chosen:
            pen.rectangle((left - 2, _TEXT + 2, left + width + 1, _TEXT + _GAP + height + 1), outline=_MARK, width=2)
    return _png(row)


def draw_text_row(text: str) -> bytes:
    """A row of text alone, for a prompt without a clip."""
    row = _paper(SIDE * 6, _TEXT + 2 * _GAP)
    ImageDraw.Draw(row).text((_GAP, 0), _printable(text), _MARK, _font())
    return _png(row)


class ContactSheet:
    """The rows of a shard below each other, the first :data:`ROWS` of them; the last line counts those not shown."""

    def __init__(self) -> None:
        self._rows: list[bytes] = []
        self._not_shown = 0

    def add(self, row: bytes) -> None:
        """Puts a row, PNG, below those before it."""
        if len(self._rows) < ROWS:
            self._rows.append(row)
        else:
            self._not_shown += 1

    def to_png(self) -> bytes:
        """The sheet, as PNG."""
        more = [draw_text_row(f"not shown: {self._not_shown} more")] if self._not_shown else []
        return _stack([*self._rows, *more])


def _stack(rows: Sequence[bytes]) -> bytes:
    pictures = [Image.open(io.BytesIO(row), formats=("PNG",)) for row in rows]
    sheet = _paper(max(picture.width for picture in pictures), sum(picture.height for picture in pictures))
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return _png(sheet)


def _thumbnail(picture: torch.Tensor) -> Image.Image:
    image = Image.fromarray(picture.numpy())
    scale = SIDE / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def _paper(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), _PAPER)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT - _GAP)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:200])


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
