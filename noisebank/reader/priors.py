"""Where the fresh Gaussian noise comes from: a prior is a function of (shape, generator), or correlates the frames.

Every prior has N(0, 1) marginals; they differ in how frames hang together. To add one, write the function, or a
:class:`FramePrior`, and put it into :data:`PRIORS`.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for a batch, one a sample, or None for torch's global one, as diffusers takes them."""


def iid(shape: tuple[int, ...], generator: Generators = None) -> torch.Tensor:
    """Independent standard normals: bit for bit diffusers' ``randn_tensor(shape, generator, dtype=float32)``.

    Args:
        shape: of the latents, batch first.
        generator: one for the whole batch, a list with one a sample, or None for torch's global generator.

    Returns:
        float32 on the CPU, also where a generator lives on another device.

    Raises:
        ValueError: a list of generators has neither one nor as many as the batch.
    """
    if isinstance(generator, Sequence):
        if len(generator) not in (1, shape[0]):
            raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}: give one, or one a sample")
        each = (shape[0] // len(generator), *shape[1:])
        return torch.cat([iid(each, one) for one in generator])
    device = "cpu" if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).cpu()


@dataclass(frozen=True)
class FramePrior(ABC):
    """Noise whose frames are correlated: ``e = A white`` over the frame axis, where ``A A^T`` is their covariance.

    The same seed draws the same white noise as :func:`iid`, so that priors can be compared in pairs; ``alpha = 0`` is
    that noise itself, bit for bit.

    Args:
        alpha: how much frames have in common, 0 or more. With a temporal VAE these are latent frames.

    Raises:
        ValueError: ``alpha`` is negative or not a number.
    """

    alpha: float

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ValueError(f"alpha {self.alpha} is not allowed; 0 (independent frames) or more")

    @property
    def shared(self) -> float:
        """``alpha^2 / (1 + alpha^2)``: the share of a frame's variance that it has in common with others."""
        return 1 - 1 / (1 + self.alpha * self.alpha)

    @abstractmethod
    def factor(self, frames: int) -> torch.Tensor:
        """``A``: ``[F, F]`` float64, each row of length one."""

    def correlate(self, white: torch.Tensor, frame_axis: int) -> torch.Tensor:
        """``A white``: noise of the same shape, batch first, whose frames, along ``frame_axis``, are correlated."""
        frames = white.shape[frame_axis]
        if frames == 1 or self.alpha == 0:
            return white
        shape = math.prod(white.shape[1:frame_axis]), frames, -1
        factor = _factor(self, frames, white.dtype).expand(shape[0], frames, frames)
        correlated = torch.empty_like(white, memory_format=torch.contiguous_format)
        for sample, into in zip(white, correlated, strict=True):  # (a sample's bits do not depend on its batch)
            torch.bmm(factor, sample.reshape(shape), out=into.view(shape))
        return correlated


@lru_cache(16)
def _factor(prior: FramePrior, frames: int, dtype: torch.dtype) -> torch.Tensor:
    return prior.factor(frames).to(dtype)


class _Mixed(FramePrior):
    def factor(self, frames: int) -> torch.Tensor:
        own = math.sqrt(1 - self.shared)
        common = (math.sqrt(1 - self.shared + self.shared * frames) - own) / frames
        return own * torch.eye(frames, dtype=torch.float64) + common


class _Progressive(FramePrior):
    def factor(self, frames: int) -> torch.Tensor:
        places = torch.arange(frames)
        distance = (places[:, None] - places).clamp(min=0).double()
        innovation = torch.full((frames,), math.sqrt(1 - self.shared), dtype=torch.float64)
        innovation[0] = 1.0
        return (math.sqrt(self.shared) ** distance * innovation).tril()


def mixed(alpha: float = 1.0) -> FramePrior:
    """PYoCo's mixed noise model (arXiv 2305.10474): a part that all frames share, and one of each frame's own.

    Two frames have the covariance ``r = alpha^2 / (1 + alpha^2)``. ``A = sqrt(1 - r) I + (sqrt(1 - r + r F) -
    sqrt(1 - r)) / F 11^T``, the symmetric root.
    """
    return _Mixed(alpha)


def progressive(alpha: float = 2.0) -> FramePrior:
    """PYoCo's progressive noise model (arXiv 2305.10474): each frame goes on from the one before.

    ``e_i = q e_{i-1} + sqrt(1 - q^2) white_i`` with ``q = alpha / sqrt(1 + alpha^2)``: frames i and j have the
    covariance ``q^|i-j|``, and A is lower triangular.
    """
    return _Progressive(alpha)


Prior = FramePrior | Callable[[tuple[int, ...], Generators], torch.Tensor]
"""From the shape in which the pipeline draws its latents, batch first, and the generators to noise of this shape."""

PRIORS: dict[str, Prior] = {"iid": iid, "mixed": mixed(), "progressive": progressive()}
"""Priors by name."""


def find_prior(prior: str | Prior, alpha: float | None = None) -> Prior:
    """A prior by its name, or as it is.

    Args:
        prior: a name in :data:`PRIORS`, or a prior.
        alpha: in place of its own.

    Raises:
        ValueError: no prior has this name, or it takes no ``alpha``.
    """
    if isinstance(prior, str):
        if prior not in PRIORS:
            raise ValueError(f"prior {prior!r} is not allowed; one of {', '.join(PRIORS)}, or a function")
        found = PRIORS[prior]
    else:
        found = prior
    if alpha is None:
        return found
    if not isinstance(found, FramePrior):
        with_alpha = ", ".join(name for name, known in PRIORS.items() if isinstance(known, FramePrior))
        raise ValueError(f"alpha {alpha} is not allowed with prior {prior!r}; with {with_alpha}")
    return dataclasses.replace(found, alpha=alpha)
