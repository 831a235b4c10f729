"""What the training is made of: every number that decides what comes out."""

from __future__ import annotations

from dataclasses import dataclass

WARM_UP = 100
"""Steps in which a learning rate rises."""
DECAY = 0.5
"""Share of the steps at the end in which it falls."""
SETTLE = 0.25
"""Share of the steps, from where it begins to fall, in which the loss turns from the first power to the last."""
POWERS = (1.0, 0.5)
"""Of :class:`~examples.toy.denoiser.Levels`: first what a clip shows, then more of how it looks."""


@dataclass(frozen=True)
class Recipe:
    """Sizes and lengths of the training; another seed gives another world and another model."""

    seed: int = 0
    threads: int = 1
    checkpoint_seconds: int = 120

    vae_crop_steps: int = 1500
    """First steps, on pieces of frames around the thing: a quarter of the pixels, and most of what is to be learned."""
    vae_crop: int = 32
    vae_crop_batch: int = 32
    vae_steps: int = 2400
    vae_batch: int = 16
    vae_rate: float = 1.5e-3
    kl_weight: float = 1e-4
    saturation_weight: float = 4.0

    clips: int = 10_000
    steps: int = 4_500
    batch: int = 16
    rate: float = 8e-4
    ema_decay: float = 0.9995
    caption_dropout: float = 0.1
    word_dropout: float = 0.02

    overfit_steps: int = 1800
    overfit_clips: int = 16

    judged_clips: int = 400
    evaluate_every: int = 1500
    evaluated_prompts: int = 48
    inference_steps: int = 20
    guidance_scale: float = 5.0


def shape_rate(step: int, steps: int) -> float:
    """Share of the full learning rate at a step: rises, stays, and falls to nothing in straight lines."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (DECAY * steps))


def shape_power(step: int, steps: int) -> float:
    """Power of the loss at a step: the first, and in a straight line the last."""
    first, last = POWERS
    turned = (step / steps - (1 - DECAY)) / SETTLE
    return first + (last - first) * min(1.0, max(0.0, turned))
