"""Wan 2.1: flow matching with a shift, a causal 3D VAE whose latents are normalised by mean and std."""

from __future__ import annotations

import torch

from noisebank.errors import ConfigError
from noisebank.models.base import ClipRules, ModelAdapter, register_family
from noisebank.models.config import ModelConfig


@register_family
class Wan(ModelAdapter):
    """``WanPipeline`` with one transformer; UniPC is replaced by flow-matching Euler with the same shift."""

    family = "wan"
    pipeline_class = "WanPipeline"
    network_name = "transformer"
    scheduler_class = "FlowMatchEulerDiscreteScheduler"
    # 512 is the default of the pipeline's __call__; that of encode_prompt differs.
    prompt_options = {"max_sequence_length": 512}  # noqa: RUF012

    @classmethod
    def clip_rules(cls, config: ModelConfig) -> ClipRules:
        if config.index.get("expand_timesteps") or config.index.get("boundary_ratio") is not None:
            raise ConfigError(
                "WanPipeline with expand_timesteps or boundary_ratio (Wan 2.2) has a timestep for every token or two "
                "transformers and is not supported; use a Wan 2.1 model"
            )
        vae, transformer = config.read("vae"), config.read("transformer")
        _, *patch = transformer.get("patch_size", (1, 2, 2))
        ratio = int(vae.get("scale_factor_spatial", 8))
        return ClipRules(
            channels=int(transformer.get("in_channels", 16)),
            spatial_ratio=ratio,
            size_multiple=ratio * max(patch),
            temporal_ratio=int(vae.get("scale_factor_temporal", 4)),
        )

    def encode_clip(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, std = self._scaling()
        latents: torch.Tensor = (self.pipe.vae.encode(pixels[None]).latent_dist.mode()[0].float() - mean) / std
        return latents

    def decode_clip(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._scaling()
        vae = self.pipe.vae
        pixels: torch.Tensor = vae.decode((latents * std + mean)[None].to(vae.dtype)).sample[0]
        return pixels

    def _scaling(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the VAE's latents, ``[C, 1, 1, 1]`` each."""
        config = self.pipe.vae.config
        mean, std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, std
