"""Trains the autoencoder on single frames of the world, measures its scaling, and caches the latents of clips."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.toy.checkpoints import Clock, OutOfTime, append_line, load_state, save_state, say_start
from examples.toy.networks import LATENT_CHANNELS, LATENT_SIDE, make_autoencoder
from examples.toy.recipe import Recipe, shape_rate
from noisebank.outputs import write_whole
from noisebank.world.attributes import FRAMES, SIDE
from noisebank.world.render import Pixels, render_frame
from noisebank.world.world import World

LOG_EVERY = 50
CHUNK = 64
"""Clips that are encoded and written together."""
SCALED_BY = 32
"""Clips whose latents' standard deviation the scaling factor is taken from."""
EVALUATION = 1_000_000_000
"""Number of the first row that is kept for gates and readings; neither training nor a study comes so far."""


def train_autoencoder(recipe: Recipe, out: Path, clock: Clock) -> Any:
    """The trained autoencoder, with its ``scaling_factor``; goes on where an earlier call was ended.

    Loss: absolute and squared error of pixels in [-1, 1], more where they are saturated (things are a tenth of the
    picture, and with plain errors stay grey for thousands of steps), plus ``kl_weight`` times the mean KL divergence
    of the latents' posterior from N(0, 1).
    """
    torch.manual_seed(recipe.seed)
    vae = make_autoencoder()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.vae_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    total = recipe.vae_steps
    parts = {"vae": vae, "optimizer": optimizer}
    step = 0
    if (state := load_state(out / "vae.pt")) is not None:
        step = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    say_start("autoencoder", step, total)
    losses: list[float] = []
    began = time.monotonic()
    while step < total:
        losses.append(_descend(vae, optimizer, recipe, step))
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


def _descend(vae: Any, optimizer: Any, recipe: Recipe, step: int) -> float:
    rng = np.random.default_rng([recipe.seed, 1, step])
    pixels = to_tensor(_draw_frames(recipe, step, rng))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
    error = decoded.float() - pixels
    saturation = (pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True)) / 2
    errors = (error.abs() + error.square()) * (1 + recipe.saturation_weight * saturation)
    loss = errors.mean() + recipe.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()
    for group in optimizer.param_groups:
        group["lr"] = recipe.vae_rate * shape_rate(step, recipe.vae_steps)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _draw_frames(recipe: Recipe, step: int, rng: np.random.Generator) -> Pixels:
    """Frames of the batch of a step, each at some time of another row; first pieces of them around the thing."""
    cropped = step < recipe.vae_crop_steps
    count, side = (recipe.vae_crop_batch, recipe.vae_crop) if cropped else (recipe.vae_batch, SIDE)
    frames = []
    for number in rng.integers(EVALUATION, size=count):
        scene, share = World(recipe.seed, "train").row(int(number)).scene, float(rng.random())
        corner = np.array(scene.thing.at(share)) + rng.uniform(-12, 12, 2) - side / 2
        left, top = np.clip(np.rint(corner), 0, SIDE - side).astype(int)
        frames.append(render_frame(scene, share)[top : top + side, left : left + side])
    return np.stack(frames)


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
    done = int(done_path.read_text()) if done_path.exists() else 0
    latents = np.lib.format.open_memmap(path, mode="r+" if done else "w+", dtype=np.float16, shape=shape)
    world = World(recipe.seed, "train")
    if done < count:
        print(f"latents: {done} of {count} clips are encoded; encodes the rest", flush=True)
    while done < count:
        end = min(done + CHUNK, count)
        for number in range(done, end):
            latents[number] = encode_clip(vae, world.pixels(number)).numpy()
        latents.flush()
        write_whole(done_path, str(end).encode())
        done = end
        if clock.is_over():
            raise OutOfTime
    return latents[:count]
