"""Captioned videos made from nothing, for the demo, the tests and the benchmarks.

Each shows a shaded thing that moves over a textured, panning backdrop, and its caption says so. Codecs, containers,
sizes, frame rates and durations vary; one in six is stored on its side with the rotation in its metadata, as phones do.
The same arguments give the same files.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

COLOURS = {
    "red": (178, 62, 54),
    "orange": (205, 132, 64),
    "yellow": (208, 186, 88),
    "green": (84, 142, 82),
    "teal": (66, 140, 146),
    "blue": (72, 98, 172),
    "purple": (128, 84, 156),
    "grey": (140, 140, 140),
}
SHAPES = ("ball", "square", "ring", "diamond", "cross")
MOTIONS = {
    "moves from left to right": (1.0, 0.0),
    "moves from right to left": (-1.0, 0.0),
    "rises": (0.0, -1.0),
    "falls": (0.0, 1.0),
    "circles": (0.0, 0.0),
    "drifts down to the right": (0.7, 0.7),
}
BACKDROPS = {
    "a cloudy sky": ((120, 146, 180), (214, 220, 226), 1.9),
    "a sandy beach": ((168, 146, 108), (220, 204, 168), 1.2),
    "a green meadow": ((70, 96, 52), (142, 164, 92), 1.1),
    "dark water": ((28, 48, 66), (78, 108, 124), 1.6),
    "a brick-red wall": ((116, 68, 56), (164, 110, 92), 1.3),
    "snow": ((188, 194, 204), (240, 242, 244), 1.7),
}


@dataclass(frozen=True)
class Sample:
    """One video on disk."""

    path: Path
    caption: str
    duration_ms: int


@dataclass(frozen=True)
class _Format:
    """How a video is stored."""

    codec: str
    suffix: str
    width: int
    height: int
    fps: Fraction
    options: tuple[tuple[str, str], ...]
    rotation: int = 0
    """Degrees clockwise to turn the stored picture for display."""


_X264 = (("preset", "veryfast"), ("crf", "20"), ("x264-params", "mbtree=0"))  # (see video/encode.py)
_FORMATS = (
    _Format("libx264", ".mp4", 320, 240, Fraction(25), _X264),
    _Format("mpeg4", ".mp4", 352, 288, Fraction(24), (("b", "1500000"),)),
    _Format("libvpx-vp9", ".webm", 320, 180, Fraction(25), (("deadline", "realtime"), ("cpu-used", "8"))),
    _Format("libx264", ".mp4", 426, 240, Fraction(30000, 1001), _X264),
    _Format("libx264", ".mp4", 320, 240, Fraction(30), _X264, rotation=90),
    _Format("libx264", ".mkv", 480, 270, Fraction(50), _X264),
)


def make_sample_videos(folder: Path, n: int, seed: int = 0, frames: int = 128) -> list[Sample]:
    """Writes ``n`` captioned videos.

    Args:
        folder: where to; made if need be.
        n: how many; captions are distinct up to 1440.
        seed: other seeds give other pictures and captions.
        frames: the fewest frames that a video has; they have up to a third more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_make(folder, number, seed, frames) for number in range(n)]


