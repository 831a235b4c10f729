"""A model's own pipeline, started from noise: what a generator will do with a record."""

from __future__ import annotations

import torch

from noisebank.models.base import ModelAdapter
from noisebank.models.layout import from_pipeline, pipeline_inputs

_SAID_AS = {"encoder_hidden_states": "prompt_embeds", "encoder_attention_mask": "prompt_attention_mask"}
"""What pipelines call the conditioning that their networks take."""


def replay(
    adapter: ModelAdapter,
    noise: torch.Tensor,
    num_inference_steps: int,
    prompt: str = "",
    guidance_scale: float = 1.0,
) -> torch.Tensor:
    """What the pipeline's ``__call__`` makes of noise, in the network's dtype.

    Args:
        adapter: the loaded model; it may have kept only what inversion needs.
        noise: canonical ``[B, C, F, H, W]``.
        num_inference_steps: steps of the pipeline.
        prompt, guidance_scale: as :meth:`ModelAdapter.network` takes them.

    Returns:
        Scaled latents ``[B, C, F, H, W]`` float32.
    """
    batch, *shape = noise.shape
    rules = adapter.rules
    ratios = {"spatial_ratio": rules.spatial_ratio, "temporal_ratio": rules.temporal_ratio}
    inputs = pipeline_inputs(
        {"layout": adapter.layout, "call": adapter.call, **ratios}, noise.to(adapter.device, adapter.dtype)
    )
    prompts = {"": prompt} | ({"negative_": ""} if guidance_scale != 1.0 else {})
    said = {
        f"{prefix}{_SAID_AS[name]}": values.expand(batch, *values.shape[1:])
        for prefix, text in prompts.items()
        for name, values in adapter.conditioning(text).items()
    }
    (latents,) = adapter.pipe(
        **said,
        **inputs,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        output_type="latent",
        return_dict=False,
    )[:1]
    return from_pipeline(latents.float(), adapter.layout, shape)
