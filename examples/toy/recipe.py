"""What the training is made of: every number that decides what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from noisebank.errors import ConfigError

WARM_UP = 100
"""Steps in which a learning rate rises."""
DECAY = 0.5
"""Share of the steps at the end in which it falls."""
SETTLE = 0.25
"""Share of the steps, from where it begins to fall, in which the loss turns from the first power to the last."""
POWERS = (1.0, 0.5)
"""Of :class:`~examples.toy.denoiser.Levels`: first what a clip shows, then more of how it looks."""


def _part(default: float, said: str, least: float = 1, resumable: bool = False) -> Any:
    """One number of the recipe.

    Args:
        default: its value.
        said: what it is.
        least: smallest value that makes sense.
        resumable: whether a training that has begun can go on with another value.
    """
    return field(default=default, metadata={"help": said, "least": least, "resumable": resumable})


@dataclass(frozen=True)
class Recipe:
    """Sizes and lengths of the training; another seed gives another world and another model."""

    seed: int = _part(0, "of the world, the first weights, and all that is drawn", least=0)
    threads: int = _part(1, "of torch", resumable=True)
    checkpoint_seconds: int = _part(120, "between saved states", resumable=True)

    vae_crop_steps: int = _part(1500, "autoencoder: first steps, on pieces of frames around the thing", least=0)
    vae_crop: int = _part(32, "autoencoder: pixels of such a piece's side", least=8)
    vae_crop_batch: int = _part(32, "autoencoder: pieces in a batch")
    vae_steps: int = _part(2400, "autoencoder: steps in all", resumable=True)
    vae_batch: int = _part(16, "autoencoder: whole frames in a batch")
    vae_rate: float = _part(1.5e-3, "autoencoder: highest learning rate", least=0)
    kl_weight: float = _part(1e-4, "autoencoder: weight of the KL divergence", least=0)
    saturation_weight: float = _part(4.0, "autoencoder: how much more the error of saturated pixels weighs", least=0)

    clips: int = _part(10_000, "clips that are trained on")
    steps: int = _part(4_500, "UNet and text encoder: steps", resumable=True)
    batch: int = _part(16, "UNet and text encoder: clips in a batch")
    rate: float = _part(8e-4, "UNet and text encoder: highest learning rate", least=0)
    ema_decay: float = _part(0.9995, "of the averaged weights", least=0)
    caption_dropout: float = _part(0.1, "share of the clips that are trained without a caption", least=0)
    word_dropout: float = _part(0.02, "share of a caption's words that are made unknown ones", least=0)

    overfit_steps: int = _part(1800, "gate: steps of the networks on a few clips alone", resumable=True)
    overfit_clips: int = _part(16, "gate: how many clips those are")

    judged_clips: int = _part(400, "gates: clips that the judge is measured on")
    evaluate_every: int = _part(1500, "steps between readings of samples")
    evaluated_prompts: int = _part(48, "prompts of such a reading")
    inference_steps: int = _part(20, "of samples")
    guidance_scale: float = _part(5.0, "of samples")

    def __post_init__(self) -> None:
        for part in fields(self):
            value, least = getattr(self, part.name), part.metadata["least"]
            if not value >= least:
                raise ConfigError(f"{part.name.replace('_', '-')}: {value:g}, at least {least:g} is wanted")


def shape_rate(step: int, steps: int) -> float:
    """Share of the full learning rate at a step: rises, stays, and falls to nothing in straight lines."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (DECAY * steps))


def shape_power(step: int, steps: int) -> float:
    """Power of the loss at a step: the first, and in a straight line the last."""
    first, last = POWERS
    turned = (step / steps - (1 - DECAY)) / SETTLE
    return first + (last - first) * min(1.0, max(0.0, turned))
