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
        latents: torch.Tensor = vae.encode(pixels[None]).latent_dist.mode()[0] * vae.config.scaling_factor
        return latents

    def encode_prompt(self, prompt: str) -> dict[str, torch.Tensor]:
        embeds, _ = self.pipe.encode_prompt(prompt, do_classifier_free_guidance=False, device=self.device)
        return {"encoder_hidden_states": embeds.to(self.dtype)}

    def predict(self, latents: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.pipe.transformer(
            hidden_states=latents.transpose(1, 2),
            timestep=timestep,
            image_rotary_emb=self._rotary_embeddings(*latents.shape[2:]),
            **conditioning,
            return_dict=False,
        )[0]
        return output.transpose(1, 2)

    def _rotary_embeddings(self, frames: int, height: int, width: int) -> Any:
        if not self.pipe.transformer.config.use_rotary_positional_embeddings:
            return None
        ratio = self.rules.spatial_ratio
        return self.pipe._prepare_rotary_positional_embeddings(height * ratio, width * ratio, frames, self.device)
