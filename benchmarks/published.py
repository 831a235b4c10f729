"""Models of published configurations with random weights: how long they take and what they need does not depend on the
values. ``shrink`` makes the same of small sizes, to see on any machine that a benchmark runs."""

from __future__ import annotations

from typing import Any

import torch

from noisebank.fixtures.small_models import byte_clip_tokenizer, byte_t5_tokenizer, modelscope_scheduler, smooth_clip
from noisebank.models import ModelAdapter, family_of, pipeline_config

MODELSCOPE_CLIP, WAN_CLIP = (16, 256, 256), (81, 480, 832)
SHRUNKEN = {MODELSCOPE_CLIP: (4, 64, 64), WAN_CLIP: (9, 64, 64)}
"""Frames, height and width of the clips that the models are run on."""


def clips_of(size: tuple[int, int, int], count: int) -> torch.Tensor:
    """Made-up clips ``[N, F, H, W, 3]`` uint8."""
    return torch.stack([smooth_clip(*size, seed=seed) for seed in range(count)])


def modelscope(dtype: torch.dtype, device: str, shrink: bool = False) -> ModelAdapter:
    """ModelScope: its UNet, 1.4 billion parameters, and the VAE of Stable Diffusion."""
    from diffusers import AutoencoderKL, TextToVideoSDPipeline, UNet3DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = byte_clip_tokenizer()
    text: dict[str, Any] = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    width = 64 if shrink else 1024
    text |= {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": width // 64}
    channels = (32, 64, 64, 64) if shrink else (320, 640, 1280, 1280)
    with torch.device(device):
        unet = UNet3DConditionModel(
            sample_size=32,
            block_out_channels=channels,
            layers_per_block=2,
            cross_attention_dim=width,
            attention_head_dim=channels[0] // 4 if shrink else 64,
        ).to(dtype)
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=(32, 32, 32, 32) if shrink else (128, 256, 512, 512),
            layers_per_block=2,
        )
    pipe = TextToVideoSDPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)).to(dtype).eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=modelscope_scheduler(),
    )
    clip = smooth_clip(4, 64, 64).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
    with torch.inference_mode():
        vae.register_to_config(scaling_factor=1 / vae.encode(clip).latent_dist.mode().std().item())
    return _adapter(pipe, dtype, device)


def wan(dtype: torch.dtype, device: str, shrink: bool = False) -> ModelAdapter:
    """Wan 2.1 T2V 1.3B: 30 layers of 12 heads, and its causal 3D VAE; for 480p its shift is 3."""
    import diffusers
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    tokenizer = byte_t5_tokenizer()
    width = 64 if shrink else 4096
    text = {"d_model": width, "d_kv": 64, "d_ff": 2 * width, "num_layers": 1, "num_heads": width // 64}
    sizes = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960, "text_dim": width}
    vae_sizes = {"base_dim": 96}
    if shrink:
        sizes |= {"num_attention_heads": 2, "num_layers": 2, "ffn_dim": 128}
        vae_sizes = {"base_dim": 8}
    with torch.device(device):
        transformer = diffusers.WanTransformer3DModel(**sizes).to(dtype)
        vae = diffusers.AutoencoderKLWan(**vae_sizes)
    pipe = diffusers.WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), **text)).to(dtype).eval(),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return _adapter(pipe, dtype, device)


def _adapter(pipe: Any, dtype: torch.dtype, device: str) -> ModelAdapter:
    adapter = family_of(type(pipe).__name__)(pipeline_config(pipe), pipe, dtype, device)
    adapter.keep_for_inversion()
    return adapter
