"""Paints a scene: frames of pixels, without a file and without a library of graphics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from noisebank.world.attributes import BACKDROPS, COLOURS, FRAMES, SIDE
from noisebank.world.scene import Scene, Thing

ROUGHNESS = 2.2
"""The amplitude of a backdrop's waves falls as ``1 / frequency ** ROUGHNESS``: clouds, not grain."""

Pixels = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]


def render(scene: Scene, frames: int = FRAMES) -> Pixels:
    """The frames of a scene, uint8 RGB ``[F, H, W, 3]``."""
    spectrum = _texture_spectrum(scene.texture_seed)
    return np.stack([_paint(scene, spectrum, float(share)) for share in np.linspace(0, 1, frames)])


def render_frame(scene: Scene, share: float) -> Pixels:
    """One frame, uint8 RGB ``[H, W, 3]``, when ``share`` of the clip, 0 to 1, is over."""
    return _paint(scene, _texture_spectrum(scene.texture_seed), share)


def coverage(thing: Thing, x: float, y: float) -> Field:
    """How much of each pixel a thing covers whose middle is at ``x``, ``y``: 0 to 1, float32 ``[H, W]``."""
    return cover(thing.shape, thing.pixels / 2, x, y)


def cover(shape: str, radius: float, x: float, y: float, side: int = SIDE) -> Field:
    """How much of each pixel a shape covers: 0 to 1, float32 ``[side, side]``.

    Args:
        radius: half of its height and width, in pixels.
        x: of the middle of its bounding box, in pixels; pixel 0 lies from 0 to 1.
        y: as ``x``, downwards.
    """
    centres = np.arange(side, dtype=np.float32) + 0.5
    dx, dy = (centres - x)[None, :], (centres - y)[:, None]
    if shape == "circle":
        distance = np.hypot(dx, dy) - radius
    elif shape == "square":
        distance = np.maximum(np.abs(dx), np.abs(dy)) - radius
    elif shape == "triangle":
        flank = (2 * np.abs(dx) - (dy + radius)) / np.sqrt(5)
        distance = np.maximum(flank, dy - radius)
    else:
        raise ValueError(f"no shape {shape!r}")
    return np.asarray(np.clip(0.5 - distance, 0, 1), np.float32)


def _paint(scene: Scene, spectrum: npt.NDArray[np.complex128], share: float) -> Pixels:
    dark, light = (np.asarray(colour, np.float32) for colour in BACKDROPS[scene.backdrop])
    texture = _texture(spectrum, scene.pan[0] * share, scene.pan[1] * share)[..., None]
    frame = dark * (1 - texture) + light * texture
    rows = (np.arange(SIDE, dtype=np.float32) + 0.5)[:, None]
    for thing in scene.things:
        x, y = thing.at(share)
        mask = coverage(thing, x, y)[..., None]
        shade = np.clip(1.0 - 0.3 * (rows - y) / thing.pixels, 0.8, 1.15)[..., None]
        frame = frame * (1 - mask) + np.asarray(COLOURS[thing.colour], np.float32) * shade * mask
    return np.clip(np.rint(frame), 0, 255).astype(np.uint8)


def _texture_spectrum(seed: int) -> npt.NDArray[np.complex128]:
    """Of a random field that repeats at the picture's edges, so that shifting it is a turn of phases."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    frequency[0, 0] = np.inf
    white = np.random.default_rng(seed).standard_normal((SIDE, SIDE))
    return np.asarray(np.fft.rfft2(white) / frequency**ROUGHNESS)


def _texture(spectrum: npt.NDArray[np.complex128], dx: float, dy: float) -> Field:
    """The field shifted by some pixels, with values from 0 to 1."""
    phase = np.fft.fftfreq(SIDE)[:, None] * dy + np.fft.rfftfreq(SIDE)[None] * dx
    field = np.fft.irfft2(spectrum * np.exp(-2j * np.pi * phase), s=(SIDE, SIDE))
    return np.asarray(np.clip(0.5 + field / (5 * field.std()), 0, 1), np.float32)
