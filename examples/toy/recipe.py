"""What the training is made of: every number that decides what comes out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Sizes and lengths of the training; another seed gives another world and another model."""

    seed: int = 0
    threads: int = 1
    checkpoint_seconds: int = 120

    vae_steps: int = 4000
    vae_batch: int = 16
    vae_rate: float = 2e-3
    kl_weight: float = 1e-4

    clips: int = 16_000
    steps: int = 20_000
    batch: int = 32
    rate: float = 8e-4
    ema_decay: float = 0.9995
    caption_dropout: float = 0.1
    word_dropout: float = 0.02
    snr_limit: float = 5.0

    overfit_steps: int = 600
    overfit_clips: int = 16

    judged_clips: int = 400
    evaluate_every: int = 1000
    evaluated_prompts: int = 48
    inference_steps: int = 20
    guidance_scale: float = 5.0
