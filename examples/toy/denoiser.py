"""Trains the UNet and the text encoder together on cached latents, and generates with their averaged weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import TextToVideoSDPipeline
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.training_utils import EMAModel

from examples.toy.checkpoints import Clock, OutOfTime, append_line, load_state, save_state, say_start
from examples.toy.networks import make_text_encoder, make_tokenizer, make_unet
from examples.toy.recipe import Recipe, shape_power, shape_rate
from noisebank.fixtures.small_models import modelscope_scheduler
from noisebank.world.attributes import FRAMES, SIDE
from noisebank.world.captions import write_caption
from noisebank.world.render import Pixels
from noisebank.world.scene import Scene
from noisebank.world.world import World

LOG_EVERY = 50
UNHEARD = "?"
"""A word that no caption has: one token, the unknown one."""


class Denoiser:
    """The networks that are trained, their average, and what trains them; goes on from a saved state."""

    def __init__(self, recipe: Recipe, steps: int) -> None:
        torch.manual_seed(recipe.seed + 1)
        self.recipe, self.steps, self.step = recipe, steps, 0
        self.tokenizer, self.scheduler = make_tokenizer(), modelscope_scheduler()
        self.text_encoder, self.unet = make_text_encoder(self.tokenizer), make_unet()
        self.parameters = [*self.unet.parameters(), *self.text_encoder.parameters()]
        self.average = _average(self.parameters, recipe)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.01)

    def save(self, path: Path) -> None:
        """Writes everything that the next step depends on."""
        names = ("unet", "text_encoder", "average", "optimizer")
        save_state(path, {"step": self.step, **{name: getattr(self, name).state_dict() for name in names}})

    def restore(self, path: Path) -> None:
        """Takes up the state that was saved last, where there is one."""
        if (state := load_state(path)) is not None:
            self.step = state.pop("step")
            for name, values in state.items():
                getattr(self, name).load_state_dict(values)

    def begin_with(self, path: Path) -> None:
        """Takes the networks of another training's state, and nothing else of it."""
        if (state := load_state(path)) is None:
            raise FileNotFoundError(path)
        for name in ("unet", "text_encoder"):
            getattr(self, name).load_state_dict(state[name])
        self.average = _average(self.parameters, self.recipe)

    def descend(self, latents: Any, world: World) -> float:
        """One step of the optimizer; returns the loss.

        The squared error of the predicted noise at, and weighted by, :class:`Levels`.
        """
        rng = np.random.default_rng([self.recipe.seed, 2, self.step])
        clean, captions = self._draw_batch(latents, world, rng)
        count = len(clean)
        levels = Levels(self.scheduler.alphas_cumprod, shape_power(self.step, self.steps))
        timesteps = levels.draw(count, rng)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = self.unet(noisy, timesteps, encoder_hidden_states=self._embed(captions)).sample
        errors = (predicted.float() - noise).square().mean(dim=(1, 2, 3, 4))
        loss = (errors * levels.weights[timesteps]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * shape_rate(self.step, self.steps)
        self.optimizer.step()
        self.average.step(self.parameters)
        self.step += 1
        return loss.item()

    def _draw_batch(self, latents: Any, world: World, rng: np.random.Generator) -> tuple[torch.Tensor, list[str]]:
        """Every clip once an epoch, each time with another caption."""
        numbers = []
        for place in range(self.step * self.recipe.batch, (self.step + 1) * self.recipe.batch):
            epoch, offset = divmod(place, len(latents))
            order = np.random.default_rng([self.recipe.seed, 3, epoch]).permutation(len(latents))
            numbers.append(int(order[offset]))
        captions = [self._write_caption(world.row(number).scene, rng) for number in numbers]
        return torch.from_numpy(np.stack([latents[n] for n in numbers]).astype(np.float32)), captions

    def _write_caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """Sometimes none at all, for guidance, and sometimes with a word that the tokenizer does not know."""
        if rng.random() < self.recipe.caption_dropout:
            return ""
        words = write_caption(scene, rng).split()
        return " ".join(UNHEARD if rng.random() < self.recipe.word_dropout else word for word in words)

    def _embed(self, captions: list[str]) -> torch.Tensor:
        tokens = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        embeddings: torch.Tensor = self.text_encoder(tokens.input_ids).last_hidden_state
        return embeddings

    def pipeline(self, vae: Any) -> Any:
        """A pipeline of the averaged weights."""
        unet, text_encoder = make_unet(), make_text_encoder(self.tokenizer)
        with torch.no_grad():
            self.average.copy_to([*unet.parameters(), *text_encoder.parameters()])
        pipe = TextToVideoSDPipeline(
            vae=vae, text_encoder=text_encoder, tokenizer=self.tokenizer, unet=unet, scheduler=modelscope_scheduler()
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe


def _average(parameters: list[Any], recipe: Recipe) -> EMAModel:
    return EMAModel(parameters, decay=recipe.ema_decay, use_ema_warmup=True, power=0.75)


class Levels:
    """How often each timestep is trained, and what its error weighs.

    With ``power`` 1 they are together the loss of v-prediction: the error of v is the error of the noise over abar
    (arXiv 2202.00512). Where there is much noise a wrong clip costs only abar in the error of the noise, but there
    colour, shape and motion are decided. Half of that, 1 / sqrt(abar), is how often a timestep is drawn, and half is
    its weight: every batch has noisy clips, and none outweighs the rest. With 0 it is the plain error of the noise,
    which says most of the last, clean steps: what an inversion undoes first.
    """

    def __init__(self, alphas_cumprod: torch.Tensor, power: float) -> None:
        density = (alphas_cumprod.double() ** (-power / 2)).numpy()
        self.weights = torch.from_numpy(density / np.average(density, weights=density)).float()
        self.shares = np.cumsum(density / density.sum())

    def draw(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        """Timesteps, int64 ``[count]``, spread evenly over the shares."""
        places = (rng.random() + np.arange(count) / count) % 1
        return torch.from_numpy(np.minimum(np.searchsorted(self.shares, places), len(self.shares) - 1))


def train_denoiser(
    recipe: Recipe,
    steps: int,
    latents: Any,
    path: Path,
    clock: Clock,
    evaluate: Callable[[Denoiser], None] | None = None,
    start: Path | None = None,
) -> Denoiser:
    """The trained networks; goes on where an earlier call was ended.

    Args:
        latents: of the first rows of the world's training split, float16 ``[N, C, F, H, W]``.
        path: of the state; its log lies beside it.
        evaluate: called every ``evaluate_every`` steps and at the end.
        start: state of the training whose networks this one begins with.
    """
    denoiser = Denoiser(recipe, steps)
    if path.exists():
        denoiser.restore(path)
    elif start is not None:
        denoiser.begin_with(start)
    say_start(path.stem, denoiser.step, steps)
    denoiser.unet.set_attn_processor(AttnProcessor())
    world = World(recipe.seed, "train")
    losses: list[float] = []
    began = time.monotonic()
    while denoiser.step < steps:
        losses.append(denoiser.descend(latents, world))
        step = denoiser.step
        if step % LOG_EVERY == 0 or step == steps:
            pace = round(len(losses) / (time.monotonic() - began), 3)
            append_line(
                path.with_suffix(".jsonl"), step=step, loss=round(float(np.mean(losses)), 5), steps_a_second=pace
            )
            losses, began = [], time.monotonic()
        is_evaluated = evaluate is not None and (step % recipe.evaluate_every == 0 or step == steps)
        if evaluate is not None and is_evaluated:
            evaluate(denoiser)
            began = time.monotonic()
        if clock.is_time_to_save() or is_evaluated or step == steps:  # (of a step whose evaluation is over)
            denoiser.save(path)
            if clock.is_over() and step < steps:
                raise OutOfTime
    denoiser.unet.set_attn_processor(AttnProcessor2_0())
    return denoiser


@torch.inference_mode()
def generate(pipe: Any, prompts: list[str], seeds: list[int], steps: int, guidance_scale: float) -> list[Pixels]:
    """A clip for each prompt, uint8 ``[F, H, W, 3]``, from the noise of its own seed."""
    clips: list[Pixels] = []
    for first in range(0, len(prompts), 16):
        batch = slice(first, first + 16)
        frames = pipe(
            prompts[batch],
            height=SIDE,
            width=SIDE,
            num_frames=FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[batch]],
            output_type="np",
        ).frames
        clips += [np.rint(np.asarray(clip) * 255).astype(np.uint8) for clip in frames]
    return clips
