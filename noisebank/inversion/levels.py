"""The noise levels of a sampler, read from the forward scheduler object that the generator will use.

An inversion undoes the steps that the pipeline really takes, so its levels are mirrored from the scheduler after the
pipeline's own way of setting the timesteps, never from an ideal grid: DDIM always steps from ``t`` to
``t - num_train_timesteps // num_inference_steps``, whatever the next timestep is.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]

LARGEST_SCALE = 1e4
"""A step that scales latents by more, in either direction, leaves nothing of them in float32."""


@dataclass(frozen=True, eq=False)
class Levels:
    """The steps of one deterministic sampler, in the order of the forward pass (noise first).

    Every step is affine in the latents and a direction ``m``, which is what the network predicts (sample prediction is
    turned into v first), so one pair of numbers a step is all that sampling and inversion need::

        z_t = scale * z_prev + gain * m(z_t, t)            inversion
        z_prev = (z_t - gain * m(z_t, t)) / scale          sampling

    Args:
        prediction_type: what the network predicts.
        timesteps: ``[T]``, as the network takes them (int64, or float32 for flow matching).
        level_t: ``[T]`` float64, the level that a step starts from: the cumulative product of the alphas, or sigma
            for flow matching.
        level_prev: ``[T]`` float64, the (cleaner) level that it arrives at.

    Raises:
        ValueError: a step cannot be inverted, such as epsilon prediction at zero signal-to-noise ratio.
    """

    prediction_type: PredictionType
    timesteps: torch.Tensor
    level_t: torch.Tensor
    level_prev: torch.Tensor

    def __post_init__(self) -> None:
        if self.prediction_type not in get_args(PredictionType):
            raise ValueError(f"prediction_type {self.prediction_type!r} is not one of {get_args(PredictionType)}")
        scale, gain = self.coefficients()
        for step in range(len(self)):
            if not (1 / LARGEST_SCALE < scale[step] < LARGEST_SCALE and torch.isfinite(gain[step])):
                raise ValueError(
                    f"step {step + 1} of {len(self)}, from level {self.level_t[step]:.3g} to "
                    f"{self.level_prev[step]:.3g}, cannot be inverted by {self.prediction_type} (at zero "
                    "signal-to-noise ratio epsilon says nothing of the clip, nor does v in a single step); take more "
                    "steps or another schedule"
                )

    def __len__(self) -> int:
        return len(self.timesteps)

    def coefficients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``scale`` and ``gain`` of every step, each ``[T]`` float64.

        With ``a = level_t`` and ``p = level_prev`` (DDIM, arXiv 2010.02502, Eq. 12 at sigma 0, solved for ``z_t``)::

            epsilon  z_t = sqrt(a/p) z_p + (sqrt(1-a) - sqrt(a (1-p)/p)) eps
            v        z_t = (z_p + sin(D) v) / cos(D),  D = th_t - th_p,  th = atan2(sqrt(1-a), sqrt(a))
            sample   as v, with v = (sqrt(a) z_t - x0) / sqrt(1-a)
            flow     z_t = z_p + (sigma_t - sigma_p) v

        The v form by angles stays finite at zero terminal signal-to-noise ratio (``a = 0``). Sample prediction solved
        for ``z_t`` directly would not contract at the clean end, where ``x0`` moves with ``z_t``.
        """
        a, p = self.level_t, self.level_prev
        if self.prediction_type == "flow":
            return torch.ones_like(a), a - p
        if self.prediction_type == "epsilon":
            return (a / p).sqrt(), (1 - a).sqrt() - (a * (1 - p) / p).sqrt()
        angle = torch.atan2((1 - a).sqrt(), a.sqrt()) - torch.atan2((1 - p).sqrt(), p.sqrt())
        return 1 / angle.cos(), angle.tan()

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Clean ``latents`` diffused to the noisiest level: ``sqrt(a) z + sqrt(1-a) n``, or ``(1-s) z + s n``."""
        level = float(self.level_t[0])
        if self.prediction_type == "flow":
            return (1 - level) * latents + level * noise
        return math.sqrt(level) * latents + math.sqrt(1 - level) * noise

    def describe(self) -> dict[str, Any]:
        """The levels as JSON values; :func:`levels_digest` of it tells whether two samplers take the same steps."""
        return {
            "prediction_type": self.prediction_type,
            "timesteps": [round(float(t), 4) for t in self.timesteps],
            "level_t": [float(f"{level:.7g}") for level in self.level_t],
            "level_prev": [float(f"{level:.7g}") for level in self.level_prev],
        }


def levels_digest(description: dict[str, Any]) -> str:
    """16 hexadecimal digits that stand for the steps in :meth:`Levels.describe`."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def levels_from_scheduler(scheduler: Any) -> Levels:
    """Mirror the steps of a deterministic diffusers scheduler.

    Args:
        scheduler: a ``DDIMScheduler``, ``CogVideoXDDIMScheduler`` or ``FlowMatchEulerDiscreteScheduler`` after the
            ``set_timesteps`` that its pipeline's ``__call__`` does. They start from noise of unit variance, so the
            inverted ``z_T`` is what ``latents=`` wants.

    Raises:
        ValueError: the scheduler's steps are not deterministic and invertible (it clips, thresholds or samples), or
            start beyond the last timestep of the training, or end before the first.
    """
    name, config = type(scheduler).__name__, scheduler.config
    timesteps = scheduler.timesteps.detach().cpu()
    if name == "FlowMatchEulerDiscreteScheduler":
        if config.get("stochastic_sampling"):
            raise ValueError(f"{name} with stochastic_sampling cannot be inverted; set it to False")
        sigmas = scheduler.sigmas.detach().cpu().double()
        return Levels("flow", timesteps, sigmas[:-1], sigmas[1:])
    if name not in ("DDIMScheduler", "CogVideoXDDIMScheduler"):
        raise ValueError(
            f"scheduler {name} has no inversion; use DDIMScheduler, CogVideoXDDIMScheduler or "
            "FlowMatchEulerDiscreteScheduler made from its config"
        )
    for option in ("clip_sample", "thresholding"):
        # CogVideoXDDIMScheduler has the option but never clips.
        if config.get(option) and name == "DDIMScheduler":
            raise ValueError(f"{name} with {option}=True discards information and cannot be inverted; set it to False")
    alphas_cumprod = scheduler.alphas_cumprod.detach().cpu().double()
    if int(timesteps.max()) >= len(alphas_cumprod):
        raise ValueError(
            f"{name} starts at timestep {int(timesteps.max())}, beyond the last of the training "
            f"({len(alphas_cumprod) - 1}); take fewer steps"
        )
    if int(timesteps.min()) < 0:
        raise ValueError(
            f"{name} with timestep_spacing {config.timestep_spacing!r} rounds to {len(timesteps)} timesteps, the last "
            f"of them {int(timesteps.min())}, which it takes for the noisiest: nothing is generated so; take one step "
            "more or less"
        )
    previous = timesteps - config.num_train_timesteps // scheduler.num_inference_steps
    level_prev = torch.where(
        previous >= 0, alphas_cumprod[previous.clamp(min=0)], scheduler.final_alpha_cumprod.detach().cpu().double()
    )
    return Levels(cast(PredictionType, config.prediction_type), timesteps, alphas_cumprod[timesteps], level_prev)
