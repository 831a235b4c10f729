"""Inverters on networks whose answer is known exactly."""

from itertools import pairwise

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler

from noisebank.config import config_from_mapping
from noisebank.errors import ConfigError
from noisebank.inversion import (
    INVERTERS,
    Levels,
    invert,
    levels_from_scheduler,
    reconstruct,
    register_inverter,
    relative_error,
)
from noisebank.options import INVERTER_KINDS, OPTION_CLASSES, NoiseOptions

SHAPE = (3, 4, 2, 4, 4)


def levels_of(prediction_type, num_inference_steps=20):
    if prediction_type == "flow":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    elif prediction_type == "v_prediction":
        scheduler = CogVideoXDDIMScheduler(
            prediction_type=prediction_type, timestep_spacing="trailing", rescale_betas_zero_snr=True
        )
    else:
        scheduler = DDIMScheduler(
            prediction_type=prediction_type,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )
    scheduler.set_timesteps(num_inference_steps)
    return levels_from_scheduler(scheduler)


def latents_of(seed=0, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Counted:
    def __init__(self, network):
        self.network, self.calls = network, 0

    def __call__(self, latents, timestep):
        self.calls += 1
        assert timestep.shape == (len(latents),)
        return self.network(latents, timestep)


def nonlinear(latents, timestep):
    """A smooth network with memory of its neighbours in space; every clip for itself."""
    mixed = latents + 0.5 * latents.roll(1, -1) - 0.3 * latents.roll(1, -3)
    return torch.tanh(mixed) * (1 + timestep.view(-1, 1, 1, 1, 1) / 2000)


def network_of(prediction_type, levels):
    """``nonlinear``, which predicts noise, told in terms of the sample where that is asked for."""
    if prediction_type != "sample":
        return nonlinear
    alphas = dict(zip(levels.timesteps.tolist(), levels.level_t.float().tolist(), strict=True))

    def sample(latents, timestep):
        alpha = torch.tensor([alphas[int(t)] for t in timestep]).view(-1, 1, 1, 1, 1)
        return (latents - (1 - alpha).sqrt() * nonlinear(latents, timestep)) / alpha.sqrt()

    return sample


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "flow"])
def test_a_constant_network_is_inverted_exactly_in_one_call_a_step(prediction_type):
    levels, latents, constant = levels_of(prediction_type), latents_of(), latents_of(1)
    network = Counted(lambda z, t: constant)
    inversion = invert(network, latents, levels, NoiseOptions(inverter="ddim"))
    assert network.calls == inversion.network_calls == len(levels)
    assert inversion.calls.tolist() == [len(levels)] * 3
    assert relative_error(reconstruct(network, inversion.noise, levels), latents).max() < 1e-5


