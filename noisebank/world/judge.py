"""Reads colour, shape, motion and position off the frames of a clip, by looking for one saturated thing.

Each reader may answer none: where no thing, or more than one, stands out, where frames disagree, or where a value lies
between two. Its accuracy is measured on the world's own videos (:mod:`noisebank.world.accuracy`).
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from noisebank.world.attributes import COLOURS, MOTIONS, POSITIONS, SHAPES, SIDE
from noisebank.world.render import Field, Pixels, cover

ATTRIBUTES = ("colour", "shape", "motion", "position")
BLUR = 0.8
"""Standard deviation in pixels of the blur that takes the grain out before a thing is looked for."""
LEAST_CHROMA = 48.0
"""Chroma (largest less smallest of R, G and B) by which a thing stands out from the backdrop at least."""
AREA = (0.03, 0.3)
"""Share of the picture that a thing may cover."""
LARGEST = 0.8
"""Share of all saturated pixels that are in the thing."""
HUE_TOLERANCE = 24 / 360
"""Furthest that a hue may be from its colour's; colours are sixty degrees apart, so a tie answers none."""
FIT = 0.72
"""Least overlap (intersection over union) of a thing with the shape that it is read as."""
FIT_MARGIN = 0.02
"""Least lead of the best shape over the second."""
STILL, MOVED = 6 / SIDE, 9 / SIDE
"""Shares of the picture: a thing that went less far is still, one that went further has moved."""
STRAIGHT = 2.0
"""How many times further a thing goes along its motion than across."""
LANE_EDGE = 7 / SIDE
"""Share of the picture from its middle at which a lane to one side begins."""
MOST = 0.6
"""Share of the frames that must show a thing, and agree on its colour."""


@dataclass(frozen=True)
class Reading:
    """What a clip shows; None where it cannot be told."""

    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    position: str | None = None


@dataclass(frozen=True)
class _Seen:
    """A thing in one frame: ``x`` and ``y`` in shares of the picture from its middle, the fit of each shape."""

    x: float
    y: float
    colour: str | None
    fits: tuple[float, ...]


def read_clip(pixels: Pixels) -> Reading:
    """Reads every attribute of a clip.

    Args:
        pixels: uint8 RGB ``[F, H, W, 3]``, square frames.
    """
    seen = [(number, thing) for number, frame in enumerate(pixels) if (thing := _find_thing(frame)) is not None]
    if len(seen) < MOST * len(pixels):
        return Reading()
    things = [thing for _, thing in seen]
    times = np.array([number for number, _ in seen]) / max(len(pixels) - 1, 1)
    track = np.array([(thing.x, thing.y) for thing in things])
    return Reading(
        _read_colour([thing.colour for thing in things], len(pixels)),
        _read_shape(np.mean([thing.fits for thing in things], axis=0)),
        _read_motion(times, track),
        _read_position(track.mean(axis=0)),
    )


def _find_thing(frame: Pixels) -> _Seen | None:
    side = len(frame)
    soft = ndimage.gaussian_filter(frame.astype(np.float32), (BLUR * side / SIDE, BLUR * side / SIDE, 0))
    chroma = soft.max(-1) - soft.min(-1)
    backdrop, peak = (float(value) for value in np.quantile(chroma, (0.5, 1 - AREA[0] / 2)))
    if peak - backdrop < LEAST_CHROMA:
        return None
    labels, found = ndimage.label(chroma > (backdrop + peak) / 2)
    areas = np.bincount(labels.ravel(), minlength=found + 1)[1:]
    mask = labels == 1 + int(areas.argmax())
    area = int(mask.sum())
    if not AREA[0] * side**2 <= area <= AREA[1] * side**2 or area < LARGEST * areas.sum():
        return None
    rows, columns = np.nonzero(mask)
    x, y = _middle(columns), _middle(rows)
    core = soft[mask & (chroma > 0.8 * peak)]
    fits = tuple(_fit(mask, shape, area, float(columns.mean()) + 0.5, float(rows.mean()) + 0.5) for shape in SHAPES)
    return _Seen(x / side - 0.5, y / side - 0.5, _name_hue(core.mean(0)), fits)


def _middle(places: npt.NDArray[np.intp]) -> float:
    """The middle of a bounding box along one side, in pixels, without its last two hundredths at either end."""
    low, high = np.quantile(places, (0.02, 0.98))
    return float(low + high) / 2 + 0.5


def _name_hue(colour: Field) -> str | None:
    hue = colorsys.rgb_to_hsv(*(float(value) / 255 for value in colour))[0]
    for name, named in COLOURS.items():
        apart = abs(hue - colorsys.rgb_to_hsv(*(value / 255 for value in named))[0])
        if min(apart, 1 - apart) < HUE_TOLERANCE:
            return name
    return None


_FILL = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5}
"""Share of its bounding box that a shape covers."""


def _fit(mask: npt.NDArray[np.bool_], shape: str, area: int, x: float, y: float) -> float:
    """Overlap of a mask with a shape of the same area and centroid."""
    radius = (area / _FILL[shape]) ** 0.5 / 2
    if shape == "triangle":
        y -= radius / 3
    ideal = cover(shape, radius, x, y, len(mask)) > 0.5
    return float((mask & ideal).sum() / (mask | ideal).sum())


def _read_colour(names: list[str | None], frames: int) -> str | None:
    for name in COLOURS:
        if names.count(name) >= MOST * frames:
            return name
    return None


def _read_shape(fits: npt.NDArray[np.float64]) -> str | None:
    second, best = np.sort(fits)[-2:]
    return SHAPES[int(fits.argmax())] if best >= FIT and best - second >= FIT_MARGIN else None


def _read_motion(times: npt.NDArray[np.float64], track: npt.NDArray[np.float64]) -> str | None:
    """By the line of least squares through the thing's places."""
    went = np.polyfit(times, track, 1)[0]
    along = int(np.abs(went).argmax())
    if np.ptp(track, axis=0).max() < STILL:
        return "still"
    if abs(went[along]) < MOVED or abs(went[along]) < STRAIGHT * abs(went[1 - along]):
        return None
    direction = (int(np.sign(went[0])), 0) if along == 0 else (0, int(np.sign(went[1])))
    return next(name for name, way in MOTIONS.items() if way == direction)


def _read_position(middle: npt.NDArray[np.float64]) -> str | None:
    off = tuple(int(np.sign(value)) if abs(value) > LANE_EDGE else 0 for value in middle)
    return next((name for name, place in POSITIONS.items() if place == off), None)
