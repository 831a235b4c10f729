"""The generator's own pipeline, started from a stored record, gives the clip back: T = 50, float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import webdataset
from diffusers import TextToVideoSDPipeline

from noisebank import NoiseBank
from noisebank.inversion import invert, reconstruct, relative_error
from noisebank.models import ModelAdapter, load_model
from noisebank.options import NoiseOptions
from noisebank.video.frames import decode_mp4
from tests.support.projects import Project

STEPS = 50
CLIPS = 2
INVERTERS = ("fixed-point", "ddim")


class Replayed(NamedTuple):
    """What came of one record of one noise set."""

    measured: float
    """Relative error of the latents that the pipeline gives back."""
    found: float
    """The same of the noise that the inverter finds, before it is stored."""
    statistics: dict[str, Any]


@pytest.fixture(scope="module")
def replayed(module_project: Any, small_model: Path) -> dict[str, list[Replayed]]:
    """Every clip of a bank given back by the pipeline's ``__call__``, by inverter."""
    project: Project = module_project("replayed")
    sets = [
        {"name": name.replace("-", "_"), "model": str(small_model), "inverter": name, "num_inference_steps": STEPS}
        | {"measured": 1}
        for name in INVERTERS
    ]
    project.write_list(project.rows(CLIPS))
    project.configure(noise=sets)
    assert project.build()["rows"]["in_bank"] == CLIPS

    pipe = TextToVideoSDPipeline.from_pretrained(small_model)
    pipe.set_progress_bar_config(disable=True)
    tars = project.look("files", "--kind", "clips")["files"]
    clips = {sample["__key__"]: sample["mp4"] for sample in webdataset.WebDataset(tars, shardshuffle=False)}
    adapter = load_model(str(small_model))
    found: dict[str, list[Replayed]] = {}
    for inverter in INVERTERS:
        bank = NoiseBank.open(project.bank, noise_set=inverter.replace("-", "_"))
        for id, mp4 in clips.items():
            statistics = bank.inverted(id).statistics
            errors = _error(pipe, bank, id, mp4), _found(adapter, inverter, mp4)
            found.setdefault(inverter, []).append(Replayed(*errors, statistics))
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


def _found(adapter: ModelAdapter, inverter: str, mp4: bytes) -> float:
    latents, network = adapter.encode(torch.from_numpy(decode_mp4(mp4).copy())[None]), adapter.network()
    levels = adapter.levels(STEPS, tuple(latents.shape[1:]))
    noise = invert(network, latents, levels, NoiseOptions(inverter=inverter)).noise
    return float(relative_error(reconstruct(network, noise, levels), latents))


def test_fixed_point_gives_the_latents_back(replayed: dict[str, list[Replayed]]) -> None:
    for measured, found, statistics in replayed["fixed-point"]:
        assert found <= 1e-3
        assert measured <= 1e-2
        assert statistics["network_calls"] > STEPS and statistics["stalled_steps"] == 0


def test_one_call_a_step_errs_more(replayed: dict[str, list[Replayed]]) -> None:
    for exact, ddim in zip(replayed["fixed-point"], replayed["ddim"], strict=True):
        assert ddim.statistics["network_calls"] == STEPS
        assert ddim.found > 20 * exact.found
        assert ddim.measured > 2e-2 > exact.measured


@pytest.mark.parametrize("inverter", INVERTERS)
def test_the_statistics_say_what_the_pipeline_does(replayed: dict[str, list[Replayed]], inverter: str) -> None:
    for measured, _, statistics in replayed[inverter]:
        assert statistics["stored_reconstruction_error"] == pytest.approx(measured, rel=0.02)
