"""NI-VSDS and regeneration against what can be worked out by hand: a linear network, a point, a Gaussian mixture."""

from __future__ import annotations

import math

import pytest
import torch

from noisebank.errors import ConfigError
from noisebank.inversion import Levels
from noisebank.synthesis.animation import (
    animate,
    count_steps,
    levels_from,
    overshooting_steps,
    predicted_noise,
    regenerate,
    signal_and_noise,
)

SHAPE = (2, 3, 4, 5, 6)
STEPS = 10


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels_of(prediction_type: str, steps: int = STEPS) -> Levels:
    """Levels of a made-up sampler; the first of flow matching has no signal."""
    timesteps = torch.arange(steps, 0, -1) * 90
    if prediction_type == "flow":
        sigmas = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return Levels("flow", timesteps.float(), sigmas[:-1], sigmas[1:])
    abar = torch.cos(torch.linspace(1.5, 0.02, steps + 1, dtype=torch.float64)) ** 2
    return Levels(prediction_type, timesteps, abar[:-1], abar[1:])  # type: ignore[arg-type]


TYPES = ("epsilon", "v_prediction", "flow", "sample")


def as_prediction(levels: Levels, step: int, noisy: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """What a network of this type predicts where it takes ``noise`` for the noise of ``x = a x0 + s noise``."""
    a, s = signal_and_noise(levels, step)
    clean = (noisy - s * noise) / a
    forms = {"epsilon": noise, "v_prediction": a * noise - s * clean, "flow": noise - clean, "sample": clean}
    return forms[levels.prediction_type]


class Network:
    """A network of any prediction type, made of a function from noisy latents and step to the noise in them."""

    def __init__(self, levels: Levels, noise_in: object) -> None:
        self.levels, self.noise_in, self.steps = levels, noise_in, list[int]()

    def __call__(self, noisy: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        assert timestep.shape == (len(noisy),)
        (step,) = {self.levels.timesteps.tolist().index(t) for t in timestep.tolist()}
        self.steps.append(step)
        return as_prediction(self.levels, step, noisy, self.noise_in(noisy, step))  # type: ignore[operator]


@pytest.mark.parametrize("prediction_type", TYPES)
def test_every_prediction_type_stands_for_the_noise_that_was_added(prediction_type: str) -> None:
    levels = levels_of(prediction_type)
    for step in range(1, STEPS):
        a, s = signal_and_noise(levels, step)
        noise, noisy = drawn(1), a * drawn(0) + s * drawn(1)
        found = predicted_noise(levels, step, noisy, as_prediction(levels, step, noisy, noise))
        torch.testing.assert_close(found, noise, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("step_size", [0.7, [3.0, 2.0, 0.5]], ids=["one", "a list"])
def test_a_linear_network_follows_its_closed_form(prediction_type: str, step_size: float | list[float]) -> None:
    """``eps_hat(x) = c x``: ``v <- (1 - alpha s^2 c a) v - alpha s^2 (c s - 1) eps``, multiplied out to the end."""
    levels, c = levels_of(prediction_type), 0.3
    network = Network(levels, lambda noisy, step: c * noisy)
    moved = animate(network, drawn(0), drawn(1), levels, until=0.4, step_size=step_size)
    of_latents, of_noise = 1.0, 0.0
    for step in range(6):
        a, s = signal_and_noise(levels, step)
        if a == 0:
            continue
        alpha = step_size if isinstance(step_size, float) else step_size[min(step, 2)]
        of_latents, of_noise = ((1 - alpha * s * s * c * a) * x for x in (of_latents, of_noise))
        of_noise -= alpha * s * s * (c * s - 1)
    torch.testing.assert_close(moved, of_latents * drawn(0) + of_noise * drawn(1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_point_draws_the_latents_in_whatever_the_noise(prediction_type: str, seed: int) -> None:
    """Where all clips are one, ``mu``, ``v - mu`` shrinks by ``1 - alpha s a`` at every step."""
    levels, mu = levels_of(prediction_type), drawn(7)

    def noise_in(noisy: torch.Tensor, step: int) -> torch.Tensor:
        a, s = signal_and_noise(levels, step)
        return (noisy - a * mu) / s

    moved = animate(Network(levels, noise_in), drawn(0), drawn(seed), levels, until=0.2, step_size=1.0)
    left = math.prod(1 - math.prod(signal_and_noise(levels, step)) for step in range(8))
    assert 0.001 < left < 0.5
    torch.testing.assert_close(moved - mu, left * (drawn(0) - mu), rtol=0, atol=1e-13)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_a_step_is_the_gradient_of_a_known_density(prediction_type: str) -> None:
    """For a mixture of Gaussians, that of ``-(s^3/a) log p_t(a v + s eps) - s^2 <v, eps>``, by finite differences."""
    levels = levels_of(prediction_type, 4)
    shape = (1, 1, 1, 1, 3)
    centres = torch.randn(4, *shape[1:], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    latents, noise = drawn(0)[:1, :1, :1, :1, :3], drawn(1)[:1, :1, :1, :1, :3]

    def log_density(noisy: torch.Tensor, step: int) -> torch.Tensor:
        a, s = signal_and_noise(levels, step)
        squared = (noisy - a * centres).square().flatten(1).sum(1)
        return torch.logsumexp(-squared / (2 * (0.04 * a * a + s * s)), 0)

    def noise_in(noisy: torch.Tensor, step: int) -> torch.Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            at = noisy.clone().requires_grad_()
            (score,) = torch.autograd.grad(log_density(at, step), at)
        return -signal_and_noise(levels, step)[1] * score

    def objective(latents: torch.Tensor, step: int) -> float:
        a, s = signal_and_noise(levels, step)
        return (-(s**3) / a * log_density(a * latents + s * noise, step) - s * s * (latents * noise).sum()).item()

    before = animate(Network(levels, noise_in), latents, noise, levels, until=0.5)
    after = animate(Network(levels, noise_in), latents, noise, levels, until=0.25)
    for place in range(3):
        shift = torch.zeros(shape, dtype=torch.float64)
        shift[..., place] = 1e-5
        slope = (objective(before + shift, 2) - objective(before - shift, 2)) / 2e-5
        assert abs(slope) > 1e-3
        assert (before - after)[..., place].item() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(("prediction_type", "first"), [("epsilon", 0), ("flow", 1)])
def test_the_noisiest_steps_are_called_once_each_and_one_without_signal_not_at_all(
    prediction_type: str, first: int
) -> None:
    levels = levels_of(prediction_type)
    network = Network(levels, lambda noisy, step: noisy)
    animate(network, drawn(0), drawn(1), levels, until=0.3)
    assert network.steps == [*range(first, 7)]


def test_shares_of_steps_count_whole_ones() -> None:
    assert [count_steps(steps, share) for steps, share in [(25, 0.4), (25, 0.8), (50, 0.58), (100, 0.29)]] == [
        10,
        20,
        29,
        29,
    ]
    assert count_steps(10, 0.19) == 1


def test_regeneration_of_a_point_gives_the_point() -> None:
    levels, mu = levels_of("epsilon"), drawn(7).float()

    def noise_in(noisy: torch.Tensor, step: int) -> torch.Tensor:
        a, s = signal_and_noise(levels, step)
        return (noisy - a * mu) / s

    for share, steps in [(1.0, [*range(10)]), (0.8, [*range(2, 10)])]:
        network = Network(levels, noise_in)
        made = regenerate(network, drawn(0).float(), drawn(1).float(), levels_from(levels, share))
        a, s = math.sqrt(levels.level_prev[-1]), math.sqrt(1 - levels.level_prev[-1])
        noise = noise_in(levels_from(levels, share).add_noise(drawn(0).float(), drawn(1).float()), steps[0])
        torch.testing.assert_close(made, a * mu + s * noise, rtol=0, atol=1e-4)
        assert network.steps == steps


def test_a_sampler_that_starts_from_noise_alone_cannot_start_there() -> None:
    flow = levels_of("flow")
    with pytest.raises(ConfigError, match=r"regenerate.from: 1 is not allowed.*nothing of the anchor.*at most 0.9"):
        levels_from(flow, 1.0)
    assert len(levels_from(flow, 0.9)) == 9
    with pytest.raises(ConfigError, match=r"regenerate.from: 0.05 of 10 steps is none; at least 0.1 is wanted"):
        levels_from(flow, 0.05)


def test_step_sizes_that_would_overshoot_are_found() -> None:
    levels = levels_of("epsilon")
    assert overshooting_steps(levels, 0.0, 3.9) == []
    far = overshooting_steps(levels, 0.0, 6.0)
    assert far == [step for step in range(10) if 6.0 * math.prod(signal_and_noise(levels, step)) >= 2] and far
    assert overshooting_steps(levels, 0.0, [6.0] * (far[0] + 1) + [1.0]) == far[:1]
    assert overshooting_steps(levels, 1.0, 100.0) == []
