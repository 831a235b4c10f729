"""The fresh noise: diffusers' own, bit for bit."""

from __future__ import annotations

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from noisebank.reader.priors import PRIORS, iid

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
