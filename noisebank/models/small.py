"""Small models in diffusers' own format, made on the spot: for demos, tests and benchmarks.

Their networks have random weights, so what they generate from fresh noise is noise; but they are real pipelines with
real tokenizers, load with ``from_pretrained``, and behave under inversion as real ones do: the VAE's scaling gives
latents of unit variance and the network is nonlinear enough that one-call DDIM inversion errs by 2e-2 to 3e-1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from noisebank.models.thumbnail import thumbnail_autoencoder

SMALL_FAMILIES: dict[str, Callable[..., Any]] = {}
"""Builders of small pipelines by family; each draws its weights from torch's global generator."""


def make_small_model(family: str, folder: str | Path, seed: int = 0, **options: Any) -> Path:
    """Write a small model of a family into a folder, in diffusers' format.

    Args:
        family: one of ``modelscope``, ``animatediff``, ``stable-diffusion``, ``cogvideox``, ``wan``, ``ltx``.
        folder: where to write; a few MB.
        seed: of the random weights; the caller's global random state is left as it was.
        options: of the family: ``spatial_ratio`` (pixels a latent, 8) for the Stable Diffusion line, whose VAE gives
            back the blurred clip (:mod:`noisebank.models.thumbnail`).

    Returns:
        The folder.

    Raises:
        ValueError: unknown family.
    """
    if family not in SMALL_FAMILIES:
        raise ValueError(f"no small model of family {family!r}; choose one of {', '.join(SMALL_FAMILIES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        SMALL_FAMILIES[family](**options).save_pretrained(folder)
    return Path(folder)


def small_family(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that registers a builder."""

    def register(build: Callable[..., Any]) -> Callable[..., Any]:
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
        wave = torch.cos(2 * math.pi * (octave * (fy * y + fx * x) / 2 + phase + speed * time))
        clip += wave / octave**1.5
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


def _autoencoder_kl(spatial_ratio: int) -> Any:
    clips = torch.cat([smooth_clip(4, 64, 64, seed) for seed in range(4)])
    return thumbnail_autoencoder(spatial_ratio, clips.permute(0, 3, 1, 2).float() / 127.5 - 1)


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
def _modelscope(spatial_ratio: int = 8) -> Any:
    from diffusers import TextToVideoSDPipeline, UNet3DConditionModel

    tokenizer = byte_clip_tokenizer()
    unet = UNet3DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "UpBlock3D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    _predict_own_input(unet)
    return TextToVideoSDPipeline(
        vae=_autoencoder_kl(spatial_ratio),
        text_encoder=_clip_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=_ddim_scheduler(),
    )


@small_family("stable-diffusion")
def _stable_diffusion(spatial_ratio: int = 8) -> Any:
    from diffusers import StableDiffusionPipeline

    tokenizer = byte_clip_tokenizer()
    return StableDiffusionPipeline(
        vae=_autoencoder_kl(spatial_ratio),
        text_encoder=_clip_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_unet_2d(),
        scheduler=_ddim_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@small_family("animatediff")
def _animatediff(spatial_ratio: int = 8) -> Any:
    from diffusers import AnimateDiffPipeline, MotionAdapter

    tokenizer = byte_clip_tokenizer()
    adapter = MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_norm_num_groups=8,
        motion_num_attention_heads=2,
        use_motion_mid_block=False,
    )
    return AnimateDiffPipeline(
        vae=_autoencoder_kl(spatial_ratio),
        text_encoder=_clip_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_unet_2d(),
        motion_adapter=adapter.eval(),
        scheduler=_ddim_scheduler(),
    )


def _unet_2d() -> Any:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    _predict_own_input(unet)
    return unet.eval()


def _amplify(layer: torch.nn.Linear, gain: float) -> None:
    """Scale an output layer: as initialised, these transformers predict half of unit variance and are nearly linear,
    so that every inverter would pass for a good one."""
    with torch.no_grad():
        layer.weight.mul_(gain)


def byte_t5_tokenizer() -> Any:
    """A real T5 tokenizer whose vocabulary is the printable ASCII characters."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(chr(code), -3.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=[*special, *letters], extra_ids=0, model_max_length=128)


def _t5_encoder(tokenizer: Any, model: str = "T5") -> Any:
    import transformers

    config = getattr(transformers, f"{model}Config")(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    return getattr(transformers, f"{model}EncoderModel")(config).eval()


def _video_latents(vae: Any) -> torch.Tensor:
    """Latents ``[B, C, F, H, W]`` of smooth clips, to calibrate a VAE on."""
    clips = torch.stack([smooth_clip(9, 64, 64, seed) for seed in range(4)])
    with torch.inference_mode():
        latents: torch.Tensor = vae.encode(clips.permute(0, 4, 1, 2, 3).float() / 127.5 - 1).latent_dist.mode()
    return latents


def _channel_moments(latents: torch.Tensor) -> tuple[list[float], list[float]]:
    std, mean = torch.std_mean(latents, dim=(0, 2, 3, 4))
    return [float(f"{v:.6g}") for v in mean], [float(f"{v:.6g}") for v in std]


@small_family("cogvideox")
def _cogvideox() -> Any:
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    tokenizer = byte_t5_tokenizer()
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
    ).eval()
    vae.register_to_config(scaling_factor=float(f"{1 / _video_latents(vae).std().item():.6g}"))
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=32,
        text_embed_dim=32,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        use_rotary_positional_embeddings=True,
    )
    _amplify(transformer.proj_out, 2.0)
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        clip_sample=False,
    )
    return CogVideoXPipeline(tokenizer, _t5_encoder(tokenizer), vae, transformer.eval(), scheduler)


@small_family("wan")
def _wan() -> Any:
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

    tokenizer = byte_t5_tokenizer()
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()
    mean, std = _channel_moments(_video_latents(vae))
    vae.register_to_config(latents_mean=mean, latents_std=std)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
    )
    _amplify(transformer.proj_out, 4.0)
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5_encoder(tokenizer, "UMT5"),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=transformer.eval(),
    )


@small_family("ltx")
def _ltx() -> Any:
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    tokenizer = byte_t5_tokenizer()
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    ).eval()
    mean, std = _channel_moments(_video_latents(vae))
    vae.latents_mean.copy_(torch.tensor(mean))
    vae.latents_std.copy_(torch.tensor(std))
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=32,
    )
    _amplify(transformer.proj_out, 3.0)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )
    return LTXPipeline(scheduler, vae, _t5_encoder(tokenizer), tokenizer, transformer.eval())
