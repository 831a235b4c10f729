"""Every family through its own diffusers pipeline: video -> latents -> noise -> ``pipe(latents=...)`` -> latents."""

import gc
import inspect
import sys
import weakref

import pytest
import torch

from noisebank.errors import ConfigError, ShapeMismatch
from noisebank.fixtures.small_models import SMALL_FAMILIES, make_small_model, smooth_clip
from noisebank.inversion import invert, reconstruct, relative_error
from noisebank.models import (
    FAMILIES,
    ModelAdapter,
    ModelConfig,
    compare,
    family_of,
    from_pipeline,
    load_clip_rules,
    load_for_inversion,
    load_model,
    pipeline_config,
    pipeline_inputs,
    register_family,
)
from noisebank.options import ClipOptions, Config, NoiseOptions
from noisebank.stages.noise import NoiseStage

SHAPES = {
    "modelscope": (8, 64, 64),
    "animatediff": (8, 64, 64),
    "stable-diffusion": (1, 64, 64),
    "cogvideox": (9, 64, 64),
    "wan": (9, 64, 64),
    "ltx": (9, 64, 96),
}
FAMILY_NAMES = sorted(SHAPES)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: make_small_model(family, root / family) for family in SMALL_FAMILIES}


@pytest.fixture(scope="session")
def adapters(folders):
    return {family: load_model(str(folder)) for family, folder in folders.items()}


def clip_of(family, seed=1):
    return smooth_clip(*SHAPES[family], seed=seed)[None]


def call(adapter, latents, num_inference_steps):
    """The pipeline's own ``__call__`` for the empty prompt, from canonical noise to canonical latents."""
    conditioning = adapter.conditioning("")
    shape = tuple(latents.shape[1:])
    arguments = {"prompt_embeds": conditioning["encoder_hidden_states"]}
    if "encoder_attention_mask" in conditioning:
        arguments["prompt_attention_mask"] = conditioning["encoder_attention_mask"]
    output = adapter.pipe(
        **arguments,
        **pipeline_inputs(adapter.describe(num_inference_steps, shape), latents),
        num_inference_steps=num_inference_steps,
        guidance_scale=1.0,
        output_type="latent",
        return_dict=False,
    )[0]
    return from_pipeline(output.float(), adapter.layout, shape)


