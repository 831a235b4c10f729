"""Equation 4, its variance, and normalising what it is given."""

from __future__ import annotations

import math

import pytest
import torch

from noisebank.reader.mixing import marginal_variance, mix, noise_digest, normalise


def noise(seed: int, shape: tuple[int, ...] = (4, 16, 32, 32)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("eta", [0.05, 0.2, 0.5, 1.0, 7.0])
def test_the_mix_is_equation_four(eta: float) -> None:
    fresh, inverted = noise(0), 1.3 * noise(1)
    before = fresh.clone()
    expected = (fresh.double() + eta * inverted.double()) / math.sqrt(1 + eta**2)
    torch.testing.assert_close(mix(fresh, inverted, eta).double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(fresh, before)


def test_the_ends_are_exact() -> None:
    fresh, inverted = noise(0), noise(1)
    assert torch.equal(mix(fresh, inverted, 0), fresh)
    assert torch.equal(mix(fresh, inverted, math.inf), inverted)
    for eta in (-0.1, -math.inf, math.nan, 1e19, 1e200):
        with pytest.raises(ValueError, match="is not allowed"):
            mix(fresh, inverted, eta)
    torch.testing.assert_close(mix(fresh, inverted, 1e18), inverted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("eta", [0, 0.2, 1.0, math.inf])
def test_the_stated_variance_is_the_variance_of_the_mix(eta: float) -> None:
    inverted = 1.3 * noise(1)
    measured = float(mix(noise(0), inverted, eta).var(correction=0))
    assert marginal_variance(inverted, eta) == pytest.approx(measured, rel=0.02)
    assert marginal_variance(inverted, math.inf) == pytest.approx(1.69, rel=0.02)


def test_normalising_brings_mean_zero_and_variance_one() -> None:
    inverted = noise(1) * torch.tensor([0.5, 1, 2, 3]).view(4, 1, 1, 1) + torch.tensor([0, 1, -1, 2.0]).view(4, 1, 1, 1)
    whole = normalise(inverted, "global")
    assert float(whole.mean()) == pytest.approx(0, abs=1e-5) and float(whole.var()) == pytest.approx(1, abs=1e-4)
    assert float(whole[0].std()) < 0.5, "channels keep their differences"
    channels = normalise(inverted, "channel").flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(channels.var(1, correction=0), torch.ones(4), rtol=0, atol=1e-5)
    assert normalise(inverted, "none") is inverted
    assert torch.equal(normalise(torch.ones(4, 2, 2, 2), "channel"), torch.zeros(4, 2, 2, 2))
    with pytest.raises(ValueError, match="'frame' is not allowed; one of none, global, channel"):
        normalise(inverted, "frame")


def test_the_digest_tells_every_bit_apart_and_not_the_strides() -> None:
    one = noise(0, (2, 3))
    other = one.clone()
    other[1, 2] = torch.nextafter(other[1, 2], torch.tensor(9.0))
    assert noise_digest(one) != noise_digest(other)
    assert noise_digest(one.t()) == noise_digest(one.t().contiguous()) != noise_digest(one)
