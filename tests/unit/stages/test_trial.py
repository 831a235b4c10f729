"""A model tried out on a made-up clip: what it says, and that a broken one does not pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noisebank.errors import JobFailed
from noisebank.models import ModelAdapter, load_model
from noisebank.options import NoiseOptions
from noisebank.stages.trial import Trial, say_time, try_inversion

SHAPE = (4, 4, 4, 4)


@pytest.fixture
def adapter(small_model: Path) -> ModelAdapter:
    return load_model(str(small_model))


def test_two_steps_tell_device_precision_batch_and_size(adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    predict = type(adapter).predict

    def count(self: ModelAdapter, latents: torch.Tensor, *rest: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(latents.shape))
        return predict(self, latents, *rest, **more)

    monkeypatch.setattr(type(adapter), "predict", count)
    trial = try_inversion(adapter, NoiseOptions(num_inference_steps=10), SHAPE)
    assert calls == [(1, *SHAPE)] * 4  # two steps, twice
    assert trial.device.startswith("cpu") and "no GPU" in trial.device
    assert (trial.dtype, trial.batch_size, trial.bytes_a_clip) == ("float32", 4, 512)
    assert trial.seconds_a_clip > 0
    assert try_inversion(adapter, NoiseOptions(device="cpu", batch_size=7), SHAPE).batch_size == 7


def test_a_model_without_usable_weights_does_not_pass(adapter: ModelAdapter) -> None:
    with torch.no_grad():
        adapter.pipe.unet.conv_out.bias.fill_(torch.nan)
    with pytest.raises(JobFailed, match=r"noise.small: model 'm' on cpu .* in float32 gives noise with NaN"):
        try_inversion(adapter, NoiseOptions(name="small", model="m"), SHAPE)
    adapter.pipe.unet.conv_out = torch.nn.Conv2d(3, 4, 1)
    with pytest.raises(JobFailed, match="cannot invert a made-up clip"):
        try_inversion(adapter, NoiseOptions(name="small", model="m"), SHAPE)


def test_a_plan_in_words() -> None:
    trial = Trial("cuda:1 (H100)", "bfloat16", 8, 7.2, 131_072)
    assert trial.describe(1000, 4) == (
        "on cuda:1 (H100) in bfloat16, 8 clips a batch, at least 7.2 s a clip by 2 steps on a made-up one; the plan's "
        "1000 clips: at least 30 min on 4 such processes, and 131 MB"
    )
    assert [say_time(seconds) for seconds in (0.25, 89, 90, 5400, 200_000)] == [
        "0.25 s",
        "89 s",
        "1.5 min",
        "1.5 h",
        "2.31 days",
    ]
