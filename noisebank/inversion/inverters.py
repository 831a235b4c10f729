"""From clean latents to the noise that a deterministic sampler turns back into them.

All inverters work on canonical latents ``[B, C, F, H, W]`` in float32 and know the network only as a callable, so
they serve every model family. To add one, write a function with the signature of :func:`ddim` and register it
(:func:`register_inverter`), if need be with options of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from noisebank.inversion.anderson import MEMORY, mix_iterates
from noisebank.inversion.levels import Levels
from noisebank.options import NoiseOptions, register_options

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``network(latents [B, C, F, H, W] float32, timestep [B]) -> prediction [B, C, F, H, W] float32``."""

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 1e-2}
"""Default stop of ``fixed-point`` by the dtype of the network, whose rounding is the floor of the residual."""

STALL = 0.75
"""A step stalls where the residual stays above this share of the one before.

The cleanest step of a video model contracts by 0.5 to 0.65 an iteration: asking the residual to halve would be asking
too much of it (docs/inversion.md).
"""

PATIENCE = 6
"""A step that stalls is left when so many calls in a row did not bring its lowest residual down to :data:`STALL` of
itself."""

MORE = 6
"""A step that stalls may take so many times ``max_iterations``: few do, and they decide the error of the whole."""

UNEVEN = 3
"""Steps at the clean end from whose outputs no straight line is drawn on: there they change too much."""


@dataclass(frozen=True)
class Inversion:
    """What an inverter found.

    Args:
        noise: ``[B, C, F, H, W]`` float32, ready for ``latents=`` (in the pipeline's layout).
        network_calls: batched network evaluations.
        calls: ``[B]`` int64, network evaluations that each clip needed.
        residuals: ``[T, B]`` float32, ``|F(y) - y| / |F(y)|`` when each step was left, rows as ``Levels.timesteps``.
        stalled: ``[B]`` int64, steps that were left above the tolerance.
    """

    noise: torch.Tensor
    network_calls: int
    calls: torch.Tensor
    residuals: torch.Tensor
    stalled: torch.Tensor


Generators = Sequence[torch.Generator] | None
"""One a clip, for inverters that draw noise."""

Inverter = Callable[[Network, torch.Tensor, Levels, Any, Generators], Inversion]
"""``inverter(network, latents [B, C, F, H, W] float32, levels, options, generators)``, with one generator a clip, if
any. The options are of the class that it was registered with; ``tolerance`` is set, and what it has no use for it
ignores."""

INVERTERS: dict[str, Inverter] = {}


def register_inverter(name: str, options: type[NoiseOptions] = NoiseOptions) -> Callable[[Inverter], Inverter]:
    """Decorator that makes an inverter selectable as ``inverter: <name>``.

    Args:
        name: of the inverter.
        options: a dataclass that extends :class:`~noisebank.options.NoiseOptions` by options of the inverter's own.
    """

    def register(inverter: Inverter) -> Inverter:
        register_options("noise", name, options, inverter.__module__)
        INVERTERS[name] = inverter
        return inverter

    return register


def invert(
    network: Network,
    latents: torch.Tensor,
    levels: Levels,
    options: NoiseOptions = NoiseOptions(),
    *,
    dtype: torch.dtype = torch.float32,
    generators: Generators = None,
) -> Inversion:
    """Invert a batch of clean latents.

    Args:
        network: the model's prediction; see :data:`Network`.
        latents: ``[B, C, F, H, W]``, as the pipeline would hand them to its decoder (scaled).
        levels: the steps to undo.
        options: ``inverter`` is one of :data:`INVERTERS`; ``tolerance`` the relative residual at which ``fixed-point``
            leaves a step, by default :data:`TOLERANCE` of ``dtype``; ``max_iterations`` its most network evaluations a
            step for one clip (:data:`MORE` times as many where the step stalls).
        dtype: dtype in which the network computes; the latents stay in float32.
        generators: one a clip, for inverters that draw noise.

    Raises:
        ValueError: unknown inverter, or latents of the wrong rank.
    """
    inverter = options.inverter
    if inverter not in INVERTERS:
        raise ValueError(f"inverter {inverter!r} is not known; choose one of {', '.join(sorted(INVERTERS))}")
    if latents.ndim != 5:
        raise ValueError(f"latents must be [B, C, F, H, W], not of shape {tuple(latents.shape)}")
    if options.max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, not {options.max_iterations}")
    if options.tolerance is None:
        options = replace(options, tolerance=TOLERANCE[dtype])
    with torch.inference_mode():
        return INVERTERS[inverter](network, latents.float(), levels, options, generators)


