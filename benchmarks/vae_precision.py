"""What the VAE's precision costs of the latents: relative error of bfloat16 and of TF32 against float32.

    python -m benchmarks.vae_precision                  the small models, and Stable Diffusion's VAE of published size

Weights are random, inputs smooth clips. TF32 is computed on the CPU as a GPU does it: inputs and weights of
convolutions and matrix products are rounded to 10 bits, sums are float32. Prints a line a model.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.published import clips_of
from noisebank.fixtures.small_models import SMALL_FAMILIES, make_small_model
from noisebank.inversion import relative_error
from noisebank.models import load_model

SIZES = {"stable-diffusion": (1, 64, 64), "ltx": (9, 64, 96)}


def to_tf32(values: torch.Tensor) -> torch.Tensor:
    """float32 rounded to 10 bits of mantissa, to nearest, as the tensor cores take it."""
    return ((values.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def in_tf32(vae: torch.nn.Module) -> torch.nn.Module:
    """A copy whose products have rounded inputs."""
    rounded = copy.deepcopy(vae)

    def round_inputs(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(to_tf32(value) if isinstance(value, torch.Tensor) else value for value in inputs)

    for module in rounded.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d):
            module.weight.data = to_tf32(module.weight.data)
            module.register_forward_pre_hook(round_inputs)
    return rounded


def main() -> None:
    """Print the errors."""
    with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as folder:
        for family in SMALL_FAMILIES:
            model = str(make_small_model(family, Path(folder, family)))
            clips = clips_of(SIZES.get(family, (9, 64, 64)), 2)
            adapter = load_model(model)
            exact = adapter.encode(clips)
            coarse = load_model(model, vae_precision="bfloat16").encode(clips)
            adapter.pipe.vae = in_tf32(adapter.pipe.vae)
            _say(f"small {family}", exact, {"bfloat16": coarse, "tf32": adapter.encode(clips)})
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae = AutoencoderKL(**blocks, block_out_channels=(128, 256, 512, 512), layers_per_block=2).eval()
    vae.decoder = torch.nn.Identity()
    frames = clips_of((1, 256, 256), 1)[:, 0].permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        exact, tf32 = (one.encode(frames).latent_dist.mode() for one in (vae, in_tf32(vae)))
        coarse = vae.bfloat16().encode(frames.bfloat16()).latent_dist.mode().float()
    _say("published stable-diffusion", exact, {"bfloat16": coarse, "tf32": tf32})


def _say(name: str, exact: torch.Tensor, others: dict[str, torch.Tensor]) -> None:
    errors = {kind: relative_error(other, exact).mean().item() for kind, other in others.items()}
    print(f"{name}: " + ", ".join(f"{kind} {error:.1e}" for kind, error in errors.items()), flush=True)


if __name__ == "__main__":
    main()
