"""What cannot be inverted is refused by name before any work is done, from the model's files without its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from noisebank.config import config_from_mapping
from noisebank.errors import ConfigError
from noisebank.fixtures.small_models import SMALL_FAMILIES, make_small_model
from noisebank.models import load_model
from noisebank.stages.configured import identify_stages
from tests.support.minilm import MINILM
from tests.support.projects import Project

CLIPS = {"frames": 9, "frame_stride": 1, "size": [64, 96]}
DDIM = {"_class_name": "DDIMScheduler", "clip_sample": False, "beta_schedule": "scaled_linear"}
UNIPC_FLOW = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}

Edit = Callable[[Path], None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: make_small_model(family, root / family) for family in SMALL_FAMILIES}


def refusal(model: Path, **options: Any) -> str:
    """What a plan says of a noise set of this model."""
    with pytest.raises(ConfigError) as error:
        plan(model, **options)
    return str(error.value)


def plan(model: Path, **options: Any) -> None:
    noise = {"name": "mine", "model": str(model), "num_inference_steps": 20, **options}
    if json.loads((model / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline":
        noise.setdefault("frames", 1)
    identify_stages(config_from_mapping({"captions": {"model": MINILM}, "clips": CLIPS, "noise": [noise]}))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def scheduler(**config: Any) -> Edit:
    """Gives a model another scheduler, or its own with other options."""

    def edit(folder: Path) -> None:
        change_json(folder / "scheduler" / "scheduler_config.json", **config)
        if "_class_name" in config:
            (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
            change_json(folder / "model_index.json", scheduler=["diffusers", config["_class_name"]])

    return edit


def unet(**config: Any) -> Edit:
    return lambda folder: change_json(folder / "unet" / "config.json", **config)


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_what_can_be_inverted_is_planned(models: dict[str, Path], family: str) -> None:
    plan(models[family])


@pytest.mark.parametrize(
    ("family", "edit", "options", "says"),
    [
        ("modelscope", scheduler(clip_sample=True), {}, "clip_sample: true"),
        ("modelscope", scheduler(thresholding=True), {}, "thresholding: true"),
        (
            "modelscope",
            scheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing"),
            {},
            "num_inference_steps 20 with the model's DDIMScheduler: step 1 of 20, from level 0 to 0.00",
        ),
        ("modelscope", scheduler(), {"num_inference_steps": 1000}, "starts at timestep 1000"),
        ("modelscope", scheduler(timestep_spacing="trailing"), {"num_inference_steps": 61}, "62 timesteps, the last"),
        ("cogvideox", scheduler(), {"num_inference_steps": 61}, "62 timesteps, the last of them -1"),
        ("wan", scheduler(stochastic_sampling=True), {}, "FlowMatchEulerDiscreteScheduler has stochastic_sampling: tr"),
        ("ltx", scheduler(stochastic_sampling=True), {}, "draws fresh noise at every step"),
        ("modelscope", scheduler(), {"num_inference_steps": 1001}, "num_inference_steps 1001 with the model's DDIM"),
        ("cogvideox", scheduler(), {"num_inference_steps": 1}, "step 1 of 1, from level 0 to 1, cannot be inverted"),
        ("ltx", scheduler(), {"num_inference_steps": 1}, "step 1 of 1, from level nan to 0, cannot be inverted"),
        ("stable-diffusion", scheduler(_class_name="FlowMatchEulerDiscreteScheduler"), {}, "flow matching, and its"),
        ("stable-diffusion", scheduler(**UNIPC_FLOW), {}, "UniPCMultistepScheduler is of flow matching"),
        ("stable-diffusion", scheduler(_class_name="EDMEulerScheduler"), {}, "EDMEulerScheduler is of another process"),
        ("stable-diffusion", scheduler(_class_name="IPNDMScheduler"), {}, "IPNDMScheduler is of another process"),
        ("wan", scheduler(**UNIPC_FLOW | {"prediction_type": "epsilon"}), {}, "of diffusion, and its network of flow"),
        ("wan", scheduler(**DDIM), {}, "DDIMScheduler is of diffusion, and its network of flow matching"),
        ("modelscope", scheduler(_class_name="DiffusionPipeline"), {}, "'DiffusionPipeline' is not one of diffusers"),
        ("stable-diffusion", unet(time_cond_proj_dim=16), {}, "time_cond_proj_dim"),
    ],
)
def test_what_cannot_be_inverted_is_refused_by_a_plan(
    models: dict[str, Path], tmp_path: Path, family: str, edit: Edit, options: Mapping[str, Any], says: str
) -> None:
    model = shutil.copytree(models[family], tmp_path / "model")
    edit(model)
    found = refusal(model, **options)
    assert found.startswith("noise.mine: ")
    assert says in found


def test_a_loaded_model_is_refused_with_the_same_words(models: dict[str, Path], tmp_path: Path) -> None:
    model = shutil.copytree(models["wan"], tmp_path / "model")
    scheduler(**DDIM)(model)
    with pytest.raises(ConfigError) as error:
        load_model(str(model))
    assert refusal(model) == f"noise.mine: {error.value}"
    adapter = load_model(str(models["cogvideox"]))
    with pytest.raises(ConfigError) as error:
        adapter.levels(1, (4, 3, 8, 12))
    assert refusal(models["cogvideox"], num_inference_steps=1) == f"noise.mine: {error.value}"


def test_stable_diffusions_scheduler_is_as_its_pipeline_corrects_it(models: dict[str, Path], tmp_path: Path) -> None:
    model = shutil.copytree(models["stable-diffusion"], tmp_path / "model")
    scheduler(steps_offset=0, clip_sample=True)(model)
    plan(model, num_inference_steps=999)
    assert "starts at timestep 1000" in refusal(model, num_inference_steps=1000)
    config = load_model(str(model)).pipe.scheduler.config
    assert (config.steps_offset, config.clip_sample) == (1, False)


def pickled(path: Path) -> None:
    path.rename(path.with_suffix(".bin"))


def of_a_variant(path: Path) -> None:
    path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))


@pytest.mark.parametrize("change", [pickled, of_a_variant])
@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_weights_that_cannot_be_loaded_are_refused(
    models: dict[str, Path], tmp_path: Path, change: Edit, file: str
) -> None:
    model = shutil.copytree(models["modelscope"], tmp_path / "model")
    change(model / file)
    assert f"no {file}; weights are read from safetensors without a variant" in refusal(model)


def test_weights_in_shards_are_looked_for_one_by_one(models: dict[str, Path], tmp_path: Path) -> None:
    model = shutil.copytree(models["modelscope"], tmp_path / "model")
    pipe = load_model(str(model)).pipe
    shutil.rmtree(model / "unet")
    pipe.unet.save_pretrained(model / "unet", max_shard_size="200KB")
    shards = sorted((model / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    plan(model)
    shards[-1].unlink()
    assert f"no unet/{shards[-1].name}; weights" in refusal(model)


def test_a_motion_adapter_is_for_stable_diffusion_alone(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = shutil.copytree(models["animatediff"] / "motion_adapter", tmp_path / "adapter")
    plan(models["stable-diffusion"], motion_adapter=str(adapter), frames=9)
    assert "AnimateDiffPipeline takes no motion_adapter" in refusal(models["animatediff"], motion_adapter=str(adapter))
    (adapter / "diffusion_pytorch_model.safetensors").unlink()
    says = refusal(models["stable-diffusion"], motion_adapter=str(adapter), frames=9)
    assert f"model {str(adapter)!r}: no diffusion_pytorch_model.safetensors" in says


def test_animatediff_on_the_scheduler_of_images_is_warned_of(
    models: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, adapter = shutil.copytree(models["stable-diffusion"], tmp_path / "model"), models["animatediff"]
    plan(adapter)
    assert not caplog.records
    plan(model, motion_adapter=str(adapter / "motion_adapter"), frames=9)
    assert "with scaled_linear betas" in caplog.text
    caplog.clear()
    scheduler(beta_schedule="linear")(model)
    plan(model, motion_adapter=str(adapter / "motion_adapter"), frames=9)
    assert not caplog.records


@pytest.mark.parametrize(
    ("family", "edit", "steps", "says"),
    [
        ("modelscope", scheduler(prediction_type="sample"), 20, "noise.mine: the network predicts the sample"),
        ("wan", scheduler(), 7, "num_inference_steps 7 may stall"),
    ],
)
def test_a_plan_says_what_inverts_badly(
    models: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    family: str,
    edit: Edit,
    steps: int,
    says: str,
) -> None:
    model = shutil.copytree(models[family], tmp_path / "model")
    plan(model)
    assert not caplog.records
    edit(model)
    plan(model, num_inference_steps=steps)
    assert says in caplog.text


@pytest.mark.parametrize("command", ["plan", "build"])
def test_a_refused_model_costs_no_work(project: Project, small_model: Path, tmp_path: Path, command: str) -> None:
    model = shutil.copytree(small_model, tmp_path / "model")
    scheduler(clip_sample=True)(model)
    project.configure(noise=[{"name": "small", "model": str(model), "num_inference_steps": 4}])
    project.write_list(project.rows(1))
    ran = project.run(command)
    assert ran.exit_code == 2
    assert "noise.small: the model's scheduler has clip_sample: true" in ran.stderr
    assert not (project.bank / "clips").exists()