@register_inverter("ddim")
def ddim(
    network: Network, latents: torch.Tensor, levels: Levels, options: NoiseOptions, generators: Generators
) -> Inversion:
    """One call a step, evaluated at the cleaner latents: Eq. 2 of the ONA paper (arXiv 2311.00949), or Euler's
    method backwards for flow matching."""
    assert options.tolerance is not None  # (invert sets it)
    steps, batch = Steps(levels, latents.device), len(latents)
    residuals = latents.new_zeros(len(levels), batch)
    for step in reversed(range(len(levels))):
        at = torch.full((batch,), step, device=latents.device)
        previous = latents
        latents = steps.noisier(previous, steps.direction(network, previous, at), at)
        residuals[step] = relative_error(previous, latents)
    calls = torch.full((batch,), len(levels))
    return Inversion(latents, len(levels), calls, residuals.cpu(), (residuals > options.tolerance).sum(0).cpu())


@register_inverter("fixed-point")
def fixed_point(
    network: Network, latents: torch.Tensor, levels: Levels, options: NoiseOptions, generators: Generators
) -> Inversion:
    """Solve ``z_t = F(z_t) = scale z_prev + gain m(z_t, t)`` at every step by iterating ``y <- F(y)``.

    A step starts from the network's output at the previous step (at the clean end, from ``z_prev``), later ones from
    the straight line through those at the last two (:data:`UNEVEN`). A clip leaves it when its residual
    ``|F(y) - y| / |F(y)|`` is at most ``tolerance``, or after ``max_iterations``. Where it stalls (:data:`STALL`), or
    would not be done by then, the last iterates are combined (:func:`~noisebank.inversion.anderson.mix_iterates`), for
    as long as that helps (:data:`PATIENCE`) and at most :data:`MORE` times as many calls. A step that is left above the
    tolerance keeps the best that it had.
    Every clip goes its own way through the steps (the network takes one timestep a clip), so its result does not
    depend on its batch mates, and a batch needs the calls of its slowest clip, not the slowest clip of every step.
    """
    assert options.tolerance is not None  # (invert sets it)
    steps, batch = Steps(levels, latents.device), len(latents)
    clips = torch.arange(batch, device=latents.device)
    step = torch.full((batch,), len(levels) - 1, device=latents.device)
    calls, stalled = torch.zeros_like(step), torch.zeros_like(step)
    residuals = latents.new_zeros(len(levels), batch)
    progress = _Progress(batch, options.tolerance, options.max_iterations, latents.device)
    pairs: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=MEMORY + 1)
    estimate = best = latents
    before = torch.zeros_like(latents)
    network_calls = 0
    # No clip can be through before T calls: until then the host need not wait for the device.
    while network_calls < len(levels) or bool((step >= 0).any()):
        active, at = step >= 0, step.clamp(min=0)
        direction = steps.direction(network, estimate, at)
        network_calls += 1
        update = steps.noisier(latents, direction, at)
        pairs.append((estimate, update))
        best = torch.where(_per_clip(progress.note(relative_error(estimate, update))), update, best)
        calls += active
        left = active & progress.is_over()
        residuals[at, clips] = torch.where(active, progress.lowest, residuals[at, clips])
        stalled += left & ~progress.is_converged()
        estimate = torch.where(_per_clip(progress.mixing), mix_iterates(pairs, progress.iteration), update)
        step = step - left.long()
        latents = torch.where(_per_clip(left), best, latents)
        at = step.clamp(min=0)
        warm_start = steps.noisier(latents, steps.extrapolate(direction, before, at), at)
        before = torch.where(_per_clip(left), direction, before)
        estimate = torch.where(_per_clip(left & (step >= 0)), warm_start, estimate)
        progress.restart(left)
    return Inversion(latents, network_calls, calls.cpu(), residuals.cpu(), stalled.cpu())


class _Progress:
    """How the iteration of the step goes that each clip is at; all are ``[B]``."""

    def __init__(self, batch: int, tolerance: float, max_iterations: int, device: torch.device) -> None:
        self.tolerance, self.max_iterations = tolerance, max_iterations
        self.iteration = torch.zeros(batch, dtype=torch.int64, device=device)
        self.residual = torch.full((batch,), float("inf"), device=device)
        self.lowest, self.milestone = self.residual, self.residual
        self.idle = torch.zeros_like(self.iteration)
        self.mixing = self.idle.bool()

    def note(self, residual: torch.Tensor) -> torch.Tensor:
        """Takes in the residuals of one more iteration; says which are the lowest so far (NaN is, to be seen)."""
        self.iteration = self.iteration + 1
        pace = torch.div(residual, self.residual)  # (0 at the first)
        final = residual * pace ** (self.max_iterations - self.iteration)
        late = (self.iteration >= 4) & (final > self.tolerance)
        self.mixing = self.mixing | ((pace > STALL) | late) & (self.iteration < self.max_iterations)
        moved = residual <= STALL * self.milestone
        self.milestone = torch.where(moved, residual, self.milestone)
        self.idle = torch.where(moved, 0, self.idle + 1)
        is_lowest = ~(residual >= self.lowest)
        self.lowest = torch.where(is_lowest, residual, self.lowest)
        self.residual = residual
        return is_lowest

    def is_converged(self) -> torch.Tensor:
        """Which are within the tolerance."""
        return self.residual <= self.tolerance

    def is_over(self) -> torch.Tensor:
        """Which are to be left: converged, or there is nothing to be gained by more calls."""
        hopeless = (self.idle >= PATIENCE) | ~torch.isfinite(self.residual)
        most = torch.where(self.mixing, MORE * self.max_iterations, self.max_iterations)
        return self.is_converged() | hopeless | (self.iteration >= most)

    def restart(self, left: torch.Tensor) -> None:
        """Begins anew for those that are at another step."""
        self.iteration = torch.where(left, 0, self.iteration)
        self.idle = torch.where(left, 0, self.idle)
        self.mixing = self.mixing & ~left
        infinite = torch.full_like(self.residual, float("inf"))
        self.residual = torch.where(left, infinite, self.residual)
        self.lowest = torch.where(left, infinite, self.lowest)
        self.milestone = torch.where(left, infinite, self.milestone)


