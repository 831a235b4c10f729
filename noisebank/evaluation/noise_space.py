"""What noise looks like as noise: measures of records, each of which has a known value for white noise.

Some are of one record, some of how records lie to each other, and retrieval asks whether clips of near captions have
near noise. Nothing here knows of banks; white noise goes through the same functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from noisebank.search.index import TIE, Vectors

LOW = 0.25
"""Share of the highest frequency up to which frequencies are low."""
LOWEST = 1 / 16
"""Cycles a frame up to which change between frames is slow: an eighth of the highest frequency."""
DEPTHS = (1, 5, 10)
"""Of retrieval: among how many nearest records one of a nearest caption is looked for."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a measure over records."""

    mean: float
    std: float


@dataclass(frozen=True)
class Retrieval:
    """Whether clips of near captions have near noise, each clip asked about the others alone.

    Args:
        depth: how many nearest records count.
        recall: share of the clips for which one of them is of a nearest caption.
        low, high: 95% interval of it (Clopper-Pearson).
        chance: the recall of noise that knows nothing of captions.
    """

    depth: int
    recall: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True)
class NoiseSpace:
    """What some records look like.

    Args:
        records: how many.
        measures: of single records (:func:`measure_record`), over all of them.
        channel_mean, channel_std: of each channel, averaged over records.
        direction_stability: mean cosine of two records: 0 for white noise, 1 where all point one way.
        evr1: share of the records' variance on their first principal axis.
        retrieval: at each of :data:`DEPTHS` that the records allow; empty without captions.
    """

    records: int
    measures: dict[str, Spread]
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]
    direction_stability: float | None
    evr1: float | None
    retrieval: tuple[Retrieval, ...]


def measure_noise(records: Iterable[torch.Tensor], captions: Vectors | None = None) -> NoiseSpace:
    """Measures records, which are read one after the other; their values are held in float32.

    Args:
        records: ``[C, F, H, W]`` each.
        captions: ``[N, D]``, the embedding of each record's caption, of length one.

    Raises:
        ValueError: there is no record.
    """
    singles: list[dict[str, float]] = []
    channels: list[torch.Tensor] = []
    flat: list[torch.Tensor] = []
    for record in records:
        record = record.float()
        singles.append(measure_record(record))
        channels.append(torch.stack(torch.std_mean(record, dim=(1, 2, 3), correction=0)[::-1]))
        flat.append(record.flatten())
    if not flat:
        raise ValueError("there is no record to measure")
    means, stds = torch.stack(channels).mean(0).tolist()
    measures = {
        name: Spread(float(np.mean(values)), float(np.std(values)))
        for name in singles[0]
        if (values := [single[name] for single in singles])
    }
    gram = _gram(torch.stack(flat))
    cosines = gram / np.sqrt(np.outer(gram.diagonal(), gram.diagonal()))
    several = len(flat) > 1
    return NoiseSpace(
        records=len(flat),
        measures=measures,
        channel_mean=tuple(means),
        channel_std=tuple(stds),
        direction_stability=_mean_cosine(cosines) if several else None,
        evr1=_first_share(gram) if several else None,
        retrieval=leave_one_out(np.asarray(captions @ captions.T, np.float64), cosines)
        if captions is not None and several
        else (),
    )


def measure_record(record: torch.Tensor) -> dict[str, float]:
    """The measures of one record ``[C, F, H, W]``; those over frames only where it has several.

    ``norm`` and ``rms``; ``spatial_high``, the share of the power that lies above a quarter of the highest frequency,
    radially over height and width (white: 0.951, on a fine grid); ``temporal_high``, the share of the power outside of
    the lowest eighth of the frequencies over frames (white: 0.875); ``tdiff_rel``, mean ``|x_f+1 - x_f| / |x_f|``
    (white: 1.414); ``frame_correlation``, mean correlation of neighbouring frames (white: 0).
    """
    measures = {
        "norm": float(torch.linalg.vector_norm(record)),
        "rms": float(record.square().mean().sqrt()),
        "spatial_high": _spatial_high(record),
    }
    if record.shape[1] > 1:
        frames = record.transpose(0, 1).flatten(1)
        norms = torch.linalg.vector_norm(frames, dim=1)
        steps = torch.linalg.vector_norm(frames.diff(dim=0), dim=1)
        centred = frames - frames.mean(1, keepdim=True)
        centred = torch.nn.functional.normalize(centred, dim=1)
        measures["temporal_high"] = _temporal_high(record)
        measures["tdiff_rel"] = float((steps / norms[:-1]).mean())
        measures["frame_correlation"] = float((centred[:-1] * centred[1:]).sum(1).mean())
    return measures


