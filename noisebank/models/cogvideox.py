"""CogVideoX: v-prediction at zero terminal signal-to-noise ratio, a causal 3D VAE, latents with frames first."""

from __future__ import annotations

from typing import Any

import torch

from noisebank.models.base import ClipRules, ModelAdapter, register_family
from noisebank.models.config import ModelConfig


@register_family
class CogVideoX(ModelAdapter):
    """``CogVideoXPipeline``; its stochastic DPM scheduler is replaced by DDIM with the same ``snr_shift_scale``."""

    family = "cogvideox"
    pipeline_class = "CogVideoXPipeline"
    network_name = "transformer"
    scheduler_class = "CogVideoXDDIMScheduler"
    layout = "BFCHW"

    @classmethod
    def clip_rules(cls, config: ModelConfig) -> ClipRules:
        vae, transformer = config.read("vae"), config.read("transformer")
        ratio = 2 ** (len(vae["block_out_channels"]) - 1)
        return ClipRules(
            channels=int(transformer.get("in_channels", 16)),
            spatial_ratio=ratio,
            size_multiple=ratio * int(transformer.get("patch_size", 2)),
            temporal_ratio=int(vae.get("temporal_compression_ratio", 4)),
            latent_frames_multiple=int(transformer.get("patch_size_t") or 1),
        )

    def encode_clip(self, pixels: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        latents: torch.Tensor = vae.encode(pixels[None]).latent_dist.mode()[0].float() * vae.config.scaling_factor
        return latents

    def decode_clip(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        pixels: torch.Tensor = vae.decode((latents[None] / vae.config.scaling_factor).to(vae.dtype)).sample[0]
        return pixels

    def network_options(self, frames: int, height: int, width: int) -> dict[str, Any]:
        if not self.pipe.transformer.config.use_rotary_positional_embeddings:
            return {}
        size = height * self.rules.spatial_ratio, width * self.rules.spatial_ratio
        return {"image_rotary_emb": self.pipe._prepare_rotary_positional_embeddings(*size, frames, self.device)}
