"""Levels are the forward scheduler's own, and their algebra is the scheduler's step solved for the other side."""

import json
import math

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from noisebank.inversion import Levels, levels_digest, levels_from_scheduler


def ddim(prediction_type="epsilon", spacing="leading", **options):
    options = {"clip_sample": False, "set_alpha_to_one": False, "beta_schedule": "scaled_linear"} | options
    return DDIMScheduler(prediction_type=prediction_type, timestep_spacing=spacing, **options)


def recorded_steps(scheduler, levels):
    """Run the scheduler itself with random predictions; yields what went in and what came out of every step."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 2, 4, 4, generator=generator, dtype=torch.float64)
    for i, t in enumerate(scheduler.timesteps):
        prediction = torch.randn(latents.shape, generator=generator, dtype=torch.float64)
        after = scheduler.step(prediction, t, latents, return_dict=False)[0].double()
        yield i, t, latents, prediction, after
        latents = after


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("num_inference_steps", [1, 7, 25, 50, 30])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_every_ddim_step_is_undone_by_its_own_pair(spacing, num_inference_steps, prediction_type):
    scheduler = ddim(prediction_type, spacing)
    scheduler.set_timesteps(num_inference_steps)
    levels = levels_from_scheduler(scheduler)
    scale, gain = levels.coefficients()
    assert torch.equal(levels.timesteps, scheduler.timesteps)
    for i, _, before, prediction, after in recorded_steps(scheduler, levels):
        if prediction_type == "sample":
            a = levels.level_t[i]
            prediction = (a.sqrt() * before - prediction) / (1 - a).sqrt()
        torch.testing.assert_close(scale[i] * after + gain[i] * prediction, before, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("num_inference_steps", [7, 30, 50])
def test_pairs_are_those_the_forward_scheduler_looked_up(spacing, num_inference_steps):
    """The scheduler's own table is replaced by one that records every index it is asked for."""
    scheduler = ddim(spacing=spacing)
    scheduler.set_timesteps(num_inference_steps)
    levels = levels_from_scheduler(scheduler)

    class Recorder:
        def __init__(self, table):
            self.table, self.asked = table, []

        def __getitem__(self, index):
            self.asked.append(int(index))
            return self.table[index]

    recorder = scheduler.alphas_cumprod = Recorder(scheduler.alphas_cumprod)
    for i, t, *_ in recorded_steps(scheduler, levels):
        asked = set(recorder.asked)
        recorder.asked.clear()
        assert float(recorder.table[int(t)]) == float(levels.level_t[i])
        previous = asked - {int(t)}
        expected = float(recorder.table[previous.pop()]) if previous else float(scheduler.final_alpha_cumprod)
        assert float(levels.level_prev[i]) == expected


@pytest.mark.parametrize("num_inference_steps", [5, 50])
def test_cogvideox_steps_with_snr_shift_and_zero_terminal_snr(num_inference_steps):
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True, snr_shift_scale=3.0
    )
    scheduler.set_timesteps(num_inference_steps)
    levels = levels_from_scheduler(scheduler)
    assert float(levels.level_t[0]) == 0.0  # nothing of the data is left at the first step
    scale, gain = levels.coefficients()
    for i, _, before, prediction, after in recorded_steps(scheduler, levels):
        torch.testing.assert_close(scale[i] * after + gain[i] * prediction, before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_steps(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(20)
    levels = levels_from_scheduler(scheduler)
    assert levels.prediction_type == "flow"
    scale, gain = levels.coefficients()
    for i, _, before, prediction, after in recorded_steps(scheduler, levels):
        torch.testing.assert_close(scale[i] * after + gain[i] * prediction, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("a", "p"), [(0.3, 0.5), (0.9, 0.99), (1e-8, 1e-3), (0.0, 0.01), (0.5, 1.0)])
def test_v_by_angles_agrees_with_the_algebra_of_the_step(a, p):
    """x0 = sqrt(a) z - sqrt(1-a) v and eps = sqrt(a) v + sqrt(1-a) z, put into z_p = sqrt(p) x0 + sqrt(1-p) eps."""
    levels = Levels("v_prediction", torch.tensor([1]), *(torch.tensor([x], dtype=torch.float64) for x in (a, p)))
    (scale,), (gain,) = levels.coefficients()
    z, v = 0.7, -1.3
    x0, eps = math.sqrt(a) * z - math.sqrt(1 - a) * v, math.sqrt(a) * v + math.sqrt(1 - a) * z
    z_prev = math.sqrt(p) * x0 + math.sqrt(1 - p) * eps
    assert float(scale) * z_prev + float(gain) * v == pytest.approx(z, abs=1e-6)


def test_add_noise_is_the_schedulers():
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 1, 4, 2, 4, 4, generator=generator).unbind()
    for scheduler in (ddim(), FlowMatchEulerDiscreteScheduler(shift=3.0)):
        scheduler.set_timesteps(10)
        first = scheduler.timesteps[:1]
        add = scheduler.add_noise if hasattr(scheduler, "add_noise") else None
        expected = add(latents, noise, first) if add else scheduler.scale_noise(latents, first, noise)
        found = levels_from_scheduler(scheduler).add_noise(latents, noise)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_description_is_json_and_its_digest_tells_schedules_apart():
    digests = set()
    for spacing, steps in (("leading", 50), ("trailing", 50), ("leading", 25)):
        scheduler = ddim(spacing=spacing)
        scheduler.set_timesteps(steps)
        description = levels_from_scheduler(scheduler).describe()
        assert json.loads(json.dumps(description)) == description
        digests.add(levels_digest(description))
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDIMScheduler(), "clip_sample=True"),
        (ddim(thresholding=True), "thresholding=True"),
        (PNDMScheduler(), "PNDMScheduler has no inversion"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "stochastic_sampling"),
        (ddim("epsilon", "trailing", rescale_betas_zero_snr=True), "zero signal-to-noise"),
    ],
)
def test_schedulers_that_cannot_be_inverted_are_refused(scheduler, message):
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match=message):
        levels_from_scheduler(scheduler)


@pytest.mark.parametrize(("prediction_type", "a"), [("v_prediction", 0.0), ("v_prediction", 1e-9), ("epsilon", 1e-9)])
def test_a_step_that_leaves_nothing_of_the_latents_is_refused(prediction_type, a):
    level_t, level_prev = torch.tensor([0.5, a], dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"step 2 of 2, from level .* to 1, cannot be inverted"):
        Levels(prediction_type, torch.tensor([500, 999]), level_t, level_prev)
    Levels(prediction_type, torch.tensor([500]), level_t[:1], level_prev[:1])


def test_a_timestep_beyond_the_training_is_refused():
    scheduler = ddim(steps_offset=1)
    scheduler.set_timesteps(1000)
    with pytest.raises(ValueError, match=r"starts at timestep 1000, beyond the last of the training \(999\)"):
        levels_from_scheduler(scheduler)
