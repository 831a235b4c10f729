"""Small models in diffusers' own format, made on the spot: for demos, tests and benchmarks.

Their weights are random, so what they generate is noise; but they are real pipelines with real tokenizers, load with
``from_pretrained``, and behave under inversion as real ones do: the VAE's scaling gives latents of unit variance and
the network is nonlinear enough that one-call DDIM inversion errs by 2e-2 to 3e-1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SMALL_FAMILIES: dict[str, Callable[[], Any]] = {}
"""Builders of small pipelines by family; each draws its weights from torch's global generator."""


def make_small_model(family: str, folder: str | Path, seed: int = 0) -> Path:
    """Write a small model of a family into a folder, in diffusers' format.

    Args:
        family: one of ``modelscope``, ``animatediff``, ``stable-diffusion``, ``cogvideox``, ``wan``, ``ltx``.
        folder: where to write; a few MB.
        seed: of the random weights; the caller's global random state is left as it was.

    Returns:
        The folder.

    Raises:
        ValueError: unknown family.
    """
    if family not in SMALL_FAMILIES:
        raise ValueError(f"no small model of family {family!r}; choose one of {', '.join(SMALL_FAMILIES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        SMALL_FAMILIES[family]().save_pretrained(folder)
    return Path(folder)


def small_family(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Decorator that registers a builder."""

    def register(build: Callable[[], Any]) -> Callable[[], Any]:
        SMALL_FAMILIES[name] = build
        return build

    return register


def smooth_clip(frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A clip like a natural one: coloured waves of falling amplitude, drifting. ``[F, H, W, 3]`` uint8."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(frames).view(-1, 1, 1, 1) / 16
    y = torch.linspace(0, 1, height).view(1, -1, 1, 1)
    x = torch.linspace(0, 1, width).view(1, 1, -1, 1)
    clip = torch.zeros(frames, height, width, 3)
    for octave in range(1, 7):
        fy, fx, phase, speed = torch.randn(4, 3, generator=generator).unbind()
        clip += torch.cos(2 * math.pi * (octave * (fy * y + fx * x) + phase + speed * time)) / octave
    return ((clip / clip.abs().max() + 1) * 127.5).round().to(torch.uint8)


def byte_clip_tokenizer() -> Any:
    """A real CLIP tokenizer whose vocabulary is the 256 bytes, within and at the end of a word."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def _clip_text_encoder(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def _autoencoder_kl() -> Any:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(16, 16, 32, 32),
        norm_num_groups=8,
        latent_channels=4,
    ).eval()
    with torch.inference_mode():
        pixels = smooth_clip(16, 64, 64).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = vae.encode(pixels).latent_dist.mode()
    vae.register_to_config(scaling_factor=float(f"{1 / latents.std().item():.6g}"))
    return vae


def _ddim_scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _predict_own_input(unet: Any) -> None:
    """Make a random UNet predict mostly its own input, as a trained one does where there is little but noise.

    The latents ride as pairs ``(z, -z)`` on the last skip connection to the output layer, where
    ``silu(z) - silu(-z) = z``; the random features around them add the nonlinearity. Without this the predicted noise
    has little in common with noise, and neither has what inversion finds.
    """
    last = unet.up_blocks[-1].resnets[-1]
    skipped = last.conv_shortcut.in_channels - unet.conv_in.out_channels
    with torch.no_grad():
        for layer in (unet.conv_in, last.conv_shortcut):
            layer.weight[:8] = 0
            layer.bias[:8] = 0
        unet.conv_out.weight[:, :8] = 0
        for pair in range(8):
            channel, sign = pair // 2, 1.0 - 2.0 * (pair % 2)
            unet.conv_in.weight[pair, channel, 1, 1] = sign
            last.conv_shortcut.weight[pair, skipped + pair, 0, 0] = 1
            unet.conv_out.weight[channel, pair, 1, 1] = sign


@small_family("modelscope")
def _modelscope() -> Any:
    from diffusers import TextToVideoSDPipeline, UNet3DConditionModel

    tokenizer = byte_clip_tokenizer()
    unet = UNet3DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    _predict_own_input(unet)
    return TextToVideoSDPipeline(
        vae=_autoencoder_kl(),
        text_encoder=_clip_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=_ddim_scheduler(),
    )
