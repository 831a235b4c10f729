"""Every option of ``noisebank synthesize``, defined once, as those of a build are (:mod:`noisebank.options`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from noisebank.errors import ConfigError
from noisebank.options import (
    MAX_FRAMES,
    PIXEL_FORMATS,
    PRECISIONS,
    SECTIONS,
    FetchOptions,
    Size,
    fingerprint,
    option,
    register_options,
)

STAGE = "tars"
"""Folder of the tars, their contact sheets and receipts."""
FAILURE_CODES = ("empty_prompt", "no_image", "not_finite", "reward_not_finite", "wrong_shape")
"""Codes of the prompts that get no clip, besides what only their list is to blame for."""


def parse_failure_codes(value: Any) -> tuple[str, ...]:
    """Codes of failures from texts such as ``no_image,not_finite``, one or a list of them."""
    texts = value if isinstance(value, list) else [value]
    codes = tuple(code.strip() for text in texts for code in str(text).split(","))
    for code in codes:
        if code not in ("all", *FAILURE_CODES):
            raise ValueError(f"codes, which {code!r} is not: all, {', '.join(FAILURE_CODES)}")
    return codes


@dataclass(frozen=True)
class SyntheticClipOptions:
    """What a synthetic clip is."""

    frames: int = option(16, "frames in a clip", minimum=2, maximum=MAX_FRAMES)
    size: int | Size = option(256, "side, or [height, width], as the model takes them", minimum=16, maximum=8192)
    fps: float = option(8.0, "frames a second of the stored mp4", minimum=0.001, maximum=1000)
    maxcount: int = option(64, "clips in a shard", hashed=False, minimum=1, maximum=1_000_000)
    pixel_format: str = option("yuv444p", "chroma of the stored mp4, which a bank encodes again", choices=PIXEL_FORMATS)

    @property
    def height_width(self) -> Size:
        """Of a clip."""
        return Size(self.size, self.size) if isinstance(self.size, int) else self.size


@dataclass(frozen=True)
class ImageOptions:
    """How candidate images are made."""

    model: str | None = option(
        None, "hub id (or id@revision) or folder of an image model (default: the video model, one frame)"
    )
    candidates: int = option(16, "images to choose the anchor from", minimum=1, maximum=10_000)
    guidance_scale: float = option(7.5, "guidance towards the prompt", minimum=1, maximum=1000)
    batch_size: int = option(4, "images in a batch", hashed=False, minimum=1, maximum=65_536)


@dataclass(frozen=True)
class RewardOptions:
    """What chooses the anchor among the candidates; its kind says which options it has besides."""

    kind: str = option("transformers", "what scores the images: transformers, or one of your own")


@dataclass(frozen=True)
class TransformersRewardOptions(RewardOptions):
    """A model of transformers with ``logits_per_image``: CLIP, PickScore."""

    model: str = option(
        "yuvalkirstain/PickScore_v1", "hub id (or id@revision) or folder of a model with logits_per_image"
    )
    processor: str | None = option(
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        "hub id (or id@revision) or folder of its processor; null: the model's own",
    )


@dataclass(frozen=True)
class AnimateOptions:
    """How the anchor is set in motion (NI-VSDS)."""

    until: float = option(0.4, "share of the steps, at the clean end, that are left out", minimum=0, maximum=1)
    step_size: float | tuple[float, ...] = option(
        1.0, "one for all steps, or a list for the first of them, whose last holds on", minimum=0, maximum=10**6
    )
    guidance_scale: float = option(7.5, "guidance towards the prompt", minimum=1, maximum=1000)


@dataclass(frozen=True)
class RegenerateOptions:
    """How the clip is generated anew from what was set in motion."""

    from_: float = option(1.0, "share of the steps to take again, with fresh noise", minimum=0, maximum=1)
    guidance_scale: float = option(7.5, "guidance towards the prompt", minimum=1, maximum=1000)


@dataclass(frozen=True)
class SynthesisOptions:
    """A whole job."""

    out: str = option("./synthesized", "where the source is written: a local path or gs://, s3://, az://", hashed=False)
    prompts: str = option(
        "", "txt, csv, jsonl or parquet with prompt[, id, image]; image: an anchor that is given", hashed=False
    )
    model: str = option(
        "damo-vilab/text-to-video-ms-1.7b", "hub id (or id@revision) or local folder of a diffusers pipeline for video"
    )
    motion_adapter: str | None = option(None, "AnimateDiff: hub id (or id@revision) or folder of the motion adapter")
    precision: str = option("auto", "dtype of the networks: auto is bfloat16 on a GPU", choices=PRECISIONS)
    fetch: FetchOptions = option(FetchOptions(), hashed=False)
    clips: SyntheticClipOptions = option(SyntheticClipOptions(), hashed=False)
    images: ImageOptions = option(ImageOptions(), hashed=False)
    reward: RewardOptions = option(TransformersRewardOptions(), hashed=False)
    num_inference_steps: int = option(25, "steps of the sampler", minimum=1, maximum=10_000)
    animate: AnimateOptions = option(AnimateOptions(), hashed=False)
    regenerate: RegenerateOptions = option(RegenerateOptions(), hashed=False)
    seed: int = option(0, "of all that is drawn, with the prompt's id", minimum=-(2**63), maximum=2**63 - 1)
    accelerator: str | None = option(
        None,
        "Beam's accelerator hint for the workers, e.g. type:nvidia-l4;count:1;install-nvidia-driver",
        hashed=False,
    )
    modules: tuple[str, ...] = option((), "your own packages, imported before all else: rewards", hashed=False)
    max_failed: float = option(
        0.05, "largest share of the prompts that may get no clip", hashed=False, minimum=0, maximum=1
    )
    retry_failures: tuple[str, ...] = option(
        (),
        "failure codes, with commas between them, to try again, or all",
        hashed=False,
        parse=parse_failure_codes,
    )

    def check(self) -> None:
        """Raises :class:`ConfigError` for what one key alone cannot tell."""
        if not self.prompts:
            raise ConfigError("prompts: a list is wanted; name a file with -c, or give --prompts")
        if self.animate.step_size == ():
            raise ConfigError("animate.step_size: at least one is wanted")


_SECTIONS = ("clips", "images", "reward", "animate", "regenerate")
"""Sections with a fingerprint of their own, so that in the job's own they are not hashed."""

SECTIONS["reward"] = (RewardOptions, "kind")
register_options("reward", "transformers", TransformersRewardOptions)


def synthesis_fingerprint(options: SynthesisOptions, digests: Mapping[str, str]) -> str:
    """Hash of everything that changes a clip: the hashed options of all sections, and the models by their content.

    Args:
        options: of the job.
        digests: of the models, by the section that names them; ``model`` is the video model's.
    """
    sections = {}
    for name in _SECTIONS:
        also = {"model_digest": digests[name]} if name in digests else {}
        sections[name] = fingerprint(getattr(options, name), **also)
    return fingerprint(options, model_digest=digests["model"], sections=sections)
