"""Candidate images for a prompt, drawn by an image model or by the video model itself, one frame at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from noisebank.errors import RowFailure
from noisebank.inversion.inverters import Network, reconstruct
from noisebank.models import ModelAdapter


def draw(seed: int, shape: Sequence[int]) -> torch.Tensor:
    """White noise of a seed, float32, drawn on the CPU: the same on every machine."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def check_finite(latents: torch.Tensor, what: str) -> None:
    """Raises the failure ``not_finite`` for latents that hold infinities or NaN."""
    if not torch.isfinite(latents).all():
        raise RowFailure("not_finite", f"the latents of {what} hold infinities or NaN; another precision may do")


@contextmanager
def still(adapter: ModelAdapter) -> Iterator[None]:
    """While it lasts, AnimateDiff's motion modules give back what they get: its network is then, bit for bit, that of
    the Stable Diffusion that it was made from. Other families have no motion modules and are left as they are."""
    network = getattr(adapter.pipe, adapter.network_name)
    hooks = [module.register_forward_hook(_give_back) for module in _motion_modules(network)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _motion_modules(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The members of every list of the network that is called ``motion_modules``."""
    lists = (module for name, module in network.named_modules() if name.rpartition(".")[2] == "motion_modules")
    return [module for modules in lists for module in modules.children()]


def _give_back(_: torch.nn.Module, arguments: tuple[Any, ...], __: Any) -> Any:
    return arguments[0]


def draw_images(
    adapter: ModelAdapter,
    network: Network,
    seeds: Sequence[int],
    size: tuple[int, int],
    num_inference_steps: int,
    batch_size: int,
) -> torch.Tensor:
    """One image a seed.

    Args:
        adapter: an image model, or a video model, which is asked for clips of one frame.
        network: its prediction, guided by the prompt.
        seeds: of the noise that each image starts from.
        size: height and width in pixels.
        num_inference_steps: steps of the sampler.
        batch_size: images that go through the network together.

    Returns:
        ``[N, H, W, 3]`` uint8 RGB.

    Raises:
        RowFailure: ``not_finite``.
    """
    shape = adapter.rules.latent_shape(1, *size)
    levels = adapter.levels(num_inference_steps, shape)
    images = []
    with still(adapter):
        for start in range(0, len(seeds), batch_size):
            noise = torch.stack([draw(seed, shape) for seed in seeds[start : start + batch_size]])
            latents = reconstruct(network, noise.to(adapter.device), levels)
            check_finite(latents, "a candidate image")
            images.append(adapter.decode(latents)[:, 0])
    return torch.cat(images)
