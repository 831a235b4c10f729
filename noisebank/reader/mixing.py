"""Mix fresh noise with inverted noise: Eq. 4 of the ONA paper (arXiv 2311.00949), and what it does to the variance."""

from __future__ import annotations

import math

import torch
import xxhash

NORMALIZE: dict[str, tuple[int, ...]] = {"none": (), "global": (0, 1, 2, 3), "channel": (1, 2, 3)}
"""Over which dimensions of a record."""
LARGEST_ETA = 1e18
"""Finite weights above it are refused: their products overflow float32, and nothing of the fresh noise is left."""


def check_eta(eta: float) -> None:
    """Raises ValueError where ``eta`` is negative, not a number, or finite and too large."""
    if not (0 <= eta <= LARGEST_ETA or eta == math.inf):
        raise ValueError(
            f"eta {eta} is not allowed; 0 (fresh noise alone) to {LARGEST_ETA:g}, or inf (inverted noise alone)"
        )


def mix(fresh: torch.Tensor, inverted: torch.Tensor, eta: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """``(fresh + eta * inverted) / sqrt(1 + eta^2)`` (ONA, Eq. 4).

    Args:
        fresh: N(0, 1) noise, any shape.
        inverted: inverted noise of the same shape.
        eta: weight of the inverted noise, 0 to :data:`LARGEST_ETA`, or infinity. 0 gives ``fresh`` and infinity
            ``inverted``, bit for bit.
        out: where a finite mix is written, ``fresh`` itself to save its memory; default: a new tensor.

    Raises:
        ValueError: ``eta`` is not allowed (:func:`check_eta`).
    """
    check_eta(eta)
    if eta == 0:
        return fresh
    if math.isinf(eta):
        return inverted
    return torch.add(fresh, inverted, alpha=eta, out=out).mul_(1 / math.sqrt(1 + eta**2))


def marginal_variance(inverted: torch.Tensor, eta: float) -> float:
    """Variance of the mix over the fresh noise and all positions: ``(1 + eta^2 var(inverted)) / (1 + eta^2)``.

    Inverted noise is not exactly N(0, 1), so neither is the mix; :func:`normalise` makes it 1.
    """
    variance = float(inverted.var(correction=0))
    if math.isinf(eta):
        return variance
    return (1 + eta**2 * variance) / (1 + eta**2)


def normalise(inverted: torch.Tensor, mode: str) -> torch.Tensor:
    """A record ``[C, F, H, W]`` brought to mean 0 and variance 1.

    Args:
        inverted: the record.
        mode: ``none``: as it is; ``global``: over the record; ``channel``: each channel.

    Raises:
        ValueError: unknown mode.
    """
    if mode not in NORMALIZE:
        raise ValueError(f"normalize {mode!r} is not allowed; one of {', '.join(NORMALIZE)}")
    if not (dims := NORMALIZE[mode]):
        return inverted
    variance, mean = torch.var_mean(inverted, dim=dims, correction=0, keepdim=True)
    return (inverted - mean) * variance.clamp(min=torch.finfo(variance.dtype).tiny).rsqrt()


def noise_digest(noise: torch.Tensor) -> str:
    """XXH3-64 of a tensor's values: 16 hexadecimal digits.

    torch's normals differ in the last bits between CPU capabilities; with equal digests two machines drew the same.
    """
    return xxhash.xxh3_64_hexdigest(noise.detach().cpu().contiguous().numpy().data)
