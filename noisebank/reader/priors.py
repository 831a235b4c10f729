"""Where the fresh Gaussian noise comes from: a prior is a function of (shape, generator).

Every prior has N(0, 1) marginals; they differ in how frames hang together. To add one, write the function and put it
into :data:`PRIORS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for a batch, one a sample, or None for torch's global one, as diffusers takes them."""

Prior = Callable[[tuple[int, ...], Generators], torch.Tensor]
"""From the shape in which the pipeline draws its latents, batch first, to noise of this shape."""


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


PRIORS: dict[str, Prior] = {"iid": iid}
"""Priors by name."""
