"""Canonical records and the layouts of the pipelines."""

import pytest
import torch

from noisebank.errors import ShapeMismatch
from noisebank.models.layout import LAYOUTS, from_pipeline, pipeline_inputs, to_pipeline


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_the_same(layout):
    frames = 1 if layout == "BCHW" else 3
    latents = torch.arange(2 * 4 * frames * 5 * 6.0).view(2, 4, frames, 5, 6)
    moved = to_pipeline(latents, layout)
    assert moved.ndim == len(layout)
    assert torch.equal(from_pipeline(moved, layout, (4, frames, 5, 6)), latents)


def test_ltx_tokens_are_diffusers_own():
    from diffusers import LTXPipeline

    latents = torch.randn(2, 8, 3, 4, 5)
    assert torch.equal(to_pipeline(latents, "BSD"), LTXPipeline._pack_latents(latents))
    assert torch.equal(LTXPipeline._unpack_latents(to_pipeline(latents, "BSD"), 3, 4, 5), latents)


def test_inputs_name_what_the_latents_stand_for():
    description = {"layout": "BFCHW", "spatial_ratio": 8, "temporal_ratio": 4, "call": {}}
    inputs = pipeline_inputs(description, torch.zeros(1, 16, 13, 60, 90))
    assert inputs.pop("latents").shape == (1, 13, 16, 60, 90)
    assert inputs == {"height": 480, "width": 720, "num_frames": 49}

    description = {"layout": "BSD", "spatial_ratio": 32, "temporal_ratio": 8, "call": {"frame_rate": 25}}
    inputs = pipeline_inputs(description, torch.zeros(1, 128, 21, 16, 22))
    assert inputs.pop("latents").shape == (1, 21 * 16 * 22, 128)
    assert inputs == {"height": 512, "width": 704, "num_frames": 161, "frame_rate": 25}

    description = {"layout": "BCHW", "spatial_ratio": 8, "temporal_ratio": 1}
    inputs = pipeline_inputs(description, torch.zeros(1, 4, 1, 64, 64))
    assert inputs.pop("latents").shape == (1, 4, 64, 64)
    assert inputs == {"height": 512, "width": 512}


def test_wrong_shapes_and_layouts_are_errors():
    with pytest.raises(ShapeMismatch, match="one frame"):
        to_pipeline(torch.zeros(1, 4, 2, 8, 8), "BCHW")
    with pytest.raises(ShapeMismatch, match=r"do not hold records of shape .* as BSD"):
        from_pipeline(torch.zeros(1, 7, 8), "BSD", (8, 2, 2, 2))
    with pytest.raises(ShapeMismatch, match="do not hold records"):
        from_pipeline(torch.zeros(1, 4, 16, 8, 8), "BCFHW", (4, 8, 8, 8))
    for move in (to_pipeline, lambda latents, layout: from_pipeline(latents, layout, (1, 1, 1, 1))):
        with pytest.raises(ValueError, match="'CBA' is not one of"):
            move(torch.zeros(1, 1, 1, 1, 1), "CBA")