def set_rotation(path: Path, degrees: int) -> None:
    """Writes into an mp4's track header that its picture is to be turned clockwise by a multiple of 90 degrees."""
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    at += 40 if data[at] == 0 else 52  # version 0 or 1: shorter or longer times
    one = 1 << 16
    struct.pack_into(">9i", data, at, cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def _make(folder: Path, number: int, seed: int, frames: int) -> Sample:
    rng = np.random.default_rng([seed, number])
    kind = _FORMATS[number % len(_FORMATS)]
    count = frames + int(rng.integers(0, frames // 3 + 1))
    scenes = [*itertools.product(COLOURS, SHAPES, MOTIONS, BACKDROPS)]
    colour, shape, motion, backdrop = scenes[np.random.default_rng(seed).permutation(len(scenes))[number % len(scenes)]]
    article = "an" if colour[0] in "aeiou" else "a"
    caption = f"{article} {colour} {shape} {motion} over {backdrop}"
    path = folder / f"{number:04d}{kind.suffix}"
    turned = kind.rotation in (90, 270)
    height, width = (kind.width, kind.height) if turned else (kind.height, kind.width)
    pictures = _scene(rng, count, height, width, COLOURS[colour], shape, MOTIONS[motion], BACKDROPS[backdrop])
    _write(path, kind, (np.rot90(picture, kind.rotation // 90) for picture in pictures))
    if kind.rotation:
        set_rotation(path, kind.rotation)
    return Sample(path, caption, int(count * 1000 / kind.fps))


def _scene(
    rng: np.random.Generator,
    count: int,
    height: int,
    width: int,
    colour: tuple[int, int, int],
    shape: str,
    direction: tuple[float, float],
    backdrop: tuple[tuple[int, int, int], tuple[int, int, int], float],
) -> Iterator[npt.NDArray[np.uint8]]:
    """The frames, uint8 RGB ``[H, W, 3]``."""
    dark, light, exponent = backdrop
    margin = 48
    texture = _fractal(rng, height + margin, width + margin, exponent)[..., None]
    wall = np.asarray(dark, np.float32) * (1 - texture) + np.asarray(light, np.float32) * texture
    paint = np.asarray(colour, np.float32)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    radius = height * rng.uniform(0.16, 0.24)
    phase, turn = rng.uniform(0, 2 * math.pi), rng.uniform(-1.0, 1.0)
    skin = 0.85 + 0.3 * _fractal(rng, height, width, 1.5)
    for number in range(count):
        share = number / max(count - 1, 1)
        if direction == (0.0, 0.0):
            angle = phase + 4 * math.pi * share
            x, y = 0.5 + 0.25 * math.cos(angle), 0.5 + 0.25 * math.sin(angle)
        else:
            x, y = 0.5 + (share - 0.5) * 0.8 * direction[0], 0.5 + (share - 0.5) * 0.8 * direction[1]
        dx, dy = (columns - x * width) / radius, (rows - y * height) / radius
        cosine, sine = math.cos(turn * 4 * share), math.sin(turn * 4 * share)
        inside = _inside(shape, dx * cosine + dy * sine, dy * cosine - dx * sine)
        mask = np.clip(0.5 - inside * radius / 2, 0, 1)[..., None]  # an edge two pixels wide
        light_falls = np.clip(1.05 - 0.25 * (dx + dy), 0.45, 1.35) * skin
        top, left = round(share * margin * 0.5), round(share * margin)
        frame = wall[top : top + height, left : left + width]
        frame = frame * (1 - mask) + paint * light_falls[..., None] * mask
        yield np.clip(frame, 0, 255).astype(np.uint8)


def _inside(shape: str, dx: npt.NDArray[np.float32], dy: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Distance to the shape's edge in radii, negative inside."""
    across, down = np.abs(dx), np.abs(dy)
    distance: npt.NDArray[np.float32]
    if shape == "cross":
        distance = np.minimum(np.maximum(across - 1, down - 0.35), np.maximum(across - 0.35, down - 1))
    elif shape == "square":
        distance = np.maximum(across, down) - np.float32(0.85)
    elif shape == "diamond":
        distance = across + down - np.float32(1.1)
    elif shape == "ring":
        distance = np.abs(np.sqrt(dx * dx + dy * dy) - np.float32(0.75)) - np.float32(0.25)
    else:
        distance = np.sqrt(dx * dx + dy * dy) - np.float32(1)
    return distance


def _fractal(rng: np.random.Generator, height: int, width: int, exponent: float) -> npt.NDArray[np.float32]:
    """A random field from 0 to 1 whose amplitude spectrum falls as ``1 / frequency ** exponent``, like nature's."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**exponent
    field = np.fft.irfft2(spectrum, s=(height, width))
    return np.asarray((field - field.min()) / (field.max() - field.min()), np.float32)


def _write(path: Path, kind: _Format, pictures: Iterator[npt.NDArray[np.uint8]]) -> None:
    import av

    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(kind.codec, rate=kind.fps)
        stream.options = dict(kind.options)
        stream.width, stream.height, stream.pix_fmt = kind.width, kind.height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, 1 / kind.fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
