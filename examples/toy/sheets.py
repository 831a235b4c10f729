"""Pictures of a training: the curve of its losses and a sheet of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from noisebank.world.render import Pixels

CURVE = (900, 420)
MARGIN = 50
ROW_TEXT = 14
"""Pixels of a row of samples that its caption takes."""


def draw_curve(path: Path, lines: Sequence[dict[str, Any]], title: str) -> None:
    """Losses by step, both read from a log; losses on a logarithmic axis."""
    steps = np.array([line["step"] for line in lines], float)
    losses = np.array([line["loss"] for line in lines], float)
    picture = Image.new("RGB", CURVE, "white")
    draw = ImageDraw.Draw(picture)
    low, high = np.log(losses.min() * 0.95), np.log(losses.max() * 1.05)
    xs = MARGIN + (CURVE[0] - 2 * MARGIN) * steps / steps.max()
    ys = CURVE[1] - MARGIN - (CURVE[1] - 2 * MARGIN) * (np.log(losses) - low) / (high - low)
    draw.line([(MARGIN, MARGIN), (MARGIN, CURVE[1] - MARGIN), (CURVE[0] - MARGIN, CURVE[1] - MARGIN)], fill="black")
    draw.line(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=(30, 90, 200), width=2)
    draw.text((MARGIN, 15), f"{title}: {losses[-1]:.4f} after {int(steps[-1])} steps", fill="black")
    for value in (losses.max(), losses[-1]):
        y = CURVE[1] - MARGIN - (CURVE[1] - 2 * MARGIN) * (np.log(value) - low) / (high - low)
        draw.text((4, y - 6), f"{value:.3f}", fill="black")
    draw.text((CURVE[0] - MARGIN - 30, CURVE[1] - MARGIN + 6), str(int(steps.max())), fill="black")
    picture.save(path)


def draw_sheet(path: Path, clips: Sequence[Pixels], captions: Sequence[str], scale: int = 2) -> None:
    """Clips below each other, frames from left to right, each under its caption."""
    frames, height, width, _ = clips[0].shape
    row = height * scale + ROW_TEXT
    picture = Image.new("RGB", (frames * width * scale, row * len(clips)), "white")
    draw = ImageDraw.Draw(picture)
    for number, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
        strip = Image.fromarray(np.concatenate(list(clip), axis=1))
        picture.paste(
            strip.resize((strip.width * scale, strip.height * scale), Image.Resampling.NEAREST),
            (0, row * number + ROW_TEXT),
        )
        draw.text((4, row * number + 1), caption, fill="black")
    picture.save(path)
