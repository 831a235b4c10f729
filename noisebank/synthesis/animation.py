"""From a still clip to one that moves: noise-invariant video score distillation (NI-VSDS) and regeneration, both of
I4VGen (arXiv 2406.02230), over the levels that the model's own sampler steps through.

A level is written ``x = a v + s eps``: ``a = sqrt(abar)`` and ``s = sqrt(1 - abar)``, or ``1 - sigma`` and ``sigma``
for flow matching. Latents keep their dtype; the levels are Python floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from noisebank.errors import ConfigError
from noisebank.inversion.inverters import Network, reconstruct
from noisebank.inversion.levels import Levels


def count_steps(steps: int, share: float) -> int:
    """``Int(T p)``: the steps of a share; with room for rounding, for 50 x 0.58 is 28.999999999999996.

    >>> count_steps(50, 0.58), count_steps(25, 0.4)
    (29, 10)
    """
    return math.floor(steps * share + 1e-9)


def signal_and_noise(levels: Levels, step: int) -> tuple[float, float]:
    """``a`` and ``s`` of the level that a step starts from."""
    level = float(levels.level_t[step])
    if levels.prediction_type == "flow":
        return 1 - level, level
    return math.sqrt(level), math.sqrt(1 - level)


def predicted_noise(levels: Levels, step: int, noisy: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """The noise that a prediction ``m`` at ``x`` stands for.

    ``m`` for epsilon, ``a m + s x`` for v, ``x + a m`` for flow matching, ``(x - a m) / s`` for the sample.

    Args:
        levels: of the sampler.
        step: whose level ``x`` is at.
        noisy: ``x``, ``[B, C, F, H, W]``.
        prediction: ``m``, of its shape.
    """
    a, s = signal_and_noise(levels, step)
    if levels.prediction_type == "epsilon":
        return prediction
    if levels.prediction_type == "v_prediction":
        return a * prediction + s * noisy
    if levels.prediction_type == "flow":
        return noisy + a * prediction
    return (noisy - a * prediction) / s


def step_size_at(step_size: float | Sequence[float], step: int) -> float:
    """The step size of a step; the last of a sequence holds for the steps after it."""
    if isinstance(step_size, Sequence):
        return step_size[min(step, len(step_size) - 1)]
    return step_size


def overshooting_steps(levels: Levels, until: float, step_size: float | Sequence[float]) -> list[int]:
    """The steps of :func:`animate` that would move away from a point: ``|1 - alpha s a| >= 1``."""
    found = []
    for step in range(len(levels) - count_steps(len(levels), until)):
        a, s = signal_and_noise(levels, step)
        if step_size_at(step_size, step) * s * a >= 2:
            found.append(step)
    return found


def animate(
    network: Network,
    latents: torch.Tensor,
    noise: torch.Tensor,
    levels: Levels,
    *,
    until: float = 0.4,
    step_size: float | Sequence[float] = 1.0,
) -> torch.Tensor:
    """NI-VSDS: moves the latents of a still clip towards what the video model knows, under one fixed noise.

    For each of the first ``T - Int(T until)`` steps, noisiest first (I4VGen, Sec. 3.2)::

        v <- v - alpha w_t (eps_hat(a v + s eps, t) - eps),    w_t = 1 - abar_t = s^2

    A level without signal (``a = 0``) is skipped: its gradient is exactly 0.

    Args:
        network: the video model's prediction, guided by the prompt.
        latents: ``v``, ``[B, C, F, H, W]``, scaled.
        noise: ``eps``, of the same shape; the same at every step, which is what makes the gradient small where ``v``
            is already likely.
        levels: of the sampler.
        until: ``p``, the share of the steps, at the clean end, that are left out.
        step_size: ``alpha``, one for all steps, or one for each of the first steps.

    Returns:
        The latents afterwards.
    """
    with torch.inference_mode():
        for step in range(len(levels) - count_steps(len(levels), until)):
            a, s = signal_and_noise(levels, step)
            if a == 0:
                continue
            noisy = a * latents + s * noise
            timestep = levels.timesteps[step].to(latents.device).expand(len(latents))
            gradient = predicted_noise(levels, step, noisy, network(noisy, timestep)) - noise
            latents = latents - step_size_at(step_size, step) * s**2 * gradient
    return latents


def levels_from(levels: Levels, share: float) -> Levels:
    """The last ``Int(T share)`` steps, from which :func:`regenerate` starts.

    Raises:
        ConfigError: there is none, or the first of them has no signal (``a = 0``), so that nothing of the latents would
            be left; says what would do.
    """
    steps = len(levels)
    first = steps - count_steps(steps, share)
    if first == steps:
        raise ConfigError(f"regenerate.from: {share:g} of {steps} steps is none; at least {1 / steps:g} is wanted")
    if signal_and_noise(levels, first)[0] == 0:
        most = next((steps - step) for step in range(first, steps) if signal_and_noise(levels, step)[0]) / steps
        raise ConfigError(
            f"regenerate.from: {share:g} is not allowed: this model's sampler starts from noise alone (a = 0), and "
            f"nothing of the anchor would be left; at most {most:g}"
        )
    parts = (values[first:] for values in (levels.timesteps, levels.level_t, levels.level_prev))
    return Levels(levels.prediction_type, *parts)


def regenerate(network: Network, latents: torch.Tensor, noise: torch.Tensor, levels: Levels) -> torch.Tensor:
    """Adds fresh noise to the first of ``levels`` (:func:`levels_from`) and denoises through them.

    From 1.0 it is ``pipe(latents=add_noise(v))``.

    Args:
        network: the video model's prediction, guided by the prompt.
        latents: ``[B, C, F, H, W]`` float32, scaled.
        noise: fresh, of the same shape.
        levels: the steps to take.
    """
    return reconstruct(network, levels.add_noise(latents, noise), levels)
