"""Between the canonical latents of a record and the layout that a pipeline's ``latents=`` wants. torch only.

A bank's manifest names the layout, so a reader needs neither diffusers nor the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

from noisebank.errors import ShapeMismatch

_Move = Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]

LAYOUTS: dict[str, tuple[_Move, _Move]] = {
    "BCFHW": (lambda z, _: z, lambda z, _: z),
    "BFCHW": (lambda z, _: z.transpose(1, 2), lambda z, _: z.transpose(1, 2)),
    "BCHW": (lambda z, _: z.squeeze(2), lambda z, _: z.unsqueeze(2)),
    "BSD": (
        lambda z, _: z.flatten(2).transpose(1, 2),
        lambda z, shape: torch.unflatten(z.transpose(1, 2), 2, shape[1:]),
    ),
}
"""From the canonical layout and back: ModelScope, AnimateDiff and Wan · CogVideoX · Stable Diffusion (one frame) · LTX
(tokens, ``S = F H W``)."""


def to_pipeline(latents: torch.Tensor, layout: str) -> torch.Tensor:
    """Canonical ``[B, C, F, H, W]`` as ``layout``.

    Raises:
        ShapeMismatch: several frames for an image layout.
        ValueError: unknown layout.
    """
    arrange, _ = _moves(layout)
    if layout == "BCHW" and latents.shape[2] != 1:
        raise ShapeMismatch(f"an image model takes latents of one frame, not {tuple(latents.shape)}")
    return arrange(latents, ())


def from_pipeline(latents: torch.Tensor, layout: str, shape: Sequence[int]) -> torch.Tensor:
    """``layout`` back as canonical ``[B, C, F, H, W]``.

    Args:
        shape: ``(C, F, H, W)`` of one record; tokens do not tell it.

    Raises:
        ShapeMismatch: the latents do not hold records of this shape.
        ValueError: unknown layout.
    """
    _, restore = _moves(layout)
    with suppress(RuntimeError):  # (so many tokens are no such record)
        canonical = restore(latents, tuple(shape))
        if canonical.shape[1:] == tuple(shape):
            return canonical
    raise ShapeMismatch(f"latents {tuple(latents.shape)} do not hold records of shape {tuple(shape)} as {layout}")


def _moves(layout: str) -> tuple[_Move, _Move]:
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    return LAYOUTS[layout]


def pipeline_inputs(description: Mapping[str, Any], latents: torch.Tensor) -> dict[str, Any]:
    """The keyword arguments of the pipeline's ``__call__`` that belong to these latents.

    Args:
        description: of the model that the records were made with (``ModelAdapter.describe``).
        latents: canonical ``[B, C, F, H, W]``; given back in the pipeline's layout.
    """
    _, _, frames, height, width = latents.shape
    inputs: dict[str, Any] = {
        "latents": to_pipeline(latents, description["layout"]),
        "height": height * description["spatial_ratio"],
        "width": width * description["spatial_ratio"],
    }
    if description["layout"] != "BCHW":
        inputs["num_frames"] = (frames - 1) * description["temporal_ratio"] + 1
    return {**inputs, **description.get("call", {})}