@register_inverter("diffuse")
def diffuse(
    network: Network, latents: torch.Tensor, levels: Levels, options: NoiseOptions, generators: Generators
) -> Inversion:
    """Add fresh noise to the clean latents: the control without a network call that inversion has to beat.

    At zero terminal signal-to-noise ratio and for flow matching from sigma 1 nothing of the clip is left.

    Raises:
        ValueError: no generator for every clip; the noise would not be reproducible.
    """
    if generators is None or len(generators) != len(latents):
        raise ValueError(f"diffuse needs one generator a clip, {len(latents)}, not {len(generators or ())}")
    noise = torch.stack(
        [
            torch.randn(clip.shape, generator=generator, device=generator.device, dtype=torch.float32)
            for clip, generator in zip(latents, generators, strict=True)
        ]
    )
    none = torch.zeros(len(latents), dtype=torch.int64)
    residuals = torch.zeros(len(levels), len(latents))
    return Inversion(levels.add_noise(latents, noise.to(latents.device)), 0, none, residuals, none)


def reconstruct(network: Network, noise: torch.Tensor, levels: Levels) -> torch.Tensor:
    """Sample deterministically: from ``noise`` ``[B, C, F, H, W]`` to clean latents, by the forward steps."""
    with torch.inference_mode():
        latents = noise.float()
        steps = Steps(levels, latents.device)
        for step in range(len(levels)):
            at = torch.full((len(latents),), step, device=latents.device)
            latents = steps.cleaner(latents, steps.direction(network, latents, at), at)
        return latents


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """``|found - expected| / |expected|`` of every clip, ``[B]`` float32."""
    difference = torch.linalg.vector_norm((found - expected).flatten(1), dim=1)
    return torch.div(difference, torch.linalg.vector_norm(expected.flatten(1), dim=1))


def _per_clip(values: torch.Tensor) -> torch.Tensor:
    """``[B]`` as ``[B, 1, 1, 1, 1]``."""
    return values.view(-1, 1, 1, 1, 1)


def _stretch(timesteps: torch.Tensor) -> torch.Tensor:
    """How far each step lies from the one that is inverted before it, in terms of how far that lies from its own; 0 for
    the first :data:`UNEVEN`. ``[T]`` float32, as ``Levels.timesteps``."""
    stretch = torch.zeros(len(timesteps), device=timesteps.device)
    drawn = max(0, len(timesteps) - UNEVEN)
    ways = timesteps.float().diff()
    stretch[:drawn] = torch.div(ways[:-1], ways[1:])[:drawn]
    return stretch


class Steps:
    """The steps of :class:`Levels` on a device; ``at`` is the step that each clip is at, ``[B]`` int64."""

    def __init__(self, levels: Levels, device: torch.device) -> None:
        self.timesteps = levels.timesteps.to(device)
        self.scale, self.gain = (values.to(device, torch.float32) for values in levels.coefficients())
        self.stretch = _stretch(self.timesteps)
        self.alpha_bar = levels.level_t.to(device, torch.float32) if levels.prediction_type == "sample" else None

    def direction(self, network: Network, latents: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """What the network predicts at the noisier end of the step, ``latents``; v for sample prediction."""
        prediction = network(latents, self.timesteps[at])
        if self.alpha_bar is None:
            return prediction
        alpha_bar = _per_clip(self.alpha_bar[at])
        return torch.div(alpha_bar.sqrt() * latents - prediction, (1 - alpha_bar).sqrt())

    def extrapolate(self, direction: torch.Tensor, before: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """What is to be expected at a step: on from the ``direction`` at the last step and that ``before`` it."""
        return direction + _per_clip(self.stretch[at]) * (direction - before)

    def noisier(self, latents: torch.Tensor, direction: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """From the clean end of the step to the noisy one: inversion."""
        return _per_clip(self.scale[at]) * latents + _per_clip(self.gain[at]) * direction

    def cleaner(self, latents: torch.Tensor, direction: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """From the noisy end of the step to the clean one: sampling."""
        return torch.div(latents - _per_clip(self.gain[at]) * direction, _per_clip(self.scale[at]))
