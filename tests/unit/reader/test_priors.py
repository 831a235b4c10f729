"""The fresh noise: diffusers' own, bit for bit, and priors whose frames are correlated as PYoCo says."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from noisebank.reader.priors import PRIORS, FramePrior, find_prior, iid, mixed, progressive

SHAPE = (3, 4, 5, 6, 7)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_iid_is_diffusers_randn_tensor_bit_for_bit() -> None:
    assert torch.equal(iid(SHAPE, seeded(1)), randn_tensor(SHAPE, seeded(1), dtype=torch.float32))
    several = iid(SHAPE, [seeded(1), seeded(2), seeded(3)])
    assert torch.equal(several, randn_tensor(SHAPE, [seeded(1), seeded(2), seeded(3)], dtype=torch.float32))
    assert not torch.equal(several[0], several[1])
    assert torch.equal(iid(SHAPE, [seeded(1)]), randn_tensor(SHAPE, [seeded(1)], dtype=torch.float32))
    torch.manual_seed(4)
    drawn = iid(SHAPE)
    torch.manual_seed(4)
    assert torch.equal(drawn, randn_tensor(SHAPE, dtype=torch.float32))


def test_it_is_float32_whatever_the_default_and_standard_normal() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        drawn = PRIORS["iid"]((1, 4, 16, 64, 64), seeded(0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert drawn.dtype == torch.float32
    assert abs(float(drawn.mean())) < 0.01 and abs(float(drawn.var()) - 1) < 0.01
    neighbours = torch.corrcoef(torch.stack([drawn[:, :, :-1].flatten(), drawn[:, :, 1:].flatten()]))
    assert abs(float(neighbours[0, 1])) < 0.01


def test_one_generator_or_one_a_sample() -> None:
    with pytest.raises(ValueError, match="2 generators for a batch of 3"):
        iid(SHAPE, [seeded(0), seeded(1)])


def covariance(prior: FramePrior, frames: int) -> list[list[float]]:
    """Of PYoCo's two models, entry by entry."""
    if repr(prior) == repr(progressive(prior.alpha)):
        step = prior.alpha / math.sqrt(1 + prior.alpha**2)
        return [[step ** abs(i - j) for j in range(frames)] for i in range(frames)]
    common = prior.alpha**2 / (1 + prior.alpha**2)
    return [[1.0 if i == j else common for j in range(frames)] for i in range(frames)]


@pytest.mark.parametrize("frames", [1, 2, 16, 33])
@pytest.mark.parametrize("prior", [mixed(), mixed(0.0), mixed(3.0), progressive(), progressive(0.0), progressive(0.4)])
def test_a_factor_times_its_transpose_is_the_covariance(prior: FramePrior, frames: int) -> None:
    factor = prior.factor(frames)
    expected = torch.tensor(covariance(prior, frames), dtype=torch.float64)
    torch.testing.assert_close(factor @ factor.T, expected, rtol=0, atol=1e-12)


def test_the_papers_constants_are_the_defaults() -> None:
    assert (mixed(), progressive()) == (mixed(1.0), progressive(2.0)) == (PRIORS["mixed"], PRIORS["progressive"])
    assert mixed(2.0) != progressive(2.0) != progressive(1.0)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("prior", [mixed(3.0), progressive(3.0)])
def test_frames_are_correlated_along_the_axis_that_is_told(prior: FramePrior, axis: int) -> None:
    shape = (2, 6, 6, 64, 64)
    white = iid(shape, seeded(0))
    drawn = prior.correlate(white, axis)
    assert drawn.shape == shape and drawn.dtype == torch.float32
    measured = torch.corrcoef(drawn.transpose(0, axis).flatten(1))
    torch.testing.assert_close(measured, torch.tensor(covariance(prior, 6)), rtol=0, atol=0.02)
    others = torch.corrcoef(drawn.transpose(0, 3 - axis).flatten(1))
    torch.testing.assert_close(others, torch.eye(6), rtol=0, atol=0.04)
    assert float(drawn.var()) == pytest.approx(1, abs=0.02)
    expected = torch.einsum("ij,...j->...i", prior.factor(6), white.double().movedim(axis, -1)).movedim(-1, axis)
    torch.testing.assert_close(drawn.double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(prior.correlate(white[1:], axis), drawn[1:])


@pytest.mark.parametrize("kind", [mixed, progressive])
def test_the_ends_of_alpha(kind: type[FramePrior]) -> None:
    white = iid((2, 3, 4, 5, 6), seeded(0))
    assert torch.equal(kind(0.0).correlate(white, 2), white)
    same = kind(math.inf).correlate(white, 2)
    torch.testing.assert_close(same, same[:, :, :1].expand_as(same), rtol=0, atol=1e-6)
    for alpha in (-0.1, math.nan):
        with pytest.raises(ValueError, match=r"is not allowed; 0 \(independent frames\) or more"):
            kind(alpha)
    assert pickle.loads(pickle.dumps(kind(2.0))) == kind(2.0)


def test_priors_are_found_by_name_and_take_an_alpha() -> None:
    assert find_prior("iid") is iid and find_prior("mixed") == mixed()
    assert find_prior("progressive", 0.5) == progressive(0.5) and find_prior(mixed(2.0)) == mixed(2.0)
    with pytest.raises(ValueError, match="prior 'pink' is not allowed; one of iid, mixed, progressive, or a function"):
        find_prior("pink")
    with pytest.raises(ValueError, match=r"alpha 2\.0 is not allowed with prior 'iid'; with mixed, progressive"):
        find_prior("iid", 2.0)
