"""Equation 4 of the ONA paper frequency by frequency: which frequencies of the mix are the record's.

FreeInit (arXiv 2312.07537) keeps the low frequencies of an inverted noise, where layout and motion are, and draws the
high ones anew. Here every frequency has an eta of its own, so that the mix of N(0, 1) noises is N(0, 1) again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from noisebank.reader.mixing import check_eta

_ORDER = 4
_LOWEST_CUT_OFF = 1e-6
"""Far below the lowest frequency of any clip; with much smaller ones a filter is no number."""
_AXES = (-3, -2, -1)
_Response = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, float], torch.Tensor]
"""From the frequencies along frames, height and width and the spatial and temporal cut-offs to the filter."""


def _squared_distance(
    f: torch.Tensor, h: torch.Tensor, w: torch.Tensor, spatial: float, temporal: float
) -> torch.Tensor:
    return (spatial / temporal * f) ** 2 + h**2 + w**2


def _gaussian(f: torch.Tensor, h: torch.Tensor, w: torch.Tensor, spatial: float, temporal: float) -> torch.Tensor:
    return torch.exp(-_squared_distance(f, h, w, spatial, temporal) / (2 * spatial**2))


def _butterworth(f: torch.Tensor, h: torch.Tensor, w: torch.Tensor, spatial: float, temporal: float) -> torch.Tensor:
    return 1 / (1 + (_squared_distance(f, h, w, spatial, temporal) / spatial**2) ** _ORDER)


def _ideal(f: torch.Tensor, h: torch.Tensor, w: torch.Tensor, spatial: float, temporal: float) -> torch.Tensor:
    # (FreeInit's and diffusers' own radius: a squared distance against twice the cut-off)
    return (_squared_distance(f, h, w, spatial, temporal) <= 2 * spatial).double()


def _box(f: torch.Tensor, h: torch.Tensor, w: torch.Tensor, spatial: float, temporal: float) -> torch.Tensor:
    return ((f.abs() <= temporal) & (h.abs() <= spatial) & (w.abs() <= spatial)).double()


LOWPASS: dict[str, _Response] = {"gaussian": _gaussian, "butterworth": _butterworth, "ideal": _ideal, "box": _box}
"""Low-pass filters by name."""


@dataclass(frozen=True)
class LowPass:
    """A low-pass filter over frames, height and width.

    With ``d^2 = (d_s / d_t f)^2 + h^2 + w^2`` on frequencies from 0 to 1, the highest that there is: ``gaussian``
    ``exp(-d^2 / 2 d_s^2)``; ``butterworth`` ``1 / (1 + (d^2 / d_s^2)^4)``; ``ideal`` 1 where ``d^2 <= 2 d_s``; ``box``
    1 where ``|f| <= d_t`` and ``|h|, |w| <= d_s``. The first three are those of diffusers' FreeInit, but centred on
    odd sizes too.

    Args:
        kind: a name in :data:`LOWPASS`.
        spatial, temporal: the cut-offs d_s and d_t, at least 1e-6 and at most 1.

    Raises:
        ValueError: unknown kind, or a cut-off out of its range.
    """

    kind: str
    spatial: float = 0.25
    temporal: float = 0.25

    def __post_init__(self) -> None:
        if self.kind not in LOWPASS:
            raise ValueError(f"lowpass {self.kind!r} is not allowed; one of {', '.join(LOWPASS)}, or None")
        for name in ("spatial", "temporal"):
            if not _LOWEST_CUT_OFF <= (cut_off := getattr(self, name)) <= 1:
                raise ValueError(f"{name} cut-off {cut_off} is not allowed; at least {_LOWEST_CUT_OFF}, at most 1")

    def response(self, frames: int, height: int, width: int) -> torch.Tensor:
        """The filter ``[F, H, W]`` float64, from 0 to 1, in the order of ``fftn``; 1 at frequency 0."""
        f, h, w = (2 * torch.fft.fftfreq(size, dtype=torch.float64) for size in (frames, height, width))
        return LOWPASS[self.kind](f[:, None, None], h[:, None], w, self.spatial, self.temporal)

    def gain(self, eta: float, shape: tuple[int, ...]) -> torch.Tensor:
        """``g = L eta / sqrt(1 + eta^2)``: the weights ``[F, H, W]`` float64 of a record's frequencies.

        Args:
            eta: of the record.
            shape: of the record; its last three sizes are frames, height and width.
        """
        share = 1.0 if math.isinf(eta) else eta / math.sqrt(1 + eta**2)
        return share * self.response(*shape[-3:])


def mix_frequencies(fresh: torch.Tensor, inverted: torch.Tensor, eta: float, low_pass: LowPass) -> torch.Tensor:
    """``X = sqrt(1 - g^2) FFT(fresh) + g FFT(inverted)`` with ``g = L eta / sqrt(1 + eta^2)`` over (F, H, W).

    Where the filter L is 1 this is ONA's Eq. 4; ``eta = inf`` is FreeInit's mix with the high-pass filter that keeps
    the variance, ``sqrt(1 - L^2)``.

    Args:
        fresh: N(0, 1) noise ``[B, C, F, H, W]``.
        inverted: inverted noise of the same shape.
        eta: weight of the inverted noise at frequency 0, as for :func:`.mixing.mix`; 0 gives ``fresh``, bit for bit.
        low_pass: the filter L.

    Raises:
        ValueError: ``eta`` is not allowed.
    """
    check_eta(eta)
    if eta == 0:
        return fresh
    of_inverted, of_fresh = _weights(low_pass, eta, tuple(fresh.shape[-3:]), fresh.dtype)
    mixed = torch.empty_like(fresh, memory_format=torch.contiguous_format)
    for i in range(len(fresh)):  # (a sample at a time stays in the cache)
        spectrum = torch.fft.rfftn(fresh[i], dim=_AXES).mul_(of_fresh)
        spectrum += torch.fft.rfftn(inverted[i], dim=_AXES).mul_(of_inverted)
        torch.fft.irfftn(spectrum, s=fresh.shape[-3:], dim=_AXES, out=mixed[i])
    return mixed


@lru_cache(16)
def _weights(
    low_pass: LowPass, eta: float, shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """``g`` and ``sqrt(1 - g^2)`` at the frequencies of ``rfftn``."""
    gain = low_pass.gain(eta, shape)[..., : shape[-1] // 2 + 1]
    return gain.to(dtype), (1 - gain**2).clamp(min=0).sqrt().to(dtype)


def marginal_variance(inverted: torch.Tensor, eta: float, low_pass: LowPass, factor: torch.Tensor | None) -> float:
    """Variance of the mix over the fresh noise and all positions: ``1 + mean g^2 (P - S)``.

    P is the power spectrum of the record around its mean, S that of the fresh noise: 1, unless a prior correlates its
    frames. As a low-pass takes away the very frequencies in which correlated frames have most of their power, the
    variance of their mix is well below 1.

    Args:
        inverted: the record ``[C, F, H, W]``.
        eta: weight of the inverted noise.
        low_pass: the filter.
        factor: ``A [F, F]`` of :class:`.priors.FramePrior`; None for noise that is white.
    """
    record = inverted.double() - inverted.double().mean()
    power = torch.fft.fftn(record, dim=_AXES).abs().square() / math.prod(record.shape[-3:])
    white = torch.ones(record.shape[-3], dtype=torch.float64)
    fresh = white if factor is None else torch.fft.fft(factor, dim=0).abs().square().sum(1) / len(factor)
    gain = low_pass.gain(eta, tuple(record.shape))
    return float(1 + (gain**2 * (power - fresh[:, None, None])).mean())
