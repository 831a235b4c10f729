"""A noise set compared with pipelines that differ from the one it was made with in one thing each."""

import json

import diffusers
import pytest
import torch

from noisebank.fixtures.small_models import make_small_model
from noisebank.models import compare, load_model

SHAPES = {
    "modelscope": (4, 16, 8, 8),
    "cogvideox": (4, 3, 8, 8),
    "wan": (4, 3, 8, 8),
    "stable-diffusion": (4, 1, 8, 8),
    "animatediff": (4, 8, 8, 8),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: make_small_model(family, root / family) for family in SHAPES}


@pytest.fixture(scope="module")
def descriptions(folders):
    found = {name: load_model(str(folders[name])).describe(50, shape) for name, shape in SHAPES.items()}
    assert json.loads(json.dumps(found)) == found
    return found


def found(mismatches):
    return {(m.severity, m.what) for m in mismatches}


@pytest.fixture
def pipes(folders):
    return lambda family, dtype=torch.float32: diffusers.DiffusionPipeline.from_pretrained(folders[family], dtype=dtype)


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_same_model_matches_in_any_precision(descriptions, pipes, family, dtype):
    assert compare(descriptions[family], pipes(family, dtype), 50) == []


def test_another_family_is_an_error(descriptions, pipes):
    (mismatch,) = compare(descriptions["modelscope"], pipes("wan"))
    assert (mismatch.severity, mismatch.what) == ("error", "family")
    assert str(mismatch) == "error: family is 'wan', the noise set was made with 'modelscope'"
    assert found(compare(descriptions["modelscope"], object())) == {("error", "family")}


def test_another_vae_is_an_error(descriptions, pipes):
    pipe = pipes("modelscope")
    with torch.no_grad():
        pipe.vae.encoder.conv_in.weight.mul_(1.05)
    assert found(compare(descriptions["modelscope"], pipe)) == {("error", "vae")}


def test_another_shape_of_latents_is_an_error(descriptions, pipes, tmp_path):
    description = descriptions["modelscope"] | {"shape": [16, 16, 8, 8]}
    assert found(compare(description, pipes("modelscope"))) == {("error", "shape")}


def test_another_prediction_type_is_an_error(descriptions, pipes):
    pipe = pipes("modelscope")
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    assert ("error", "prediction_type") in found(compare(descriptions["modelscope"], pipe))


@pytest.mark.parametrize("scale", [1.02, 1.006])
def test_other_weights_are_a_warning(descriptions, pipes, scale):
    pipe = pipes("modelscope")
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.mul_(scale)
    assert found(compare(descriptions["modelscope"], pipe)) == {("warning", "weights")}


@pytest.mark.parametrize("family", ["modelscope", "cogvideox"])
def test_no_tensor_differs_unnoticed(descriptions, pipes, family):
    pipe = pipes(family)
    network = pipe.unet if family == "modelscope" else pipe.transformer
    for parameter in network.parameters():
        if not parameter.any():
            continue
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(1.02)
        assert found(compare(descriptions[family], pipe)) == {("warning", "weights")}
        parameter.data = before


def test_another_text_encoder_is_a_warning(descriptions, pipes):
    pipe = pipes("modelscope")
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight.mul_(1.02)
    assert found(compare(descriptions["modelscope"], pipe)) == {("warning", "text_encoder")}
    pipe.text_encoder = None
    assert compare(descriptions["modelscope"], pipe) == [], "prompts come as embeddings"


def test_another_scaling_of_latents_is_another_vae(descriptions, pipes):
    pipe = pipes("modelscope")
    pipe.vae.register_to_config(scaling_factor=2.0)
    (mismatch,) = compare(descriptions["modelscope"], pipe)
    assert (mismatch.severity, mismatch.what, mismatch.found) == ("error", "vae", {"scaling_factor": 2.0})
    pipe = pipes("wan")
    pipe.vae.register_to_config(latents_mean=[0.5] * 4)
    assert found(compare(descriptions["wan"], pipe)) == {("error", "vae")}