def white_noise(shape: tuple[int, ...], count: int, seed: int = 0) -> Iterable[torch.Tensor]:
    """``count`` records of N(0, 1) noise of a shape, to be measured beside others."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) for _ in range(count))


def leave_one_out(captions: Matrix, noise: Matrix) -> tuple[Retrieval, ...]:
    """Whether the nearest other caption's clip is among the nearest others by noise.

    A clip is never among its own candidates: if it were, noise that knows nothing would find it every time.

    Args:
        captions: ``[N, N]``, similarities of the captions; all captions that are as near as the nearest count.
        noise: ``[N, N]``, similarities of the records.
    """
    from scipy.stats import binomtest

    count = len(captions)
    captions, noise = captions.copy(), noise.copy()
    np.fill_diagonal(captions, -np.inf)
    np.fill_diagonal(noise, -np.inf)
    nearest = captions >= captions.max(axis=1, keepdims=True) - TIE
    order = np.argsort(-noise, axis=1, kind="stable")
    found = []
    for depth in DEPTHS:
        if depth >= count - 1:
            break
        hits = int(np.take_along_axis(nearest, order[:, :depth], axis=1).any(axis=1).sum())
        low, high = binomtest(hits, count).proportion_ci(0.95)
        others = comb(count - 1, depth)
        missed = np.mean([comb(count - 1 - tied, depth) / others for tied in nearest.sum(axis=1).tolist()])
        found.append(Retrieval(depth, hits / count, float(low), float(high), float(1 - missed)))
    return tuple(found)


def _spatial_high(record: torch.Tensor) -> float:
    power = torch.fft.fftn(record.double(), dim=(-2, -1)).abs().square()
    h, w = (2 * torch.fft.fftfreq(size, dtype=torch.float64) for size in record.shape[-2:])
    high = (h[:, None] ** 2 + w**2).sqrt() > LOW
    return float(power[..., high].sum() / power.sum())


def _temporal_high(record: torch.Tensor) -> float:
    """A frequency stands for as much of the spectrum as lies half way to its neighbours; what of that is in the lowest
    eighth is low. So white noise has the same value with any number of frames."""
    frames = record.shape[1]
    power = torch.fft.fft(record.double(), dim=1).abs().square().sum(dim=(0, 2, 3))
    places, half = torch.fft.fftfreq(frames, dtype=torch.float64).abs(), 0.5 / frames
    inside = torch.clamp(places + half, max=LOWEST) - torch.clamp(places - half, min=-LOWEST)
    low = inside.clamp(min=0) * frames
    total = float(power.sum())
    return 1 - float((low * power).sum()) / total if total else 0.0


def _gram(rows: torch.Tensor) -> Matrix:
    """Inner products ``[N, N]`` of the rows ``[N, D]``."""
    return np.asarray((rows @ rows.T).double().numpy())


def _mean_cosine(cosines: Matrix) -> float:
    count = len(cosines)
    return float((cosines.sum() - np.trace(cosines)) / (count * (count - 1)))


def _first_share(gram: Matrix) -> float:
    """Share of the variance on the first principal axis, from inner products."""
    means = gram.mean(axis=0)
    centred = gram - means - means[:, None] + gram.mean()
    return float(np.linalg.eigvalsh(centred)[-1] / np.trace(centred))


def as_document(space: NoiseSpace) -> dict[str, Any]:
    """As JSON values."""
    return {
        "records": space.records,
        **{name: vars(spread) for name, spread in space.measures.items()},
        "channel_mean": list(space.channel_mean),
        "channel_std": list(space.channel_std),
        "direction_stability": space.direction_stability,
        "evr1": space.evr1,
        "retrieval": [vars(one) for one in space.retrieval],
    }
