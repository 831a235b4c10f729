"""The Stable Diffusion line: an image ``AutoencoderKL``, a CLIP text encoder and a UNet with DDIM levels.

ModelScope and Zeroscope (``TextToVideoSDPipeline``), AnimateDiff (Stable Diffusion with a motion adapter) and Stable
Diffusion itself for single images.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

from noisebank.errors import ConfigError
from noisebank.models.base import ClipRules, ModelAdapter, register_family
from noisebank.models.config import ModelConfig

_log = logging.getLogger(__name__)
FRAMES_PER_ENCODE = 16


def autoencoder_kl_rules(config: ModelConfig, max_frames: int | None = None) -> ClipRules:
    """Rules of an image VAE: one latent frame a frame; the pipelines ask for multiples of 8 pixels."""
    vae = config.read("vae")
    ratio = 2 ** (len(vae["block_out_channels"]) - 1)
    return ClipRules(
        channels=int(vae.get("latent_channels", 4)),
        spatial_ratio=ratio,
        size_multiple=math.lcm(8, ratio),
        max_frames=max_frames,
    )


class StableDiffusionBase(ModelAdapter):
    """Encoding and conditioning that the three pipelines share."""

    network_name = "unet"

    def encode_clip(self, pixels: torch.Tensor) -> torch.Tensor:
        vae = self.pipe.vae
        chunks = torch.split(pixels.transpose(0, 1), FRAMES_PER_ENCODE)
        latents = torch.cat([vae.encode(chunk).latent_dist.mode() for chunk in chunks])
        return latents.mul(vae.config.scaling_factor).transpose(0, 1)

    def encode_prompt(self, prompt: str) -> dict[str, torch.Tensor]:
        embeds, _ = self.pipe.encode_prompt(prompt, self.device, 1, False)
        return {"encoder_hidden_states": embeds.to(self.dtype)}


@register_family
class ModelScope(StableDiffusionBase):
    """ModelScope and Zeroscope: ``UNet3DConditionModel``."""

    family = "modelscope"
    pipeline_class = "TextToVideoSDPipeline"

    @classmethod
    def clip_rules(cls, config: ModelConfig) -> ClipRules:
        return autoencoder_kl_rules(config)

    def predict(self, latents: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.pipe.unet(latents, timestep, **conditioning, return_dict=False)[0]
        return output


@register_family
class AnimateDiff(StableDiffusionBase):
    """Stable Diffusion with a motion adapter: ``UNetMotionModel``, whose positions limit the frames."""

    family = "animatediff"
    pipeline_class = "AnimateDiffPipeline"

    @classmethod
    def clip_rules(cls, config: ModelConfig) -> ClipRules:
        limit = config.read("motion_adapter").get("motion_max_seq_length") or config.read("unet").get(
            "motion_max_seq_length", 32
        )
        return autoencoder_kl_rules(config, max_frames=int(limit))

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
        output: torch.Tensor = self.pipe.unet(latents, timestep, encoder_hidden_states=embeds, return_dict=False)[0]
        return output


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
        return autoencoder_kl_rules(config, max_frames=1)

    @classmethod
    def read_scheduler(cls, config: ModelConfig) -> Any:
        """As the pipeline's constructor corrects what the file says."""
        scheduler = super().read_scheduler(config)
        corrected = {"steps_offset": 1, "clip_sample": False}
        scheduler.register_to_config(**{name: corrected[name] for name in corrected if name in scheduler.config})
        return scheduler

    def predict(self, latents: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        output: Any = self.pipe.unet(latents.squeeze(2), timestep, **conditioning, return_dict=False)[0]
        return torch.as_tensor(output).unsqueeze(2)