def test_an_option_of_the_network_is_a_warning(descriptions, pipes):
    pipe = pipes("cogvideox")
    rotary = pipe.transformer.config.use_rotary_positional_embeddings
    pipe.transformer.register_to_config(use_rotary_positional_embeddings=not rotary)
    (mismatch,) = compare(descriptions["cogvideox"], pipe)
    assert mismatch.found == {"use_rotary_positional_embeddings": not rotary}
    pipe.transformer.register_to_config(use_rotary_positional_embeddings=rotary, option_of_a_later_version=1)
    assert compare(descriptions["cogvideox"], pipe) == []


def test_another_scheduler_is_a_warning(descriptions, pipes):
    pipe = pipes("modelscope")
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    assert found(compare(descriptions["modelscope"], pipe)) == {("warning", "scheduler")}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipes("modelscope").scheduler.config, clip_sample=True)
    assert found(compare(descriptions["modelscope"], pipe)) == {("warning", "scheduler")}


def test_another_number_of_steps_is_a_warning(descriptions, pipes):
    pipe = pipes("modelscope")
    assert found(compare(descriptions["modelscope"], pipe, 25)) == {("warning", "num_inference_steps")}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    differences = {("warning", what) for what in ("num_inference_steps", "first_level", "levels")}
    assert found(compare(descriptions["modelscope"], pipe, 25)) == differences, "the schedules differ at 50 steps, too"


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_number_of_steps_that_no_schedule_has_is_not_allowed(descriptions, pipes, steps):
    with pytest.raises(ValueError, match=rf"num_inference_steps {steps} is not allowed; from 1 to 1000"):
        compare(descriptions["modelscope"], pipes("modelscope"), steps)


@pytest.mark.parametrize(
    ("family", "options", "says"),
    [("wan", {"use_dynamic_shifting": True}, "`mu` must be passed"), ("modelscope", {"num_train_timesteps": 20}, "50")],
)
def test_a_scheduler_that_cannot_take_the_steps_is_a_warning(descriptions, pipes, family, options, says):
    pipe = pipes(family)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **options)
    mismatches = compare(descriptions[family], pipe)
    assert found(mismatches) == {("warning", "scheduler")}
    assert type(pipe.scheduler).__name__ in mismatches[0].found and says in mismatches[0].found


def test_what_is_switched_on_in_the_pipeline_is_a_warning(descriptions, pipes):
    pipe = pipes("animatediff")
    description = descriptions["animatediff"]
    pipe.enable_freeu(0.9, 0.2, 1.5, 1.6)
    (mismatch,) = compare(description, pipe)
    assert str(mismatch) == "warning: freeu is 'on', the noise set was made with 'off'"
    pipe.disable_freeu()
    pipe.enable_free_init()
    assert found(compare(description, pipe)) == {("warning", "free_init")}
    pipe.disable_free_init()
    assert compare(description, pipe) == []
    pipe.enable_free_noise(context_length=4, context_stride=2)
    assert found(compare(description, pipe)) == {("warning", "weights")}, "it changes the network's modules"


def test_another_spacing_shows_in_the_first_level(descriptions, pipes):
    pipe = pipes("modelscope")
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    assert found(compare(descriptions["modelscope"], pipe)) == {("warning", "first_level"), ("warning", "levels")}


def test_another_shift_is_a_warning(descriptions, pipes):
    pipe = pipes("wan")
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, shift=7.0)
    assert ("warning", "shift (shift)") in found(compare(descriptions["wan"], pipe))
    pipe.scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    assert found(compare(descriptions["wan"], pipe)) == {("warning", "scheduler")}
    pipe = pipes("cogvideox")
    pipe.scheduler = diffusers.CogVideoXDDIMScheduler.from_config(pipe.scheduler.config, snr_shift_scale=3.0)
    assert ("warning", "shift (snr_shift_scale)") in found(compare(descriptions["cogvideox"], pipe))


def test_comparing_leaves_the_pipeline_as_it_was(descriptions, pipes):
    pipe = pipes("modelscope")
    pipe.scheduler.set_timesteps(7)
    compare(descriptions["modelscope"], pipe)
    assert len(pipe.scheduler.timesteps) == 7
