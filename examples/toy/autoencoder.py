"""Trains the autoencoder on single frames of the world, measures its scaling, and caches the latents of clips."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.toy.checkpoints import Clock, OutOfTime, append_line, load_state, save_state
from examples.toy.networks import LATENT_CHANNELS, LATENT_SIDE, make_autoencoder
from examples.toy.recipe import Recipe
from noisebank.world.attributes import FRAMES
from noisebank.world.render import Pixels, render_frame
from noisebank.world.world import World

LOG_EVERY = 50
CHUNK = 64
"""Clips that are encoded and written together."""
SCALED_BY = 32
"""Clips whose latents' standard deviation the scaling factor is taken from."""
EVALUATION = 1_000_000_000
"""Number of the first row that is kept for gates; training never comes so far."""


def train_autoencoder(recipe: Recipe, out: Path, clock: Clock) -> Any:
    """The trained autoencoder, with its ``scaling_factor``; goes on where an earlier call was ended.

    Loss: mean absolute error of pixels in [-1, 1], plus ``kl_weight`` times the mean KL divergence of the latents'
    posterior from N(0, 1).
    """
    torch.manual_seed(recipe.seed)
    vae = make_autoencoder()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.vae_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    total = recipe.vae_steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.vae_rate, total, pct_start=0.05)
    parts = {"vae": vae, "optimizer": optimizer, "schedule": schedule}
    step = 0
    if (state := load_state(out / "vae.pt")) is not None:
        step = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    losses: list[float] = []
    began = time.monotonic()
    while step < total:
        losses.append(_descend(vae, optimizer, schedule, recipe, step))
        step += 1
        if step % LOG_EVERY == 0 or step == total:
            pace = len(losses) / (time.monotonic() - began)
            append_line(
                out / "vae.jsonl", step=step, loss=round(float(np.mean(losses)), 5), steps_a_second=round(pace, 2)
            )
            losses, began = [], time.monotonic()
        if clock.is_time_to_save() or step == total:
            save_state(out / "vae.pt", {"step": step, **{name: part.state_dict() for name, part in parts.items()}})
            if clock.is_over():
                raise OutOfTime
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=_measure_scaling(vae, recipe))
    return vae


def _descend(vae: Any, optimizer: Any, schedule: Any, recipe: Recipe, step: int) -> float:
    world = World(recipe.seed, "train")
    rng = np.random.default_rng([recipe.seed, 1, step])
    first = step * recipe.vae_batch
    frames = [
        render_frame(world.row(number).scene, float(rng.random())) for number in range(first, first + recipe.vae_batch)
    ]
    pixels = to_tensor(np.stack(frames))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
    loss = (decoded.float() - pixels).abs().mean() + recipe.kl_weight * posterior.kl().mean() / posterior.mean[
        0
    ].numel()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    return loss.item()


@torch.inference_mode()
def _measure_scaling(vae: Any, recipe: Recipe) -> float:
    """One over the standard deviation of the latents."""
    world = World(recipe.seed, "train")
    latents = [vae.encode(to_tensor(world.pixels(number))).latent_dist.mode() for number in range(SCALED_BY)]
    return float(f"{1 / torch.cat(latents).std().item():.6g}")


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """uint8 ``[N, H, W, 3]`` to float32 ``[N, 3, H, W]`` in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def encode_clip(vae: Any, pixels: Pixels) -> torch.Tensor:
    """Scaled latents of a clip, ``[C, F, H, W]``."""
    latents: torch.Tensor = vae.encode(to_tensor(pixels)).latent_dist.mode() * vae.config.scaling_factor
    return latents.transpose(0, 1)


@torch.inference_mode()
def decode_clip(vae: Any, latents: torch.Tensor) -> Pixels:
    """Frames of scaled latents ``[C, F, H, W]``, uint8 ``[F, H, W, 3]``."""
    pixels = vae.decode(latents.transpose(0, 1) / vae.config.scaling_factor).sample
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def cache_latents(recipe: Recipe, vae: Any, out: Path, clock: Clock, count: int) -> Any:
    """Latents of the first ``count`` training clips, float16 ``[N, C, F, H, W]``, from a file filled in pieces."""
    path, done_path = out / "latents.npy", out / "latents.done"
    shape = (recipe.clips, LATENT_CHANNELS, FRAMES, LATENT_SIDE, LATENT_SIDE)
    latents = np.lib.format.open_memmap(path, mode="r+" if path.exists() else "w+", dtype=np.float16, shape=shape)
    done = int(done_path.read_text()) if done_path.exists() else 0
    world = World(recipe.seed, "train")
    while done < count:
        end = min(done + CHUNK, count)
        for number in range(done, end):
            latents[number] = encode_clip(vae, world.pixels(number)).numpy()
        latents.flush()
        done_path.write_text(str(end))
        done = end
        if clock.is_over():
            raise OutOfTime
    return latents[:count]
