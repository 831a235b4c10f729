"""An ``AutoencoderKL`` that needs no training: its latents are a thumbnail in luma and chroma.

A VAE with random weights shows noise whatever it decodes. This one has the architecture and format of Stable
Diffusion's, with weights set by hand: every block passes its input on, downsampling averages, upsampling
interpolates. What it gives back is the blurred clip, so that a small model's output can be looked at.
"""

from __future__ import annotations

from typing import Any

import torch

WIDTH = 16
"""Channels of every block: four groups of ``(x, -x, K, -K)``, one for each latent channel."""

LEVEL = 30.0
"""K: with it in a group, the group norm divides by a constant (to 1e-3), and so keeps what it would remove."""


def thumbnail_autoencoder(spatial_ratio: int, pixels: torch.Tensor) -> Any:
    """Build the autoencoder.

    Args:
        spatial_ratio: pixels a latent, a power of two.
        pixels: ``[N, 3, H, W]`` in [-1, 1] to calibrate on: each latent channel gets mean 0 and std 1 on them.

    Returns:
        A diffusers ``AutoencoderKL`` with 4 latent channels: luma, the two chroma differences, and the horizontal
        gradient of the luma, which the decoder has no use for.
    """
    from diffusers import AutoencoderKL

    blocks = spatial_ratio.bit_length()
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * blocks,
        up_block_types=["UpDecoderBlock2D"] * blocks,
        block_out_channels=[WIDTH] * blocks,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
    ).eval()
    with torch.no_grad():
        _pass_on(vae.encoder)
        _pass_on(vae.decoder)
        _set_encoder(vae.encoder)
        latents = vae.encode(pixels).latent_dist.mode()
        std, mean = torch.std_mean(latents, dim=(0, 2, 3))
        vae.encoder.conv_out.weight[:4].div_(std.view(-1, 1, 1, 1))
        vae.encoder.conv_out.bias[:4].sub_(mean).div_(std)
        _set_decoder(vae.decoder, mean, std)
    return vae


def _pass_on(half: Any) -> None:
    """Silence every residual branch; let the output layer's norm and activation give ``x`` for ``(x, -x, K, -K)``."""
    for name, parameter in half.named_parameters():
        if name.rsplit(".", 1)[0].endswith(("conv2", "to_out.0")):
            parameter.zero_()
    half.conv_norm_out.weight.fill_(LEVEL / 2**0.5)
    half.conv_norm_out.bias.zero_()
    half.conv_out.weight.zero_()
    half.conv_out.bias.zero_()


def _set_encoder(encoder: Any) -> None:
    """Colours to groups, averages down, the mean of the posterior out."""
    luma = torch.full((3,), 1 / 3)
    colours = torch.stack([luma, torch.eye(3)[2] - luma, torch.eye(3)[0] - luma, luma])
    kernels = torch.zeros(4, 3, 3)
    kernels[:3, 1, 1] = 1
    kernels[3, 1] = torch.tensor([-1.0, 0.0, 1.0])
    _grouped_input(encoder.conv_in, colours[:, :, None, None] * kernels[:, None])
    average = torch.zeros(3, 3)
    average[:2, :2] = 0.25
    for block in encoder.down_blocks:
        for downsampler in block.downsamplers or ():
            _each_channel(downsampler.conv, average)
    _grouped_output(encoder.conv_out, torch.eye(4))
    encoder.conv_out.bias[4:] = -30  # (the posterior's log variance)


def _set_decoder(decoder: Any, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Latents to groups, interpolated up, colours out."""
    centre = torch.zeros(3, 3)
    centre[1, 1] = 1
    _grouped_input(decoder.conv_in, torch.diag(std)[:, :, None, None] * centre)
    _shift_groups(decoder.conv_in, mean)
    tent = torch.tensor([0.25, 0.5, 0.25])
    for block in decoder.up_blocks:
        for upsampler in block.upsamplers or ():
            _each_channel(upsampler.conv, tent[:, None] * tent)
    # From luma, blue and red differences: R = Y + r, B = Y + b, G = Y - r - b.
    _grouped_output(decoder.conv_out, torch.tensor([[1.0, 0, 1, 0], [1, -1, -1, 0], [1, 1, 0, 0]]))


def _grouped_input(conv: Any, kernels: torch.Tensor) -> None:
    """Set a convolution to give ``(x, -x, K, -K)`` for every kernel ``[4, C, 3, 3]``."""
    conv.weight.zero_()
    conv.weight[0::4], conv.weight[1::4] = kernels, -kernels
    conv.bias.copy_(torch.tensor([0.0, 0.0, LEVEL, -LEVEL]).repeat(4))


def _shift_groups(conv: Any, offsets: torch.Tensor) -> None:
    conv.bias[0::4] += offsets
    conv.bias[1::4] -= offsets


def _grouped_output(conv: Any, matrix: torch.Tensor) -> None:
    """Set a convolution to ``matrix [O, 4]`` times the groups' ``x = silu(x) - silu(-x)``."""
    conv.weight[: len(matrix), 0::4, 1, 1] = matrix
    conv.weight[: len(matrix), 1::4, 1, 1] = -matrix


def _each_channel(conv: Any, kernel: torch.Tensor) -> None:
    """Set a convolution to filter every channel by itself with ``kernel [3, 3]``; the constants stay as they are."""
    conv.weight.zero_()
    conv.bias.zero_()
    for channel in range(WIDTH):
        if channel % 4 < 2:
            conv.weight[channel, channel] = kernel
    conv.bias.copy_(torch.tensor([0.0, 0.0, LEVEL, -LEVEL]).repeat(4))