def test_there_is_a_small_model_of_every_family():
    assert sorted(SMALL_FAMILIES) == FAMILY_NAMES == sorted(adapter.family for adapter in FAMILIES.values())


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_round_trip_through_the_real_pipeline(adapters, family):
    adapter = adapters[family]
    latents = adapter.encode(clip_of(family))
    assert latents.shape[1:] == adapter.rules.latent_shape(*SHAPES[family])
    assert 0.6 < latents.std() < 1.6  # as a real VAE's scaling gives
    levels, network = adapter.levels(50, tuple(latents.shape[1:])), adapter.network()
    error = {}
    for inverter in ("ddim", "fixed-point"):
        noise = invert(network, latents, levels, NoiseOptions(inverter=inverter)).noise
        error[inverter] = relative_error(call(adapter, noise, 50), latents).item()
    error["float16"] = relative_error(call(adapter, noise.half().float(), 50), latents).item()
    assert 2e-2 < error["ddim"] < 3e-1
    assert error["fixed-point"] < 2e-3
    assert error["fixed-point"] < error["ddim"] / 20
    assert error["float16"] < error["fixed-point"] + 1.4e-2


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_inversion_needs_no_more_leaves_memory_and_changes_nothing(folders, adapters, family):
    whole, kept = adapters[family], load_model(str(folders[family]))
    gone = [weakref.ref(part) for part in (kept.pipe.text_encoder, kept.pipe.vae.decoder)]
    kept.keep_for_inversion("a dog")
    gc.collect()
    assert [part() for part in gone] == [None, None]
    latents = kept.encode(clip_of(family))
    assert torch.equal(latents, whole.encode(clip_of(family)))
    at = torch.full((1,), 500)
    assert torch.equal(kept.network("a dog")(latents, at), whole.network("a dog")(latents, at))
    shape = tuple(latents.shape[1:])
    assert kept.describe(4, shape) == whole.describe(4, shape)
    with pytest.raises(ValueError, match="prompt 'a cat': the text encoder is gone"):
        kept.network("a cat")


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_vae_in_bfloat16_errs_by_its_rounding(folders, adapters, family):
    coarse = load_model(str(folders[family]), vae_precision="bfloat16")
    latents = adapters[family].encode(clip_of(family))
    error = relative_error(coarse.encode(clip_of(family)), latents).item()
    assert 1e-4 < error < 5e-2
    assert coarse.encode(clip_of(family)).dtype == torch.float32
    decoded = coarse.decode(latents)
    difference = (decoded.float() - adapters[family].decode(latents).float()).abs().mean().item()
    assert decoded.dtype == torch.uint8 and difference < 4


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_tf32_is_for_the_vae_alone(folders, monkeypatch, precision):
    adapter = load_model(str(folders["modelscope"]), vae_precision=precision)
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    load_for_inversion(NoiseOptions(model=str(folders["modelscope"])))  # (which switches it off)
    allowed = []
    encode = type(adapter).encode_clip

    def look(self, pixels):
        allowed.append([backend.allow_tf32 for backend in backends])
        return encode(self, pixels)

    monkeypatch.setattr(type(adapter), "encode_clip", look)
    adapter.encode(clip_of("modelscope"))
    assert allowed == [[precision == "tf32"] * 2]
    assert [backend.allow_tf32 for backend in backends] == [False, False]


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("num_inference_steps", [4, 7])
def test_levels_are_those_that_the_pipeline_steps_through(adapters, family, num_inference_steps, monkeypatch):
    adapter = adapters[family]
    shape = adapter.rules.latent_shape(*SHAPES[family])
    levels = adapter.levels(num_inference_steps, shape)
    scheduler, seen = adapter.pipe.scheduler, []
    step = scheduler.step

    def recorded(model_output, timestep, sample, **options):
        result = step(model_output, timestep, sample, **options)
        if levels.prediction_type == "flow":
            pair = [float(scheduler.sigmas[scheduler.step_index - 1]), float(scheduler.sigmas[scheduler.step_index])]
        else:
            previous = int(timestep) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
            final = scheduler.final_alpha_cumprod
            clean = scheduler.alphas_cumprod[previous] if previous >= 0 else final
            pair = [float(scheduler.alphas_cumprod[int(timestep)]), float(clean)]
        seen.append([float(timestep), *pair])
        return result

    # diffusers' pipelines ask for the signature of step: keep its parameters.
    recorded.__signature__ = inspect.signature(step)
    monkeypatch.setattr(scheduler, "step", recorded)
    call(adapter, torch.zeros(1, *shape), num_inference_steps)
    expected = torch.stack([levels.timesteps.double(), levels.level_t, levels.level_prev], dim=1)
    torch.testing.assert_close(torch.tensor(seen, dtype=torch.float64), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_network_is_the_pipelines_own_prediction(adapters, family):
    """Two steps of the pipeline and two of ours, with an actual prompt and guidance."""
    adapter = adapters[family]
    shape = adapter.rules.latent_shape(*SHAPES[family])
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    output = adapter.pipe(
        "a dog on the beach",
        negative_prompt="",
        **pipeline_inputs(adapter.describe(2, shape), noise),
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="latent",
        return_dict=False,
    )[0]
    expected = from_pipeline(output.float(), adapter.layout, shape)
    levels = adapter.levels(2, shape)
    guided = reconstruct(adapter.network("a dog on the beach", guidance_scale=3.0), noise, levels)
    assert relative_error(guided, expected).item() < 1e-4
    assert relative_error(reconstruct(adapter.network(), noise, levels), expected).item() > 1e-3


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_batches_encode_and_predict_clip_by_clip(adapters, family):
    adapter = adapters[family]
    clips = torch.cat([clip_of(family, 1), clip_of(family, 2)])
    latents = adapter.encode(clips)
    torch.testing.assert_close(latents[1:], adapter.encode(clips[1:]), rtol=0, atol=0)
    network = adapter.network()
    levels = adapter.levels(10, tuple(latents.shape[1:]))
    timesteps = levels.timesteps[torch.tensor([2, 7])]
    with torch.inference_mode():
        both = network(latents, timesteps)
        for i in range(2):
            torch.testing.assert_close(
                both[i : i + 1], network(latents[i : i + 1], timesteps[i : i + 1]), rtol=1e-3, atol=1e-4
            )
    assert both.dtype == torch.float32


@pytest.mark.parametrize(
    ("family", "shape", "fits"),
    [
        ("modelscope", (16, 60, 64), "height must be a multiple of 8: 60 does not fit, 56 or 64 would"),
        ("animatediff", (33, 64, 64), "33 does not fit, 30, 31, 32 would"),
        ("stable-diffusion", (16, 64, 64), "16 does not fit, 1 would"),
        ("cogvideox", (16, 64, 64), "4k\\+1 frames: 16 does not fit, 13, 17, 21 would"),
        ("cogvideox", (17, 64, 72), "width must be a multiple of 16: 72 does not fit, 64 or 80 would"),
        ("wan", (16, 64, 64), "4k\\+1 frames: 16 does not fit, 13, 17, 21 would"),
        ("ltx", (16, 64, 64), "8k\\+1 frames: 16 does not fit, 9, 17, 25 would"),
        ("ltx", (17, 48, 64), "height must be a multiple of 32: 48 does not fit, 32 or 64 would"),
    ],
)
def test_clips_that_do_not_fit_are_told_what_would(folders, adapters, family, shape, fits):
    """From the JSON files alone, and the same from the loaded model."""
    rules = load_clip_rules(str(folders[family]))
    assert rules == adapters[family].rules
    with pytest.raises(ShapeMismatch, match=fits):
        rules.check(*shape)
    with pytest.raises(ShapeMismatch, match=fits):
        adapters[family].encode(torch.zeros(1, *shape, 3, dtype=torch.uint8))
    rules.check(*SHAPES[family])


def test_rules_of_the_published_models():
    """The configurations that the hub's models have, in what matters."""

    def rules(pipeline_class, **components):
        return family_of(pipeline_class).clip_rules(
            ModelConfig(pipeline_class, {}, lambda name: components.get(name, {}))
        )

    modelscope = rules("TextToVideoSDPipeline", vae={"block_out_channels": [128, 256, 512, 512], "latent_channels": 4})
    assert modelscope.latent_shape(16, 256, 256) == (4, 16, 32, 32)
    cogvideox = rules(
        "CogVideoXPipeline",
        vae={"block_out_channels": [128, 256, 256, 512], "temporal_compression_ratio": 4},
        transformer={"in_channels": 16, "patch_size": 2},
    )
    assert cogvideox.latent_shape(49, 480, 720) == (16, 13, 60, 90)
    assert rules("WanPipeline", vae={"z_dim": 16}, transformer={"in_channels": 16}).latent_shape(81, 480, 832) == (
        16,
        21,
        60,
        104,
    )
    ltx = rules("LTXPipeline", vae={"spatio_temporal_scaling": [True, True, True, False], "patch_size": 4})
    assert ltx.latent_shape(161, 512, 704) == (128, 21, 16, 22)


@pytest.mark.parametrize(("missing", "said"), [("patch_size", "a spatial_comp"), ("patch_size_t", "a temporal_comp")])
def test_an_ltx_vae_that_says_nothing_of_its_ratio_is_refused(missing, said):
    config = {"vae": {missing: None}, "transformer": {}}
    with pytest.raises(ConfigError, match=f"has neither {said}"):
        family_of("LTXPipeline").clip_rules(ModelConfig("LTXPipeline", {}, config.__getitem__))


def test_cogvideox_15_wants_whole_temporal_patches():
    config = {
        "vae": {"block_out_channels": [128, 256, 256, 512]},
        "transformer": {"patch_size": 2, "patch_size_t": 2},
    }
    rules = family_of("CogVideoXPipeline").clip_rules(ModelConfig("CogVideoXPipeline", {}, config.__getitem__))
    with pytest.raises(ShapeMismatch, match="17 does not fit"):
        rules.check(17, 768, 1360)
    rules.check(13, 768, 1360)


@pytest.mark.parametrize("setting", [{"expand_timesteps": True}, {"boundary_ratio": 0.875}])
def test_wan_22_is_refused_by_its_configuration(setting):
    with pytest.raises(ConfigError, match=r"Wan 2\.2"):
        family_of("WanPipeline").clip_rules(ModelConfig("WanPipeline", setting, lambda name: {}))


def test_an_unknown_pipeline_names_the_known_and_the_way_to_add_one():
    with pytest.raises(ConfigError, match=r"FooPipeline.*CogVideoXPipeline.*register_family"):
        family_of("FooPipeline")

    class Foo(ModelAdapter):
        pipeline_class = "FooPipeline"

    register_family(Foo)
    try:
        assert family_of("FooPipeline") is Foo
    finally:
        del FAMILIES["FooPipeline"]


def test_a_family_of_another_package_counts_with_its_version(folders, monkeypatch):
    noise = NoiseOptions(model=str(folders["modelscope"]), num_inference_steps=4)
    config = Config(clips=ClipOptions(frames=2, size=64), noise=(noise,))

    def mark():
        return NoiseStage(noise).identify(config, None).fingerprint

    ours = mark()
    family = type("Own", (family_of("TextToVideoSDPipeline"),), {"__module__": "tests.own"})
    with pytest.raises(ValueError, match="TextToVideoSDPipeline has an adapter already, noisebank"):
        register_family(family)
    monkeypatch.setitem(FAMILIES, "TextToVideoSDPipeline", family)
    marks = [ours]
    for version in ("1.0", "1.1"):
        monkeypatch.setattr(sys.modules["tests"], "__version__", version, raising=False)
        marks.append(mark())
    assert len(set(marks)) == 3


def test_stable_diffusion_becomes_animatediff_with_a_motion_adapter(folders, tmp_path):
    motion_adapter = str(folders["animatediff"] / "motion_adapter")
    adapter = load_model(str(folders["stable-diffusion"]), motion_adapter=motion_adapter)
    assert adapter.family == "animatediff"
    assert load_clip_rules(str(folders["stable-diffusion"]), motion_adapter) == adapter.rules
    assert adapter.encode(clip_of("animatediff")).shape == (1, 4, 8, 8, 8)
    with pytest.raises(ConfigError, match="takes no motion_adapter"):
        load_model(str(folders["wan"]), motion_adapter=motion_adapter)


def test_schedulers_are_swapped_for_their_deterministic_twin(folders):
    import diffusers

    pipe = diffusers.CogVideoXPipeline.from_pretrained(folders["cogvideox"])
    pipe.scheduler = diffusers.CogVideoXDPMScheduler.from_config(pipe.scheduler.config, snr_shift_scale=2.0)
    adapter = family_of("CogVideoXPipeline")(pipeline_config(pipe), pipe, torch.float32, "cpu")
    assert type(adapter.pipe.scheduler).__name__ == "CogVideoXDDIMScheduler"
    assert adapter.pipe.scheduler.config.snr_shift_scale == 2.0

    pipe = diffusers.WanPipeline.from_pretrained(folders["wan"])
    pipe.scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0
    )
    adapter = family_of("WanPipeline")(pipeline_config(pipe), pipe, torch.float32, "cpu")
    assert type(adapter.pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    assert adapter.pipe.scheduler.config.shift == 5.0

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folders["stable-diffusion"], safety_checker=None)
    pipe.scheduler = diffusers.PNDMScheduler.from_config(pipe.scheduler.config)
    adapter = family_of("StableDiffusionPipeline")(pipeline_config(pipe), pipe, torch.float32, "cpu")
    assert type(adapter.pipe.scheduler).__name__ == "DDIMScheduler"
    assert adapter.pipe.scheduler.config.clip_sample is False
    pipe.scheduler = diffusers.DDIMScheduler(clip_sample=True)
    with pytest.raises(ConfigError, match="clip_sample"):
        family_of("StableDiffusionPipeline")(pipeline_config(pipe), pipe, torch.float32, "cpu")


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_half_precision_networks_keep_latents_in_float32(folders, family):
    adapter = load_model(str(folders[family]), dtype=torch.bfloat16)
    latents = adapter.encode(clip_of(family))
    assert latents.dtype == torch.float32
    assert adapter.pipe.vae.dtype == torch.float32
    levels = adapter.levels(4, tuple(latents.shape[1:]))
    with torch.inference_mode():
        prediction = adapter.network()(latents, levels.timesteps[:1])
    assert prediction.dtype == torch.float32
    assert torch.isfinite(prediction).all()
    assert compare(adapter.describe(4, tuple(latents.shape[1:])), adapter.pipe) == []
