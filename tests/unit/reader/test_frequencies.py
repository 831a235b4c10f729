"""Mixing by frequency: Eq. 4 where the filter lets everything through, FreeInit's filters, real on odd sizes."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.pipelines.free_init_utils import FreeInitMixin

from noisebank.reader.frequencies import LOWPASS, LowPass, marginal_variance, mix_frequencies
from noisebank.reader.mixing import marginal_variance as variance_of_equation_four
from noisebank.reader.mixing import mix
from noisebank.reader.priors import FramePrior, mixed, progressive

ODD, EVEN = (13, 30, 45), (8, 16, 12)
EVERYTHING = LowPass("box", 1.0, 1.0)
AXES = (-3, -2, -1)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("eta", [0.2, 1.0, 7.0, math.inf])
@pytest.mark.parametrize("size", [ODD, EVEN, (1, 8, 8)])
def test_a_filter_that_lets_everything_through_is_equation_four(eta: float, size: tuple[int, ...]) -> None:
    fresh, inverted = noise(0, 2, 4, *size), 1.3 * noise(1, 2, 4, *size)
    assert torch.equal(EVERYTHING.response(*size), torch.ones(size, dtype=torch.float64))
    torch.testing.assert_close(
        mix_frequencies(fresh, inverted, eta, EVERYTHING), mix(fresh, inverted, eta), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("kind", LOWPASS)
@pytest.mark.parametrize("eta", [0.5, math.inf])
def test_the_mix_is_the_formula_and_real_on_odd_sizes(kind: str, eta: float) -> None:
    fresh, inverted, low_pass = noise(0, 2, 4, *ODD), noise(1, 2, 4, *ODD), LowPass(kind)
    before = fresh.clone(), inverted.clone()
    gain = low_pass.response(*ODD) * (1.0 if eta == math.inf else eta / math.sqrt(1 + eta**2))
    spectrum = (1 - gain**2).sqrt() * torch.fft.fftn(fresh, dim=AXES) + gain * torch.fft.fftn(inverted, dim=AXES)
    expected = torch.fft.ifftn(spectrum, dim=AXES)
    assert float(expected.imag.abs().max()) < 1e-14
    mixed = mix_frequencies(fresh, inverted, eta, low_pass)
    torch.testing.assert_close(mixed, expected.real, rtol=0, atol=1e-14)
    assert torch.equal(fresh, before[0]) and torch.equal(inverted, before[1])
    single = mix_frequencies(fresh[1:].float(), inverted[1:].float(), eta, low_pass)
    assert torch.equal(single, mix_frequencies(fresh.float(), inverted.float(), eta, low_pass)[1:])
    torch.testing.assert_close(single.double(), mixed[1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", LOWPASS)
def test_without_eta_the_fresh_noise_is_left_alone(kind: str) -> None:
    fresh = noise(0, 1, 4, *EVEN).float()
    assert torch.equal(mix_frequencies(fresh, noise(1, 1, 4, *EVEN).float(), 0, LowPass(kind)), fresh)
    for eta in (-0.1, math.nan, 1e19):
        with pytest.raises(ValueError, match="is not allowed"):
            mix_frequencies(fresh, fresh, eta, LowPass(kind))


@pytest.mark.parametrize("kind", ["gaussian", "butterworth", "ideal"])
@pytest.mark.parametrize(("spatial", "temporal"), [(0.25, 0.25), (0.5, 0.2)])
def test_filters_are_those_of_diffusers_where_theirs_are_centred(kind: str, spatial: float, temporal: float) -> None:
    theirs = FreeInitMixin()._get_free_init_freq_filter(EVEN, "cpu", kind, 4, spatial, temporal)
    ours = torch.fft.fftshift(LowPass(kind, spatial, temporal).response(*EVEN))
    torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=1e-7)
    odd = LowPass(kind, spatial, temporal).response(*ODD)
    assert float(odd[0, 0, 0]) == 1.0
    assert torch.equal(odd, odd.flip(AXES).roll((1, 1, 1), AXES)), "real noise stays real"


def test_a_box_ends_at_its_cut_offs() -> None:
    response = LowPass("box", spatial=0.5, temporal=0.25).response(*EVEN)
    places = [torch.fft.fftfreq(size).mul(2).abs() for size in EVEN]
    inside = [(axis <= cutoff) for axis, cutoff in zip(places, (0.25, 0.5, 0.5), strict=True)]
    assert [int(axis.sum()) for axis in inside] == [3, 9, 7]
    assert float(response.sum()) == 3 * 9 * 7
    assert torch.equal(response, (inside[0][:, None, None] & inside[1][:, None] & inside[2]).double())


@pytest.mark.parametrize("low_pass", [LowPass("butterworth", 0.6, 0.3), EVERYTHING])
@pytest.mark.parametrize("eta", [0.5, math.inf])
@pytest.mark.parametrize("prior", [None, mixed(2.0), progressive()])
def test_the_stated_variance_is_the_variance_of_the_mix(
    low_pass: LowPass, eta: float, prior: FramePrior | None
) -> None:
    inverted = 0.3 + 1.3 * noise(1, 4, *EVEN)
    white = noise(2, 100, 4, *EVEN)
    fresh = white if prior is None else prior.correlate(white, 2)
    mixes = mix_frequencies(fresh, inverted.expand_as(fresh), eta, low_pass)
    factor = None if prior is None else prior.factor(EVEN[0])
    stated = marginal_variance(inverted, eta, low_pass, factor)
    assert stated == pytest.approx(float(mixes.square().mean() - mixes.mean() ** 2), rel=0.02)
    if low_pass is EVERYTHING:
        assert stated == pytest.approx(variance_of_equation_four(inverted, eta), rel=1e-12)


def test_the_mix_of_standard_normals_is_standard_normal() -> None:
    low_pass = LowPass("gaussian")
    mixed = mix_frequencies(noise(0, 8, 4, *ODD), noise(1, 8, 4, *ODD), math.inf, low_pass)
    assert float(mixed.var()) == pytest.approx(1, abs=5e-3)
    gain = low_pass.response(*ODD)
    lost = float((gain**2 + (1 - gain) ** 2).mean())
    assert lost == pytest.approx(0.96, abs=0.001), "FreeInit's own high-pass, 1 - L, loses variance"


@pytest.mark.parametrize("kind", LOWPASS)
@pytest.mark.parametrize(("spatial", "temporal"), [(1e-6, 1e-6), (1e-6, 1.0), (1.0, 1e-6)])
def test_the_lowest_cut_offs_give_numbers(kind: str, spatial: float, temporal: float) -> None:
    low_pass = LowPass(kind, spatial, temporal)
    mixed = mix_frequencies(noise(0, 1, 4, *EVEN).float(), noise(1, 1, 4, *EVEN).float(), math.inf, low_pass)
    assert torch.isfinite(mixed).all() and float(low_pass.response(*EVEN)[0, 0, 0]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("low",), "lowpass 'low' is not allowed; one of gaussian, butterworth, ideal, box, or None"),
        (("box", 0.0), "spatial cut-off 0.0 is not allowed; at least 1e-06, at most 1"),
        (("gaussian", 9e-7), "spatial cut-off 9e-07 is not allowed"),
        (("butterworth", 0.5, 1e-200), "temporal cut-off 1e-200 is not allowed"),
        (("box", 0.5, 1.5), "temporal cut-off 1.5 is not allowed"),
        (("box", math.nan), "spatial cut-off nan is not allowed"),
    ],
)
def test_a_wrong_filter_is_named(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LowPass(*arguments)
