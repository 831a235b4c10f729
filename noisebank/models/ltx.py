"""LTX-Video: flow matching whose shift depends on the number of tokens, latents packed as tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from noisebank.errors import ConfigError
from noisebank.models.base import ClipRules, ModelAdapter, register_family
from noisebank.models.config import ModelConfig


@register_family
class LTX(ModelAdapter):
    """``LTXPipeline``; the frame rate scales its positions and is part of the call."""

    family = "ltx"
    pipeline_class = "LTXPipeline"
    network_name = "transformer"
    scheduler_class = "FlowMatchEulerDiscreteScheduler"
    layout = "BSD"
    call = {"frame_rate": 25}  # noqa: RUF012

    @classmethod
    def clip_rules(cls, config: ModelConfig) -> ClipRules:
        vae, transformer = config.read("vae"), config.read("transformer")
        if (transformer.get("patch_size", 1), transformer.get("patch_size_t", 1)) != (1, 1):
            raise ConfigError("LTX transformers with a patch_size other than 1 are not supported")
        halvings = sum(vae.get("spatio_temporal_scaling", (True, True, True, False)))
        patches = {"spatial": vae.get("patch_size", 4), "temporal": vae.get("patch_size_t", 1)}
        stated = {name: vae.get(f"{name}_compression_ratio") for name in patches}
        if unknown := next((name for name in patches if not (stated[name] or patches[name])), None):
            raise ConfigError(
                f"the VAE's config.json has neither a {unknown}_compression_ratio nor a patch size for it"
            )
        ratio, temporal_ratio = (int(stated[name] or patch * 2**halvings) for name, patch in patches.items())
        return ClipRules(
            channels=int(transformer.get("in_channels", 128)),
            spatial_ratio=ratio,
            size_multiple=max(32, ratio),
            temporal_ratio=temporal_ratio,
        )

    def encode_clip(self, pixels: torch.Tensor) -> torch.Tensor:
        encoded = self.pipe.vae.encode(pixels[None]).latent_dist.mode().float()
        latents: torch.Tensor = self.pipe._normalize_latents(encoded, *self._scaling())
        return latents[0]

    def decode_clip(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        clean = torch.zeros(1, device=latents.device) if vae.config.timestep_conditioning else None
        denormalized = self.pipe._denormalize_latents(latents[None], *self._scaling()).to(vae.dtype)
        pixels: torch.Tensor = vae.decode(denormalized, clean).sample
        return pixels[0]

    def _scaling(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Mean and standard deviation of the VAE's latents, and the factor on top of them."""
        vae = self.pipe.vae
        return vae.latents_mean, vae.latents_std, vae.config.scaling_factor

    def encode_prompt(self, prompt: str) -> dict[str, torch.Tensor]:
        embeds, mask, _, _ = self.pipe.encode_prompt(prompt, do_classifier_free_guidance=False, device=self.device)
        return {"encoder_hidden_states": embeds.to(self.dtype), "encoder_attention_mask": mask}

    @classmethod
    def set_timesteps(cls, scheduler: Any, num_inference_steps: int, shape: tuple[int, int, int, int]) -> None:
        from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift

        _, frames, height, width = shape
        config = scheduler.config
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        shift = calculate_shift(frames * height * width, *(config[name] for name in names))
        sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        scheduler.set_timesteps(sigmas=sigmas, mu=shift, device="cpu")

    def network_options(self, frames: int, height: int, width: int) -> dict[str, Any]:
        spatial, temporal = self.rules.spatial_ratio, self.rules.temporal_ratio
        scale = (temporal / self.call["frame_rate"], spatial, spatial)
        return {"num_frames": frames, "height": height, "width": width, "rope_interpolation_scale": scale}
