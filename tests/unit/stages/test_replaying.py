"""The check of one record of a model against its pipeline's own call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest

from noisebank.errors import JobFailed
from noisebank.fixtures.small_models import SMALL_FAMILIES, make_small_model
from noisebank.models import ModelAdapter, load_model
from noisebank.options import NoiseOptions
from noisebank.stages.replaying import check_replay

SIZES = {"stable-diffusion": (1, 64, 64), "ltx": (9, 64, 96)}


def shape_of(adapter: ModelAdapter) -> tuple[int, int, int, int]:
    return adapter.rules.latent_shape(*SIZES.get(adapter.family, (5, 64, 64)))


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_a_record_is_compared_with_the_pipelines_own_call(family: str, tmp_path: Path) -> None:
    """After all is gone that inversion needs no more."""
    adapter = load_model(str(make_small_model(family, tmp_path)))
    adapter.keep_for_inversion()
    error = check_replay(adapter, NoiseOptions(num_inference_steps=20), shape_of(adapter))
    assert error is not None
    assert 0 < error < 5e-3


def test_prompt_and_guidance_of_the_set_are_the_pipelines(tmp_path: Path) -> None:
    adapter = load_model(str(make_small_model("ltx", tmp_path)))
    options = NoiseOptions(num_inference_steps=20, prompt="a cat", guidance_scale=2.0)
    adapter.keep_for_inversion(options.prompt, options.guidance_scale)
    error = check_replay(adapter, options, shape_of(adapter))
    assert error is not None
    assert 0 < error < 5e-3


class DDIMScheduler(diffusers.DDIMScheduler):
    """Has the levels of the deterministic one, and draws noise at every step."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        return super().step(*args, **kwargs | {"eta": 1.0})


@pytest.fixture
def stochastic(tmp_path: Path) -> ModelAdapter:
    adapter = load_model(str(make_small_model("modelscope", tmp_path)))
    adapter.pipe.scheduler = DDIMScheduler.from_config(adapter.pipe.scheduler.config)
    return adapter


def test_a_pipeline_that_takes_other_steps_is_refused(stochastic: ModelAdapter) -> None:
    says = "TextToVideoSDPipeline with DDIMScheduler gives a clip back from its record with relative error [1-9]"
    with pytest.raises(JobFailed, match=says):
        check_replay(stochastic, NoiseOptions(num_inference_steps=20), shape_of(stochastic))


def test_noise_that_promises_nothing_is_not_compared(stochastic: ModelAdapter) -> None:
    options = NoiseOptions(num_inference_steps=20, inverter="diffuse")
    assert check_replay(stochastic, options, shape_of(stochastic)) is None
