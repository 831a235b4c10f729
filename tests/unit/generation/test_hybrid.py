"""Hybrid semantics through the ``__call__`` of every family's own pipeline: which text each step sees, bit for bit."""

from __future__ import annotations

import functools
import subprocess
import sys
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import diffusers
import pytest
import torch

from noisebank import ConfigError, hybrid_semantics
from noisebank.fixtures.small_models import SMALL_FAMILIES
from noisebank.generation.hybrid import rewritten_steps
from noisebank.models import family_of, pipeline_config

PROMPT, REWRITTEN, OTHER = "a dog", "a golden dog on a beach", "a tram in the rain"
TOKENS = 32
FRAMES = {"modelscope": 2, "animatediff": 2, "cogvideox": 5, "wan": 5, "ltx": 9}
STEPS, GAMMA = 2, 0.5
Text = str | tuple[str, ...]


@functools.cache
def made(family: str, dtype: torch.dtype = torch.float32) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = SMALL_FAMILIES[family]().to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(params=SMALL_FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def pipe(family: str) -> Iterator[Any]:
    yield made(family)
    assert_untouched(made(family))


@pytest.fixture
def diffusion() -> Iterator[Any]:
    """Stable Diffusion's pipeline, whose scheduler and network a test may exchange."""
    pipe = made("stable-diffusion")
    scheduler, unet = pipe.scheduler, pipe.unet
    yield pipe
    pipe.scheduler, pipe.unet = scheduler, unet
    assert_untouched(pipe)


def assert_untouched(pipe: Any) -> None:
    assert "encode_prompt" not in vars(pipe)
    assert not network_of(pipe)._forward_pre_hooks


def network_of(pipe: Any) -> torch.nn.Module:
    return getattr(pipe, family_of(type(pipe).__name__).network_name)


def generate(pipe: Any, prompt: Any = PROMPT, **options: Any) -> torch.Tensor:
    """Latents of a few steps from fixed noise."""
    family = family_of(type(pipe).__name__)
    fixed = {"height": 32, "width": 32, "output_type": "latent", "return_dict": False}
    if family.family in FRAMES:
        fixed["num_frames"] = FRAMES[family.family]
    if family.network_name == "transformer":
        fixed["max_sequence_length"] = TOKENS
    options = {"num_inference_steps": STEPS, "guidance_scale": 1.0, **fixed, **options}
    return pipe(prompt, generator=torch.Generator().manual_seed(0), **options)[0]


@functools.cache
def plain_run(pipe: Any, prompt: Text, **options: Any) -> torch.Tensor:
    """:func:`generate` without hybrid semantics; of several prompts where they are a tuple."""
    return generate(pipe, list(prompt) if isinstance(prompt, tuple) else prompt, **options)


def texts_of_calls(pipe: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[tuple[float, list[Any]]]:
    """The timestep, text and mask of every call of the network."""
    network, calls = network_of(pipe), []
    forward = network.forward

    @functools.wraps(forward)
    def seen(*args: Any, **kwargs: Any) -> Any:
        text = [kwargs[name] for name in ("encoder_hidden_states", "encoder_attention_mask") if name in kwargs]
        assert all(tensor.is_contiguous() for tensor in text)
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        calls.append((timestep.flatten()[0].item(), [tensor.clone() for tensor in text]))
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(network, "forward", seen)
        generate(pipe, **options)
    return calls


def same(first: list[tuple[float, list[Any]]], second: list[tuple[float, list[Any]]]) -> bool:
    return [t for t, _ in first] == [t for t, _ in second] and all(
        torch.equal(a, b)
        for (_, one), (_, other) in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("options", [{"guidance_scale": 1.0}, {"guidance_scale": 5.0, "negative_prompt": "blurry"}])
def test_the_ends_are_plain_runs_bit_for_bit(pipe: Any, options: dict[str, Any]) -> None:
    plain, rewritten = (plain_run(pipe, prompt, **options) for prompt in (PROMPT, REWRITTEN))
    assert not torch.equal(plain, rewritten)
    for text, gamma, expected in ((REWRITTEN, 1.0, rewritten), (REWRITTEN, 0.0, plain), (PROMPT, GAMMA, plain)):
        with hybrid_semantics(pipe, text, gamma):
            assert torch.equal(generate(pipe, PROMPT, **options), expected)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_the_first_steps_see_the_rewritten_prompt_and_the_others_the_prompt(
    pipe: Any, guidance_scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, rewritten = (
        texts_of_calls(pipe, monkeypatch, prompt=prompt, guidance_scale=guidance_scale)
        for prompt in (PROMPT, REWRITTEN)
    )
    with hybrid_semantics(pipe, REWRITTEN, GAMMA):
        hybrid = texts_of_calls(pipe, monkeypatch, guidance_scale=guidance_scale)
    switch = len(plain) // STEPS
    assert len(hybrid) == len(plain)
    assert same(hybrid[:switch], rewritten[:switch]) and same(hybrid[switch:], plain[switch:])
    assert not same(hybrid[:switch], plain[:switch]) and not same(hybrid[switch:], rewritten[switch:])


def test_in_a_batch_each_row_has_its_own_rewritten_prompt(pipe: Any) -> None:
    plain, rewritten = (plain_run(pipe, (prompt, OTHER), guidance_scale=5.0) for prompt in (PROMPT, REWRITTEN))
    with hybrid_semantics(pipe, [REWRITTEN, OTHER], GAMMA):
        hybrid = generate(pipe, [PROMPT, OTHER], guidance_scale=5.0)
    assert torch.equal(hybrid[1], plain[1])
    assert not torch.equal(hybrid[0], plain[0]) and not torch.equal(hybrid[0], rewritten[0])
    assert torch.equal(hybrid[1], rewritten[1])


def embeddings(pipe: Any, prompt: str) -> dict[str, torch.Tensor]:
    """A prompt and no negative prompt as the pipeline's own arguments."""
    family = family_of(type(pipe).__name__)
    options = {"max_sequence_length": TOKENS} if family.network_name == "transformer" else family.prompt_options
    with torch.no_grad():
        encoded = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=True, **options)
    names = ("prompt_embeds", "prompt_attention_mask") if family.family == "ltx" else ("prompt_embeds",)
    return dict(zip((*names, *(f"negative_{name}" for name in names)), encoded, strict=True))


def test_a_prompt_may_be_given_as_embeddings(pipe: Any) -> None:
    given = embeddings(pipe, PROMPT)
    plain, rewritten = (plain_run(pipe, prompt, guidance_scale=5.0) for prompt in (PROMPT, REWRITTEN))
    for gamma, expected in ((0.0, plain), (1.0, rewritten)):
        with hybrid_semantics(pipe, REWRITTEN, gamma):
            assert torch.equal(generate(pipe, None, guidance_scale=5.0, **given), expected)
    half = {name: tensor[:, :5] for name, tensor in given.items()}
    with (
        hybrid_semantics(pipe, REWRITTEN, GAMMA),
        pytest.raises(
            ValueError, match=r"the rewritten prompt is encoded as \(1, \d+, 32\), the prompt as \(1, 5, 32\)"
        ),
    ):
        generate(pipe, None, guidance_scale=5.0, **half)
    assert_untouched(pipe)


def test_bfloat16_is_as_exact(family: str) -> None:
    pipe = made(family, torch.bfloat16)
    plain, rewritten = (plain_run(pipe, prompt, guidance_scale=5.0) for prompt in (PROMPT, REWRITTEN))
    assert not torch.equal(plain, rewritten)
    for gamma, expected in ((1.0, rewritten), (0.0, plain)):
        with hybrid_semantics(pipe, REWRITTEN, gamma):
            assert torch.equal(generate(pipe, guidance_scale=5.0), expected)


def test_several_results_a_prompt_and_a_callback(diffusion: Any) -> None:
    several = {"num_images_per_prompt": 2, "guidance_scale": 5.0}
    expected = generate(diffusion, REWRITTEN, **several)
    steps = []
    with hybrid_semantics(diffusion, REWRITTEN, 1.0):
        found = generate(diffusion, callback_on_step_end=lambda *given: steps.append(given) or {}, **several)
    assert torch.equal(found, expected) and len(steps) == STEPS


def test_heuns_two_calls_a_step_see_the_same_text(diffusion: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    diffusion.scheduler = diffusers.HeunDiscreteScheduler.from_config(diffusion.scheduler.config)
    three = functools.partial(texts_of_calls, diffusion, monkeypatch, num_inference_steps=3)
    plain, rewritten = (three(prompt=prompt) for prompt in (PROMPT, REWRITTEN))
    with hybrid_semantics(diffusion, REWRITTEN, 0.67):
        hybrid = three()
    assert len(plain) == 5
    assert same(hybrid, rewritten[:3] + plain[3:])


def test_every_pass_of_free_init_begins_with_the_rewritten_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = made("animatediff")
    pipe.enable_free_init(num_iters=2)
    try:
        plain, rewritten = (texts_of_calls(pipe, monkeypatch, prompt=prompt) for prompt in (PROMPT, REWRITTEN))
        with hybrid_semantics(pipe, REWRITTEN, GAMMA):
            hybrid = texts_of_calls(pipe, monkeypatch)
    finally:
        pipe.disable_free_init()
    assert len(plain) == 2 * STEPS
    assert same(hybrid, rewritten[:1] + plain[1:2] + rewritten[2:3] + plain[3:])


def test_a_compiled_network_switches_too(diffusion: Any) -> None:
    plain, rewritten = (plain_run(diffusion, prompt) for prompt in (PROMPT, REWRITTEN))
    with hybrid_semantics(diffusion, REWRITTEN, GAMMA):
        hybrid = generate(diffusion)
    assert not torch.equal(hybrid, plain) and not torch.equal(hybrid, rewritten)
    diffusion.unet = torch.compile(diffusion.unet, backend="eager")
    for gamma, expected in ((GAMMA, hybrid), (1.0, rewritten), (0.0, plain)):
        with hybrid_semantics(diffusion, REWRITTEN, gamma):
            assert torch.equal(generate(diffusion), expected)


def test_the_number_of_steps_is_exact_where_floating_point_is_not() -> None:
    for steps in range(1, 201):
        for hundredths in range(101):
            assert rewritten_steps(steps, hundredths / 100) == steps * Fraction(hundredths, 100) // 1
    assert (int(50 * 0.58), rewritten_steps(50, 0.58)) == (28, 29)


def test_a_share_that_is_no_step_is_warned_of_once(diffusion: Any) -> None:
    plain = plain_run(diffusion, PROMPT)
    with pytest.warns(UserWarning, match=r"gamma 0.04 of 2 steps is no step.*; 0.5 is one") as caught:
        with hybrid_semantics(diffusion, REWRITTEN, 0.04):
            assert torch.equal(generate(diffusion), plain)
        assert len([warning for warning in caught if "gamma" in str(warning.message)]) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="gamma")
        for gamma in (0.0, 0.5):
            with hybrid_semantics(diffusion, REWRITTEN, gamma):
                generate(diffusion)


def test_everything_is_removed_where_the_body_or_the_pipeline_fails(diffusion: Any) -> None:
    plain = plain_run(diffusion, PROMPT)
    with pytest.raises(RuntimeError, match="mine"), hybrid_semantics(diffusion, REWRITTEN, 1.0):
        raise RuntimeError("mine")
    assert_untouched(diffusion)
    calls = pytest.raises(ValueError, match="called with 2 prompts, 1 are rewritten")
    with calls, hybrid_semantics(diffusion, REWRITTEN, 1.0):
        generate(diffusion, [PROMPT, OTHER])
    assert_untouched(diffusion)
    assert torch.equal(generate(diffusion), plain)
    with hybrid_semantics(diffusion, None, 1.0):
        assert torch.equal(generate(diffusion), plain)


def test_what_shadowed_the_encoder_before_does_so_again(diffusion: Any) -> None:
    encode, calls = diffusion.encode_prompt, []

    @functools.wraps(encode)
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return encode(*args, **kwargs)

    diffusion.encode_prompt = counted
    try:
        expected = generate(diffusion, REWRITTEN)
        with hybrid_semantics(diffusion, REWRITTEN, 1.0):
            assert torch.equal(generate(diffusion), expected)
        assert diffusion.encode_prompt is counted and len(calls) == 3
    finally:
        del diffusion.encode_prompt


def enter(pipe: Any, rewritten: Any = REWRITTEN, gamma: float = 0.4) -> None:
    with hybrid_semantics(pipe, rewritten, gamma):
        pass


def test_nothing_is_nested(diffusion: Any) -> None:
    sibling = diffusers.StableDiffusionPipeline(**diffusion.components, requires_safety_checker=False)
    sibling.set_progress_bar_config(disable=True)
    with hybrid_semantics(diffusion, REWRITTEN, GAMMA):
        for rewritten in (REWRITTEN, None):
            with pytest.raises(ValueError, match="is in hybrid_semantics already; leave that first"):
                enter(diffusion, rewritten)
        generate(diffusion)
        for rewritten in (REWRITTEN, None):
            unknown = pytest.raises(ValueError, match="called with a text that this pipeline has not encoded")
            with unknown, hybrid_semantics(sibling, rewritten, GAMMA):
                generate(sibling)
    assert torch.equal(generate(sibling), plain_run(diffusion, PROMPT))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": -0.01}, r"gamma -0.01 is not allowed; 0 .* to 1"),
        ({"gamma": 1.01}, "gamma 1.01 is not allowed"),
        ({"gamma": float("nan")}, "gamma nan is not allowed"),
        ({"rewritten": []}, r"rewritten \[\] is not allowed; a text, a list"),
        ({"rewritten": ["a", 5]}, r"rewritten \['a', 5\] is not allowed"),
        ({"rewritten": 5}, "rewritten 5 is not allowed"),
    ],
)
def test_wrong_arguments_are_named(diffusion: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        enter(diffusion, **arguments)


def test_pipelines_that_cannot_be_served_say_why(diffusion: Any) -> None:
    parts = {name: diffusion.components[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    xl = diffusers.StableDiffusionXLPipeline(**parts, text_encoder_2=None, tokenizer_2=None)
    with pytest.raises(ConfigError, match="no model family for StableDiffusionXLPipeline"):
        enter(xl)
    without = diffusers.StableDiffusionPipeline(
        **{**parts, "text_encoder": None}, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    with pytest.raises(ConfigError, match="this StableDiffusionPipeline has no text_encoder; load it with one"):
        enter(without)
    wan = made("wan")
    names = ("vae", "text_encoder", "tokenizer", "transformer", "scheduler")
    two = diffusers.WanPipeline(**{name: wan.components[name] for name in names}, boundary_ratio=0.5)
    assert pipeline_config(two).index["boundary_ratio"] == 0.5
    with pytest.raises(ConfigError, match=r"Wan 2\.2"):
        enter(two)
    animate = SMALL_FAMILIES["animatediff"]()
    animate.enable_free_noise(context_length=2, context_stride=1)
    with pytest.raises(ConfigError, match=r"FreeNoise .* call pipe.disable_free_noise\(\)"):
        enter(animate)


def test_importing_it_loads_no_model_code() -> None:
    code = "import noisebank, sys; light = {'torch', 'apache_beam', 'diffusers'}.isdisjoint(sys.modules)\n"
    code += "from noisebank import hybrid_semantics; print(light, 'diffusers' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "False"]
