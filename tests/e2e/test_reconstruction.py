"""The generator's own pipeline, started from a stored record, gives the clip back: T = 50, float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import webdataset
from diffusers import TextToVideoSDPipeline

from noisebank import NoiseBank
from noisebank.video.frames import decode_mp4
from tests.support.projects import Project

STEPS = 50
CLIPS = 2
INVERTERS = ("fixed-point", "ddim")


class Replayed(NamedTuple):
    """What came of one record of one noise set."""

    measured: float
    """Relative error of the latents that the pipeline gives back."""
    statistics: dict[str, Any]


@pytest.fixture(scope="module")
def replayed(module_project: Any, small_model: Path) -> dict[str, list[Replayed]]:
    """Every clip of a bank given back by the pipeline's ``__call__``, by inverter."""
    project: Project = module_project("replayed")
    sets = [
        {"name": name.replace("-", "_"), "model": str(small_model), "inverter": name, "num_inference_steps": STEPS}
        for name in INVERTERS
    ]
    project.write_list(project.rows(CLIPS))
    project.configure(noise=sets)
    assert project.build()["rows"]["in_bank"] == CLIPS

    pipe = TextToVideoSDPipeline.from_pretrained(small_model)
    pipe.set_progress_bar_config(disable=True)
    tars = project.look("files", "--kind", "clips")["files"]
    clips = {sample["__key__"]: sample["mp4"] for sample in webdataset.WebDataset(tars, shardshuffle=False)}
    found: dict[str, list[Replayed]] = {}
    for inverter in INVERTERS:
        bank = NoiseBank.open(project.bank, noise_set=inverter.replace("-", "_"))
        for id, mp4 in clips.items():
            statistics = bank.inverted(id).statistics
            found.setdefault(inverter, []).append(Replayed(_error(pipe, bank, id, mp4), statistics))
    return found


@torch.inference_mode()
def _error(pipe: Any, bank: NoiseBank, id: str, mp4: bytes) -> float:
    frames = torch.from_numpy(decode_mp4(mp4).copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = pipe.vae.encode(frames).latent_dist.mode() * pipe.vae.config.scaling_factor
    empty, _ = pipe.encode_prompt("", "cpu", 1, False)
    given_back = pipe(
        prompt_embeds=empty,
        **bank.inputs(id=id, eta=float("inf"), pipe=pipe),
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        output_type="latent",
    ).frames
    latents = latents.transpose(0, 1)[None]
    return float((given_back - latents).norm() / latents.norm())


def test_fixed_point_gives_the_latents_back(replayed: dict[str, list[Replayed]]) -> None:
    for measured, statistics in replayed["fixed-point"]:
        assert statistics["reconstruction_error"] <= 1e-3
        assert measured <= 1e-2
        assert statistics["network_calls"] > STEPS and statistics["stalled_steps"] == 0


def test_one_call_a_step_errs_more(replayed: dict[str, list[Replayed]]) -> None:
    for exact, ddim in zip(replayed["fixed-point"], replayed["ddim"], strict=True):
        assert ddim.statistics["network_calls"] == STEPS
        assert ddim.statistics["reconstruction_error"] > 20 * exact.statistics["reconstruction_error"]
        assert ddim.measured > 2e-2 > exact.measured


@pytest.mark.parametrize("inverter", INVERTERS)
def test_the_statistics_say_what_the_pipeline_does(replayed: dict[str, list[Replayed]], inverter: str) -> None:
    for measured, statistics in replayed[inverter]:
        assert statistics["stored_reconstruction_error"] == pytest.approx(measured, rel=0.02)