def test_fixed_point_needs_one_call_more_to_know_that_a_constant_network_is_constant():
    levels, latents = levels_of("epsilon"), latents_of()
    network = Counted(lambda z, t: torch.ones_like(z))
    inversion = invert(network, latents, levels, NoiseOptions(inverter="fixed-point"))
    assert network.calls == inversion.network_calls == len(levels) + 1
    assert inversion.calls.tolist() == [len(levels) + 1] * 3
    assert inversion.stalled.tolist() == [0, 0, 0]
    torch.testing.assert_close(
        inversion.noise, invert(network, latents, levels, NoiseOptions(inverter="ddim")).noise, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize("factor", [0.2, -0.5, 0.7])
def test_a_linear_network_converges_by_its_contraction_factor(prediction_type, factor):
    """m(z) = c z: F(y) - z* = gain c (y - z*), so each call multiplies the error by gain c."""
    levels, latents = levels_of(prediction_type, 50), latents_of()
    cleanest = Levels(prediction_type, levels.timesteps[-1:], levels.level_t[-1:], levels.level_prev[-1:])
    scale, gain = (float(values) for values in cleanest.coefficients())
    solution = latents * scale / (1 - factor)
    errors = [
        relative_error(
            invert(
                lambda z, t: factor / gain * z, latents, cleanest, NoiseOptions(tolerance=0.0, max_iterations=k)
            ).noise,
            solution,
        )
        for k in (1, 2, 3, 4)
    ]
    for before, after in pairwise(errors):
        torch.testing.assert_close(after / before, torch.full((3,), abs(factor)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample", "flow"])
def test_fixed_point_undoes_a_nonlinear_sampler_far_better_than_ddim(prediction_type):
    levels, latents = levels_of(prediction_type, 50), latents_of()
    network = network_of(prediction_type, levels)
    errors = {}
    for inverter in ("ddim", "fixed-point"):
        inversion = invert(network, latents, levels, NoiseOptions(inverter=inverter, tolerance=1e-5, max_iterations=30))
        errors[inverter] = relative_error(reconstruct(network, inversion.noise, levels), latents).max().item()
    assert errors["ddim"] > 5e-3
    assert errors["fixed-point"] < min(2e-3, errors["ddim"] / 20)


def test_a_clip_does_not_depend_on_its_batch_mates():
    levels = levels_of("epsilon", 20)
    latents = latents_of()
    mates = torch.cat([latents[:1], 5 * latents_of(7)[:1], torch.zeros_like(latents[:1])])
    together = invert(nonlinear, latents, levels)
    otherwise = invert(nonlinear, mates, levels)
    assert otherwise.calls[1] != together.calls[1]  # the mates do go another way
    assert torch.equal(otherwise.noise[0], together.noise[0])
    assert torch.equal(otherwise.residuals[:, 0], together.residuals[:, 0])
    assert otherwise.calls[0] == together.calls[0]
    alone = invert(nonlinear, latents[:1], levels)
    torch.testing.assert_close(alone.noise, together.noise[:1], rtol=1e-5, atol=1e-6)


def test_calls_and_residuals_are_counted_per_clip():
    levels, latents = levels_of("epsilon", 20), latents_of()
    latents = latents * torch.tensor([0.01, 1.0, 3.0]).view(3, 1, 1, 1, 1)
    network = Counted(nonlinear)
    inversion = invert(network, latents, levels)
    assert inversion.network_calls == network.calls == int(inversion.calls.max())
    assert inversion.residuals.shape == (20, 3)
    assert (inversion.residuals <= 1e-4).all() == (inversion.stalled == 0).all()
    for clip in range(3):
        alone = Counted(nonlinear)
        assert invert(alone, latents[clip : clip + 1], levels).calls.tolist() == [alone.calls]
        assert alone.calls == int(inversion.calls[clip])


def test_a_step_that_stalls_is_left_and_reported():
    """A network with a rounding floor of 1%: the tolerance cannot be met, and iterating on would change nothing."""
    levels, latents = levels_of("epsilon", 20), latents_of()

    def coarse(z, t):
        return nonlinear(z, t) + 0.01 * torch.sin(1e5 * z)  # (rounding, as a network of low precision spreads it)

    network = Counted(coarse)
    inversion = invert(network, latents, levels, NoiseOptions(tolerance=1e-9, max_iterations=50))
    assert network.calls < 20 * 12
    assert (inversion.stalled > 0).all()
    ddim = invert(coarse, latents, levels, NoiseOptions(inverter="ddim"))
    worst, plain = (relative_error(reconstruct(coarse, i.noise, levels), latents).max() for i in (inversion, ddim))
    assert worst < plain


@pytest.mark.parametrize("factor", [0.9, -1.5])
def test_a_step_that_plain_iteration_would_not_solve_in_its_calls_is_solved(factor):
    """Eigenvalues beyond 3/4, where iterating is slow, and beyond 1, where it diverges."""
    levels, latents = levels_of("epsilon", 50), latents_of()
    cleanest = Levels("epsilon", levels.timesteps[-1:], levels.level_t[-1:], levels.level_prev[-1:])
    scale, gain = (float(values) for values in cleanest.coefficients())
    factors = torch.tensor([factor, 0.3, -0.2, 0.1]).view(1, 4, 1, 1, 1)
    network = Counted(lambda z, t: factors / gain * z)
    inversion = invert(network, latents, cleanest)
    assert relative_error(inversion.noise, latents * scale / (1 - factors)).max() < 1e-3
    assert network.calls == inversion.network_calls <= NoiseOptions().max_iterations
    assert inversion.stalled.tolist() == [0, 0, 0]


def test_a_clip_that_stalls_does_not_depend_on_its_batch_mates():
    levels, latents = levels_of("epsilon", 5), latents_of()

    def steep(z, t):
        return 3 * nonlinear(z, t)  # (without acceleration these clips stall)

    together = invert(steep, latents, levels)
    otherwise = invert(steep, torch.cat([latents[:1], 5 * latents_of(7)[:1], latents_of(8)[:1]]), levels)
    assert together.calls[0] == otherwise.calls[0] != otherwise.calls[1]
    assert torch.equal(otherwise.noise[0], together.noise[0])


def test_max_iterations_caps_every_step():
    levels, latents = levels_of("epsilon", 20), latents_of()
    network = Counted(nonlinear)
    inversion = invert(network, latents, levels, NoiseOptions(tolerance=0.0, max_iterations=1))
    assert network.calls == 20
    assert inversion.stalled.tolist() == [20, 20, 20]


def test_not_a_number_is_seen_and_stays_with_its_clip():
    levels, latents = levels_of("epsilon", 20), latents_of()

    def broken(z, t):
        prediction = nonlinear(z, t)
        prediction[1] = float("nan")
        return prediction

    noise = invert(broken, latents, levels).noise
    assert torch.isfinite(noise.flatten(1)).all(1).tolist() == [True, False, True]
    assert torch.equal(noise[0], invert(nonlinear, latents, levels).noise[0])


def test_latents_stay_in_float32_under_a_half_precision_network():
    levels, latents = levels_of("epsilon", 20), latents_of()

    def half(z, t):
        assert z.dtype == torch.float32
        return nonlinear(z.half().float(), t).half().float()

    inversion = invert(half, latents.double(), levels, dtype=torch.float16)
    assert inversion.noise.dtype == torch.float32
    assert relative_error(reconstruct(half, inversion.noise, levels), latents).max() < 5e-3


def test_diffuse_adds_each_clips_own_noise_and_calls_no_network():
    levels, latents = levels_of("epsilon", 20), latents_of()

    def forbidden(z, t):
        raise AssertionError("diffuse must not call the network")

    def run(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return invert(forbidden, latents[: len(seeds)], levels, NoiseOptions(inverter="diffuse"), generators=generators)

    inversion = run([5, 6, 7])
    assert inversion.network_calls == 0
    assert inversion.calls.tolist() == [0, 0, 0]
    level = levels.level_t[0].item()
    drawn = torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(6))
    expected = level**0.5 * latents[1] + (1 - level) ** 0.5 * drawn
    torch.testing.assert_close(inversion.noise[1], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(run([5]).noise[0], inversion.noise[0])
    with pytest.raises(ValueError, match="one generator a clip"):
        invert(forbidden, latents, levels, NoiseOptions(inverter="diffuse"))


def test_an_inverter_of_ones_own():
    @register_inverter("zeros")
    def zeros(network, latents, levels, options, generators):
        return INVERTERS["ddim"](lambda z, t: torch.zeros_like(z), latents, levels, options, generators)

    try:
        levels, latents = levels_of("flow", 5), latents_of()
        assert torch.equal(invert(nonlinear, latents, levels, NoiseOptions(inverter="zeros")).noise, latents)
        assert "zeros" in refusal({"inverter": "nti"})
    finally:
        del INVERTERS["zeros"], OPTION_CLASSES["noise", "zeros"]
    assert refusal({"inverter": "nti"}) == (
        "noise[0].inverter: 'nti' is not allowed; one of ddim, diffuse, fixed-point, or a kind that one of your "
        "modules registers (modules: [my_package])"
    )


def test_a_configuration_knows_the_inverters_before_they_are_imported():
    assert tuple(sorted(INVERTERS)) == INVERTER_KINDS
    assert all(OPTION_CLASSES["noise", kind] is NoiseOptions for kind in INVERTERS)


def test_guidance_needs_a_prompt():
    assert "guidance_scale: 3 has no effect with the empty prompt" in refusal({"guidance_scale": 3.0})


def refusal(options):
    """What is said of a noise set with these options."""
    with pytest.raises(ConfigError) as error:
        config_from_mapping({"noise": [{"name": "mine", **options}]})
    return str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": NoiseOptions(inverter="nti")}, "choose one of ddim, diffuse, fixed-point"),
        ({"options": NoiseOptions(max_iterations=0)}, "at least 1"),
        ({"latents": torch.zeros(4, 2, 4, 4)}, r"\[B, C, F, H, W\]"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    arguments = {"latents": latents_of(), "levels": levels_of("epsilon")} | arguments
    with pytest.raises(ValueError, match=message):
        invert(nonlinear, **arguments)
