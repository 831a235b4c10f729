"""Options of ``noisebank synthesize``: what the YAML file and flags come to, and what counts in the fingerprint."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from noisebank.config import decode_options, flag_names, member_flag
from noisebank.errors import ConfigError
from noisebank.synthesis.checks import check_options
from noisebank.synthesis.options import (
    AnimateOptions,
    ImageOptions,
    RegenerateOptions,
    SynthesisOptions,
    SyntheticClipOptions,
    TransformersRewardOptions,
    synthesis_fingerprint,
)

DIGESTS = {"model": "a", "reward": "b"}
HOW_NOT_WHAT = {
    "out",
    "prompts",
    "fetch",
    "accelerator",
    "modules",
    "max_failed",
    "retry_failures",
    "maxcount",
    "batch_size",
}


def decoded(document: dict[str, Any], **flags: str) -> SynthesisOptions:
    return decode_options(SynthesisOptions, document, flags)


def test_the_published_configuration() -> None:
    """That of the paper, which is the default."""
    document = {
        "out": "./synthesized",
        "prompts": "far.txt",
        "clips": {"frames": 16, "size": 256, "fps": 8, "maxcount": 64},
        "images": {"model": None, "candidates": 16, "guidance_scale": 7.5},
        "reward": {
            "model": "yuvalkirstain/PickScore_v1",
            "processor": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        },
        "num_inference_steps": 25,
        "animate": {"until": 0.4, "step_size": 1.0, "guidance_scale": 7.5},
        "regenerate": {"from": 1.0},
        "seed": 0,
    }
    assert decoded(document) == decoded({"prompts": "far.txt"})
    assert decoded(document).regenerate.from_ == 1.0


def test_flags_beat_the_file() -> None:
    document = {"regenerate": {"from": 1.0}, "clips": {"size": 64}, "reward": {"model": "m"}}
    flags = {
        "regenerate.from": "0.8",
        "animate.step_size": "[10, 10, 1]",
        "clips.fps": "12",
        "reward.processor": "null",
    }
    options = decode_options(SynthesisOptions, document, flags)
    assert (options.regenerate.from_, options.animate.step_size) == (0.8, (10.0, 10.0, 1.0))
    assert (options.clips.fps, options.clips.size) == (12.0, 64)
    assert options.reward == TransformersRewardOptions(model="m", processor=None)
    assert decoded({}, **{"animate.step_size": "2"}).animate.step_size == 2.0
    assert {"regenerate.from", "reward.model", "images.candidates"} <= {*flag_names(SynthesisOptions)}
    assert member_flag("reward.model", SynthesisOptions) and not member_flag("reward.model")
    assert not member_flag("noise.x.model", SynthesisOptions)
    assert not member_flag("runner", SynthesisOptions) and not member_flag("reward", SynthesisOptions)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"regenerate": {"from_": 1.0}}, r"regenerate.from_: unknown key; allowed here: from, guidance_scale"),
        ({"regenerate": 1}, r"regenerate: a mapping with keys from from, guidance_scale is wanted"),
        ({"animate": {"step_size": [1, -1]}}, r"animate.step_size: -1.0 is not allowed; at least 0"),
        ({"animate": {"step_size": "fast"}}, r"animate.step_size: 'fast' is not allowed"),
        ({"reward": {"kind": "nobody's"}}, r"reward.kind: \"nobody's\" is not allowed; one of transformers"),
        ({"clips": {"frame_stride": 8}}, r"clips.frame_stride: unknown key"),
        ({"retry_failures": "http_404"}, r"retry_failures: 'http_404'.*all, empty_prompt, no_image"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decoded(document)


@pytest.mark.parametrize(
    "section", ["", "clips", "images", "reward", "animate", "regenerate"], ids=lambda section: section or "the job's"
)
def test_the_fingerprint_changes_with_what_changes_a_clip_and_with_nothing_else(section: str) -> None:
    options = SynthesisOptions(prompts="far.txt")
    unchanged = synthesis_fingerprint(options, DIGESTS)
    own = getattr(options, section) if section else options
    for field in dataclasses.fields(own):
        value = getattr(own, field.name)
        if dataclasses.is_dataclass(value) and field.name != "fetch":
            continue
        by_content = field.name in ("model", "processor", "motion_adapter") and section in ("", "reward")
        other = dataclasses.replace(own, **{field.name: value + 1 if isinstance(value, int | float) else "another"})
        changed = dataclasses.replace(options, **{section: other}) if section else other
        same = synthesis_fingerprint(changed, DIGESTS) == unchanged
        assert same == (field.name in HOW_NOT_WHAT or by_content), field.name
    for name in DIGESTS:
        assert synthesis_fingerprint(options, DIGESTS | {name: "z"}) != unchanged


def test_every_option_has_limits_and_a_help_text() -> None:
    for section in (SynthesisOptions, SyntheticClipOptions, ImageOptions, AnimateOptions, RegenerateOptions):
        for field in dataclasses.fields(section):
            assert field.metadata["help"] or dataclasses.is_dataclass(field.default), field.name
            if isinstance(field.default, int | float):
                assert None not in (field.metadata["minimum"], field.metadata["maximum"]), field.name


def job(folders: dict[str, str], clip: object, family: str, **options: Any) -> SynthesisOptions:
    known = {"clips": SyntheticClipOptions(frames=9, size=64), "num_inference_steps": 10} | options
    return SynthesisOptions(
        prompts="far.txt",
        model=folders[family],
        reward=TransformersRewardOptions(model=str(clip), processor=None),
        **known,
    )


@pytest.mark.parametrize("family", ["cogvideox", "wan", "ltx"])
def test_a_sampler_that_starts_from_noise_alone_needs_another_start(
    folders: dict[str, str], small_clip: object, family: str
) -> None:
    with pytest.raises(ConfigError, match=r"regenerate.from: 1 is not allowed.*at most 0.9"):
        check_options(job(folders, small_clip, family))
    digests = check_options(job(folders, small_clip, family, regenerate=RegenerateOptions(0.9)))
    assert sorted(digests) == ["model", "reward"]


def test_models_that_cannot_do_it_are_refused_before_any_is_loaded(
    folders: dict[str, str], small_clip: object, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r"model: .*StableDiffusionPipeline, which makes images only"):
        check_options(job(folders, small_clip, "stable-diffusion"))
    with pytest.raises(ConfigError, match=r"8k\+1 frames: 16 does not fit.*change clips.frames or clips.size"):
        check_options(job(folders, small_clip, "ltx", clips=SyntheticClipOptions(frames=16, size=64)))
    with pytest.raises(ConfigError, match=r"images.model: .*multiple of 32: 80 does not fit"):
        clips = SyntheticClipOptions(frames=9, size=80)
        check_options(job(folders, small_clip, "modelscope", clips=clips, images=ImageOptions(model=folders["ltx"])))
    with pytest.raises(ConfigError, match=r"prompts: a list is wanted"):
        check_options(dataclasses.replace(job(folders, small_clip, "modelscope"), prompts=""))
    two = check_options(job(folders, small_clip, "modelscope", images=ImageOptions(model=folders["stable-diffusion"])))
    assert sorted(two) == ["images", "model", "reward"]
    assert not [record for record in caplog.records if record.name.startswith("noisebank")]
    check_options(job(folders, small_clip, "modelscope", animate=AnimateOptions(step_size=(1.0, 30.0))))
    assert "animate.step_size: (1.0, 30.0) overshoots at 5 steps, the first of them 2" in caplog.text
