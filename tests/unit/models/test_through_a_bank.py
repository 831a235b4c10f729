"""Every family from a video to a bank and back: the generator's own pipeline, started from the record, gives the clip's
latents. And what the bank says of pipelines that its records do not fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pyarrow as pa
import pytest
import torch

from noisebank import LowPass, NoiseBank, ShapeMismatch, mixed
from noisebank.fixtures.small_models import SMALL_FAMILIES, make_small_model, smooth_clip
from noisebank.fixtures.videos import write_video
from noisebank.format.shards import read_shard
from noisebank.inversion import invert, reconstruct, relative_error
from noisebank.models import from_pipeline, load_model
from noisebank.options import NoiseOptions
from noisebank.reader.frequencies import mix_frequencies
from noisebank.video.frames import decode_mp4
from tests.support.projects import Project

ID = "mine-clip00"
FRAMES, HEIGHT, WIDTH = 9, 64, 96
STEPS = 50
INT8 = "modelscope_int8"


def set_of(family: str) -> str:
    return family.replace("-", "_")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: make_small_model(family, root / family) for family in SMALL_FAMILIES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Path:
    """A bank of one clip with a noise set of every family, and one in int8, built by the command."""
    root = tmp_path_factory.mktemp("families")
    (root / "videos").mkdir()
    write_video(root / "videos" / "v00.mp4", list(smooth_clip(FRAMES + 2, HEIGHT, WIDTH, seed=1).numpy()))
    project = Project(root / "project", models["modelscope"], root / "videos")
    sets = [
        {"name": set_of(family), "model": str(model), "num_inference_steps": STEPS, "batch_size": 1, "measured": 1}
        | ({"frames": 1} if family == "stable-diffusion" else {})
        for family, model in models.items()
    ]
    sets.append({**sets[0], "name": INT8, "model": str(models["modelscope"]), "dtype": "int8"})
    project.configure(clips={"frames": FRAMES, "frame_stride": 1, "size": [HEIGHT, WIDTH]}, noise=sets)
    project.write_list(project.rows(1))
    assert project.build()["rows"]["in_bank"] == 1
    return project.bank


@pytest.fixture
def pipes(models: dict[str, Path]) -> Callable[[str], Any]:
    return lambda family: diffusers.DiffusionPipeline.from_pretrained(models[family])


def clip_frames(folder: Path) -> torch.Tensor:
    """The clip as it is in the bank's tar, ``[1, F, H, W, 3]``."""
    (tar,) = (folder / "clips").glob("*.tar")
    (sample,) = read_shard(tar)
    return torch.from_numpy(decode_mp4(sample.mp4))[None]


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_the_pipeline_gives_the_clip_of_a_record_back(
    folder: Path, models: dict[str, Path], pipes: Callable[[str], Any], family: str
) -> None:
    bank, pipe, adapter = NoiseBank.open(folder, noise_set=set_of(family)), pipes(family), load_model(models[family])
    pipe.set_progress_bar_config(disable=True)
    frames = clip_frames(folder)
    latents = adapter.encode(frames[:, :1] if family == "stable-diffusion" else frames)
    shape = tuple(latents.shape[1:])
    embeds = adapter.conditioning("")
    mask = {"prompt_attention_mask": embeds["encoder_attention_mask"]} if family == "ltx" else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="noise set")
        inputs = bank.inputs(id=ID, pipe=pipe, eta=float("inf"))
    output = pipe(
        prompt_embeds=embeds["encoder_hidden_states"],
        guidance_scale=1.0,
        output_type="latent",
        return_dict=False,
        num_inference_steps=STEPS,
        **mask,
        **inputs,
    )[0]
    error = relative_error(from_pipeline(output, adapter.layout, shape), latents).item()
    statistics = bank.inverted(ID).statistics
    levels, network = adapter.levels(STEPS, shape), adapter.network()
    by_ddim = invert(network, latents, levels, NoiseOptions(inverter="ddim")).noise
    found = invert(network, latents, levels, NoiseOptions()).noise
    ddim, exact = (relative_error(reconstruct(network, noise, levels), latents).item() for noise in (by_ddim, found))
    assert 2e-2 < ddim < 3e-1
    assert exact < min(2e-3, ddim / 20)
    assert error < exact + 1.4e-2
    assert error == pytest.approx(statistics["stored_reconstruction_error"], rel=0.05)
    assert STEPS < statistics["network_calls"] < 5 * STEPS


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_priors_and_low_passes_reach_every_pipeline_along_its_frames(
    folder: Path, pipes: Callable[[str], Any], family: str
) -> None:
    bank, pipe = NoiseBank.open(folder, noise_set=set_of(family)), pipes(family)
    pipe.set_progress_bar_config(disable=True)
    model = bank.sample(id=ID).model
    layout, shape = model["layout"], tuple(model["shape"])

    def canonical(**options: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return from_pipeline(bank.noise(id=[ID] * 24, generator=generator, **options), layout, shape)

    prior, record = mixed(3.0), bank.inverted(ID).noise
    white, drawn = canonical(eta=0), canonical(eta=0, prior=prior)
    torch.testing.assert_close(drawn, prior.correlate(white, 2), rtol=0, atol=1e-5)
    frames = drawn.transpose(0, 2).flatten(1)
    if shape[1] > 1:
        covariance = frames @ frames.T / frames.shape[1]
        expected = torch.full((shape[1], shape[1]), 0.9).fill_diagonal_(1.0)
        torch.testing.assert_close(covariance, expected, rtol=0, atol=0.08)
    else:
        assert torch.equal(drawn, white)
    low_pass = LowPass("gaussian")
    mix = canonical(eta=0.5, prior=prior, lowpass=low_pass)
    expected = mix_frequencies(drawn, record.expand_as(drawn), 0.5, low_pass)
    torch.testing.assert_close(mix, expected, rtol=0, atol=1e-5)
    inputs = bank.inputs(id=ID, pipe=pipe, eta=0.5, prior=prior, lowpass=low_pass, num_inference_steps=STEPS)
    output = pipe("a dog", num_inference_steps=2, output_type="latent", return_dict=False, **inputs)[0]
    assert output.shape == inputs["latents"].shape and torch.isfinite(output).all()


def test_float16_and_int8_side_by_side(folder: Path) -> None:
    half, byte = (NoiseBank.open(folder, noise_set=name).inverted(ID) for name in ("modelscope", INT8))
    assert half.noise.dtype == byte.noise.dtype == torch.float32
    assert 1e-3 < relative_error(byte.noise[None], half.noise[None]).item() < 1.5e-2
    errors = [record.statistics["stored_reconstruction_error"] for record in (half, byte)]
    assert 0 < errors[0] < errors[1] < 0.1
    values = 4 * FRAMES * (HEIGHT // 8) * (WIDTH // 8)
    assert [_record_bytes(folder / "noise" / name) for name in ("modelscope", INT8)] == [
        2 * values,
        values + 4 * 4 * FRAMES,
    ]


def _record_bytes(noise_set: Path) -> int:
    """Bytes of the only record of a noise set: its values and scales."""
    (shard,) = noise_set.glob("*.arrow")
    with pa.memory_map(str(shard)) as source:
        table = pa.ipc.open_file(source).read_all()
        return sum(table.column(name).nbytes for name in ("noise", "scale") if name in table.column_names)


def other_vae(pipe: Any) -> None:
    with torch.no_grad():
        pipe.vae.encoder.conv_in.weight.mul_(1.05)


def other_weights(pipe: Any) -> None:
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.mul_(1.02)


def scheduler(name: str | None = None, **options: Any) -> Callable[[Any], None]:
    """Gives a pipeline another scheduler, or its own with other options."""

    def change(pipe: Any) -> None:
        made = type(pipe.scheduler) if name is None else getattr(diffusers, name)
        pipe.scheduler = made.from_config(pipe.scheduler.config, **options)

    return change


@pytest.mark.parametrize(
    ("family", "change", "what"),
    [
        ("modelscope", other_vae, "vae"),
        ("modelscope", scheduler(prediction_type="v_prediction"), "prediction_type"),
        ("cogvideox", scheduler(prediction_type="epsilon", rescale_betas_zero_snr=False), "prediction_type"),
    ],
)
def test_pipelines_that_records_mean_nothing_to_are_refused(
    folder: Path, pipes: Callable[[str], Any], family: str, change: Callable[[Any], None], what: str
) -> None:
    bank, pipe = NoiseBank.open(folder, noise_set=family), pipes(family)
    change(pipe)
    with pytest.raises(ShapeMismatch, match=f"error: {what} is"):
        bank.check(pipe, STEPS)
    with pytest.raises(ShapeMismatch, match=f"error: {what} is"):
        bank.inputs(id=ID, pipe=pipe)


def test_another_family_or_shape_is_refused(folder: Path, pipes: Callable[[str], Any], tmp_path: Path) -> None:
    bank = NoiseBank.open(folder, noise_set="modelscope")
    with pytest.raises(ShapeMismatch, match="does not fit this WanPipeline: error: family is 'wan'"):
        bank.noise(id=ID, pipe=pipes("wan"))
    finer = make_small_model("modelscope", tmp_path / "finer", spatial_ratio=4)
    with pytest.raises(ShapeMismatch, match="shape is '4 channels, 4 pixels and 1 frames a latent'"):
        bank.noise(id=ID, pipe=diffusers.DiffusionPipeline.from_pretrained(finer))


@pytest.mark.parametrize(
    ("family", "change", "steps", "what"),
    [
        ("modelscope", other_weights, STEPS, {"weights"}),
        ("modelscope", scheduler("DPMSolverMultistepScheduler"), STEPS, {"scheduler"}),
        ("modelscope", lambda pipe: None, 25, {"num_inference_steps"}),
        ("modelscope", scheduler(timestep_spacing="trailing"), STEPS, {"first_level", "levels"}),
        ("wan", scheduler(shift=7.0), STEPS, {"shift (shift)", "levels"}),
        ("cogvideox", scheduler(snr_shift_scale=3.0), STEPS, {"shift (snr_shift_scale)", "levels"}),
    ],
)
def test_pipelines_that_do_not_replay_a_record_are_warned_of(
    folder: Path, pipes: Callable[[str], Any], family: str, change: Callable[[Any], None], steps: int, what: set[str]
) -> None:
    bank, pipe = NoiseBank.open(folder, noise_set=family), pipes(family)
    assert bank.check(pipe, STEPS) == []
    change(pipe)
    with pytest.warns(UserWarning, match=f"noise set '{family}': warning: "):
        mismatches = bank.check(pipe, steps)
    assert {mismatch.what for mismatch in mismatches} == what
    assert {mismatch.severity for mismatch in mismatches} == {"warning"}
