"""Clips of the world given back by the shipped model's own pipeline: T = 50, float32."""

from __future__ import annotations

import pytest
import torch

from noisebank.format.noise_file import storage_roundtrip
from noisebank.inversion import Inversion, invert, relative_error
from noisebank.models import ModelAdapter, load_model
from noisebank.models.replay import replay
from noisebank.options import NoiseOptions
from noisebank.world.attributes import FRAMES, SIDE
from noisebank.world.world import World
from tests.support.shipped import trained_model

STEPS = 50
CLIPS = 2
FEW_CALLS = 5e-4
"""A tolerance that takes no more than 75 network calls."""


@pytest.fixture(scope="module")
def adapter() -> ModelAdapter:
    return load_model(str(trained_model()))


@pytest.fixture(scope="module")
def latents(adapter: ModelAdapter) -> torch.Tensor:
    world = World(0, "prompts")  # (of which the model has seen none)
    return adapter.encode(torch.stack([torch.from_numpy(world.pixels(number)) for number in range(CLIPS)]))


@pytest.fixture(scope="module")
def exact(adapter: ModelAdapter, latents: torch.Tensor) -> Inversion:
    return find_noise(adapter, latents, NoiseOptions())


def find_noise(adapter: ModelAdapter, latents: torch.Tensor, options: NoiseOptions) -> Inversion:
    levels = adapter.levels(STEPS, adapter.rules.latent_shape(FRAMES, SIDE, SIDE))
    return invert(adapter.network(), latents, levels, options)


def error(adapter: ModelAdapter, noise: torch.Tensor, latents: torch.Tensor) -> float:
    return float(relative_error(replay(adapter, noise, STEPS), latents).max())


def test_the_default_gives_clips_back(adapter: ModelAdapter, latents: torch.Tensor, exact: Inversion) -> None:
    assert error(adapter, exact.noise, latents) <= 1e-4
    assert exact.stalled.tolist() == [0] * CLIPS


def test_few_calls_give_clips_back(adapter: ModelAdapter, latents: torch.Tensor) -> None:
    found = find_noise(adapter, latents, NoiseOptions(tolerance=FEW_CALLS))
    assert int(found.calls.max()) <= 75
    assert error(adapter, found.noise, latents) <= 5e-4


def test_a_stored_record_gives_its_clip_back(adapter: ModelAdapter, latents: torch.Tensor, exact: Inversion) -> None:
    assert error(adapter, storage_roundtrip(exact.noise, "float16"), latents) <= 2e-3
