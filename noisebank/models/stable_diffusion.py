"""The Stable Diffusion line: an image ``AutoencoderKL``, a CLIP text encoder and a UNet with DDIM levels.

ModelScope and Zeroscope (``TextToVideoSDPipeline``), AnimateDiff (Stable Diffusion with a motion adapter) and Stable
Diffusion itself for single images.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import torch

from noisebank.errors import ConfigError
from noisebank.models.base import ClipRules, ModelAdapter, register_family
from noisebank.models.config import ModelConfig

_log = logging.getLogger(__name__)
FRAMES_PER_ENCODE = 16


class StableDiffusionBase(ModelAdapter):
    """What the three pipelines share."""

    network_name = "unet"
    prompt_options = {"num_images_per_prompt": 1}  # noqa: RUF012

    @classmethod
    def clip_rules(cls, config: ModelConfig) -> ClipRules:
        """One latent frame a frame; the pipelines ask for multiples of 8 pixels."""
        vae = config.read("vae")
        ratio = 2 ** (len(vae["block_out_channels"]) - 1)
        channels = int(vae.get("latent_channels", 4))
        return ClipRules(channels, ratio, math.lcm(8, ratio))

    def encode_clip(self, pixels: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        chunks = torch.split(pixels.transpose(0, 1), FRAMES_PER_ENCODE)
        latents = torch.cat([vae.encode(chunk).latent_dist.mode().float() for chunk in chunks])
        return latents.mul(vae.config.scaling_factor).transpose(0, 1)

    def decode_clip(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        latents = (latents.transpose(0, 1) / vae.config.scaling_factor).to(vae.dtype)
        chunks = torch.split(latents, FRAMES_PER_ENCODE)
        return torch.cat([vae.decode(chunk).sample for chunk in chunks]).transpose(0, 1)


@register_family
class ModelScope(StableDiffusionBase):
    """ModelScope and Zeroscope: ``UNet3DConditionModel``."""

    family = "modelscope"
    pipeline_class = "TextToVideoSDPipeline"


@register_family
class AnimateDiff(StableDiffusionBase):
    """Stable Diffusion with a motion adapter: ``UNetMotionModel``, whose positions limit the frames."""

    family = "animatediff"
    pipeline_class = "AnimateDiffPipeline"

    @classmethod
    def clip_rules(cls, config: ModelConfig) -> ClipRules:
        name = "motion_max_seq_length"
        most = config.read("motion_adapter").get(name) or config.read("unet").get(name, 32)
        return replace(super().clip_rules(config), max_frames=int(most))

    @classmethod
    def read_scheduler(cls, config: ModelConfig) -> Any:
        """The folder's own, even if that is of Stable Diffusion's images: a warning, for adapters want other betas."""
        scheduler = super().read_scheduler(config)
        betas = scheduler.config.get("beta_schedule")
        if config.index.get("_class_name") == "StableDiffusionPipeline" and betas != "linear":
            _log.warning(
                "motion_adapter: records follow the model's own scheduler, with %s betas; AnimateDiff is mostly run "
                "with linear ones: save the pipeline that generates with save_pretrained and give its folder as model",
                betas,
            )
        return scheduler

    def predict(self, latents: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        embeds = conditioning["encoder_hidden_states"].repeat_interleave(latents.shape[2], dim=0)
        return super().predict(latents, timestep, encoder_hidden_states=embeds)


@register_family
class StableDiffusion(StableDiffusionBase):
    """Stable Diffusion images: clips of one frame."""

    family = "stable-diffusion"
    pipeline_class = "StableDiffusionPipeline"
    layout = "BCHW"

    @classmethod
    def clip_rules(cls, config: ModelConfig) -> ClipRules:
        if config.read("unet").get("time_cond_proj_dim") is not None:
            raise ConfigError(
                "UNets with time_cond_proj_dim (distilled with guidance, as LCM) have the guidance scale for a second "
                "timestep and are not supported; use the model that it was distilled from"
            )
        return replace(super().clip_rules(config), max_frames=1)

    @classmethod
    def read_scheduler(cls, config: ModelConfig) -> Any:
        """As the pipeline's constructor corrects what the file says."""
        scheduler = super().read_scheduler(config)
        corrected = {"steps_offset": 1, "clip_sample": False}
        scheduler.register_to_config(**{name: corrected[name] for name in corrected if name in scheduler.config})
        return scheduler
