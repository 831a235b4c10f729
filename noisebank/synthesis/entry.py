"""The way of one prompt: candidates, an anchor, its animation, a clip, and where all of it came from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from PIL import Image

from noisebank.decode import written_name
from noisebank.errors import ConfigError, RowFailure
from noisebank.ids import xxh64
from noisebank.models import ModelAdapter, load_for_inversion
from noisebank.options import NoiseOptions, output_options
from noisebank.stages.clip_inversion import MeteredNetwork
from noisebank.synthesis.anchors import load_anchor
from noisebank.synthesis.animation import animate, levels_from, regenerate
from noisebank.synthesis.candidates import check_finite, draw, draw_images
from noisebank.synthesis.options import SynthesisOptions
from noisebank.synthesis.rewards import Reward, load_reward, reward_digest
from noisebank.synthesis.sheet import draw_row
from noisebank.video.encode import encode_pictures
from noisebank.video.uris import shown

STAGES = ("candidates", "animate", "regenerate")
"""What is done for a prompt, one after the other."""


@dataclass(frozen=True)
class Prompt:
    """A row of a list of prompts.

    Args:
        id: a name that is unique in the source, and part of the clip's id in a bank.
        text: the prompt, without white space around it.
        image: address of an anchor that is given; empty: none is.
        invalid: why it cannot be used, ``"code: message"``; empty where it can.
        attempt: number of the try.
    """

    id: str
    text: str
    image: str = ""
    invalid: str = ""
    attempt: int = 1

    def check(self) -> None:
        """Raises the failure that it is, where it cannot be used."""
        if self.invalid:
            code, _, message = self.invalid.partition(": ")
            raise RowFailure(code, message)


@dataclass(frozen=True)
class Entry:
    """The clip of a prompt.

    Args:
        mp4: the clip.
        info: where it came from: prompt, seeds, rewards, the chosen candidate, digests, options, network calls.
        row: its row of the contact sheet, PNG.
    """

    mp4: bytes
    info: Mapping[str, Any]
    row: bytes


@dataclass(frozen=True)
class Models:
    """What a worker keeps loaded.

    Args:
        video: sets the anchor in motion.
        images: draws candidates; the video model itself where the options name none.
        reward: scores them.
    """

    video: ModelAdapter
    images: ModelAdapter
    reward: Reward


def load_models(options: SynthesisOptions, digests: Mapping[str, str]) -> Models:
    """Loads the models, which must have these digests (:func:`.checks.check_options`).

    Raises:
        ConfigError: one cannot be loaded, or is another.
    """
    if reward_digest(options.reward) != digests.get("reward"):
        raise ConfigError("reward: its model is another than the job was started with; start it anew")

    def load(model: str, digest: str, motion_adapter: str | None = None) -> ModelAdapter:
        known = NoiseOptions(model=model, motion_adapter=motion_adapter, precision=options.precision)
        return load_for_inversion(known, digest)

    video = load(options.model, digests["model"], options.motion_adapter)
    images = load(options.images.model, digests["images"]) if options.images.model else video
    return Models(video, images, load_reward(options.reward))


def seed_of(seed: int, id: str, what: object) -> int:
    """The seed of something that is drawn for a prompt: XXH64 of the job's seed, the prompt's id and what it is, less
    its lowest bit, as documents hold 63."""
    return xxh64(f"{seed}\0{id}\0{what}") >> 1


@dataclass
class _Candidates:
    """The images that an anchor is chosen from; a given anchor is the only one, and has no reward."""

    images: torch.Tensor
    seeds: Sequence[int] = ()
    rewards: Sequence[float] = ()
    calls: int = 0
    chosen: int = field(init=False)

    def __post_init__(self) -> None:
        rewards = list(self.rewards)
        self.chosen = rewards.index(max(rewards)) if rewards else 0

    @property
    def labels(self) -> list[str]:
        """Below each image of the contact sheet."""
        return [f"{reward:.4g}" for reward in self.rewards] or ["given"]


def make_entry(
    prompt: Prompt,
    options: SynthesisOptions,
    models: Models,
    digests: Mapping[str, str],
    announce: Callable[[str], object] = lambda stage: None,
) -> Entry:
    """Makes the clip of a prompt.

    Args:
        prompt: what it is to show; one that can be used.
        options: of the job.
        models: loaded.
        digests: of the models, for the record.
        announce: told each of :data:`STAGES` as it begins.

    Raises:
        RowFailure: there is none: one of :data:`.options.FAILURE_CODES`.
    """
    announce(STAGES[0])
    found = _given(prompt, options) if prompt.image else _draw_candidates(prompt, options, models)
    frames, calls = _set_in_motion(prompt, options, models.video, found.images[found.chosen], announce)
    mp4 = encode_pictures(
        frames.numpy(), Fraction(options.clips.fps).limit_denominator(1000), options.clips.pixel_format
    )
    seeds = {"candidates": list(found.seeds)} | {name: seed_of(options.seed, prompt.id, name) for name in STAGES[1:]}
    info = {
        "id": prompt.id,
        "prompt": prompt.text,
        "image": shown(prompt.image) or None,
        "rewards": list(found.rewards),
        "chosen": found.chosen,
        "seeds": seeds,
        "calls": {"candidates": found.calls, **calls},
        "digests": dict(digests),
        "options": _said(options),
        "frames": len(frames),
        "height": frames.shape[1],
        "width": frames.shape[2],
        "fps": options.clips.fps,
        "sha256": hashlib.sha256(mp4).hexdigest(),
    }
    title = f"{prompt.id}: {prompt.text}"
    return Entry(mp4, info, draw_row(title, found.images, found.labels, found.chosen, frames))


def _given(prompt: Prompt, options: SynthesisOptions) -> _Candidates:
    return _Candidates(load_anchor(prompt.image, options.clips.height_width, options.fetch)[None])


def _draw_candidates(prompt: Prompt, options: SynthesisOptions, models: Models) -> _Candidates:
    adapter, wanted = models.images, options.images
    network = MeteredNetwork(adapter.network(prompt.text, wanted.guidance_scale), adapter.device)
    seeds = [seed_of(options.seed, prompt.id, number) for number in range(wanted.candidates)]
    size, steps = options.clips.height_width, options.num_inference_steps
    images = draw_images(adapter, network, seeds, size, steps, wanted.batch_size)
    pictures = [Image.fromarray(image.numpy()) for image in images]
    rewards = [float(reward) for reward in models.reward(prompt.text, pictures)]
    if len(rewards) != len(images):
        raise RowFailure("wrong_shape", f"the reward gave {len(rewards)} numbers for {len(images)} images")
    if not all(map(math.isfinite, rewards)):
        raise RowFailure("reward_not_finite", f"the rewards of the candidates are {rewards}")
    return _Candidates(images, seeds, rewards, network.calls)


def _set_in_motion(
    prompt: Prompt,
    options: SynthesisOptions,
    adapter: ModelAdapter,
    anchor: torch.Tensor,
    announce: Callable[[str], object],
) -> tuple[torch.Tensor, dict[str, int]]:
    """The frames of the clip, ``[F, H, W, 3]`` uint8, and the network calls of each of the later stages.

    Pixels are repeated, not latents: a causal video VAE has other latents for the first frame than for the same frame
    again.
    """
    announce(STAGES[1])
    frames = anchor.expand(options.clips.frames, *anchor.shape)
    latents = adapter.encode(frames[None])
    check_finite(latents, "the anchor")
    levels = adapter.levels(options.num_inference_steps, adapter.rules.latent_shape(*frames.shape[:3]))
    noise = [draw(seed_of(options.seed, prompt.id, name), latents.shape).to(adapter.device) for name in STAGES[1:]]
    moving = MeteredNetwork(adapter.network(prompt.text, options.animate.guidance_scale), adapter.device)
    how = options.animate
    latents = animate(moving, latents, noise[0], levels, until=how.until, step_size=how.step_size)
    check_finite(latents, "the clip set in motion")
    announce(STAGES[2])
    anew = MeteredNetwork(adapter.network(prompt.text, options.regenerate.guidance_scale), adapter.device)
    latents = regenerate(anew, latents, noise[1], levels_from(levels, options.regenerate.from_))
    check_finite(latents, "the clip")
    made = adapter.decode(latents)[0]
    if made.shape != frames.shape:  # (as CogVideoX does with even numbers of latent frames)
        raise RowFailure("wrong_shape", f"the model gave {list(made.shape)} back for frames {list(frames.shape)}")
    return made, {STAGES[1]: moving.calls, STAGES[2]: anew.calls}


def _said(options: SynthesisOptions) -> dict[str, Any]:
    """What decided how the clip came out, under the names that options are written by."""
    said: dict[str, Any] = {name: getattr(options, name) for name in ("num_inference_steps", "precision", "seed")}
    for section in ("images", "reward", "animate", "regenerate"):
        values = output_options(getattr(options, section))
        said[section] = {written_name(name): value for name, value in values.items()}
    return said
