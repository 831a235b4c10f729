"""Between the canonical latents of a record and the layout that a pipeline's ``latents=`` wants. torch only.

A bank's manifest names the layout, so a reader needs neither diffusers nor the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from noisebank.errors import ShapeMismatch

LAYOUTS = ("BCFHW", "BFCHW", "BCHW", "BSD")
"""ModelScope, AnimateDiff and Wan · CogVideoX · Stable Diffusion (one frame) · LTX (tokens, ``S = F H W``)."""


def to_pipeline(latents: torch.Tensor, layout: str) -> torch.Tensor:
    """Canonical ``[B, C, F, H, W]`` as ``layout``.

    Raises:
        ShapeMismatch: several frames for an image layout.
        ValueError: unknown layout.
    """
    if layout == "BCFHW":
        return latents
    if layout == "BFCHW":
        return latents.transpose(1, 2)
    if layout == "BCHW":
        if latents.shape[2] != 1:
            raise ShapeMismatch(f"an image model takes latents of one frame, not {tuple(latents.shape)}")
        return latents.squeeze(2)
    if layout == "BSD":
        return latents.flatten(2).transpose(1, 2)
    raise ValueError(f"layout {layout!r} is not one of {LAYOUTS}")


def from_pipeline(latents: torch.Tensor, layout: str, shape: Sequence[int]) -> torch.Tensor:
    """``layout`` back as canonical ``[B, C, F, H, W]``.

    Args:
        shape: ``(C, F, H, W)`` of one record; tokens do not tell it.

    Raises:
        ShapeMismatch: the latents do not hold records of this shape.
        ValueError: unknown layout.
    """
    canonical = latents
    if layout == "BFCHW":
        canonical = latents.transpose(1, 2)
    elif layout == "BCHW":
        canonical = latents.unsqueeze(2)
    elif layout == "BSD":
        if latents.shape[1:] != (math.prod(shape[1:]), shape[0]):
            raise ShapeMismatch(f"latents {tuple(latents.shape)} are not tokens of records {tuple(shape)}")
        canonical = latents.transpose(1, 2).reshape(len(latents), *shape)
    elif layout != "BCFHW":
        raise ValueError(f"layout {layout!r} is not one of {LAYOUTS}")
    if canonical.shape[1:] != tuple(shape):
        raise ShapeMismatch(f"latents {tuple(latents.shape)} do not hold records of shape {tuple(shape)} as {layout}")
    return canonical


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
