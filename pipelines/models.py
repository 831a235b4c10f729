"""What a plan must know of the models before any work is done, read from their folders without loading weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from noisebank.errors import ConfigError, ShapeMismatch
from noisebank.format.manifest import Snapshot
from noisebank.models import check_model, load_clip_rules, model_digest
from noisebank.options import Config, NoiseOptions, fingerprint
from noisebank.search.embed import embedder_digest


def prepare(config: Config, latest: Snapshot | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fingerprints of the stages, and what the snapshot is to say of the models.

    Args:
        config: of the build.
        latest: the newest snapshot of the bank; a model that inverted such clips for it is not checked again, because
            that takes seconds of imports, more than all else that a build with nothing to do needs.

    Raises:
        ConfigError: a model cannot be found, loaded or inverted, or a noise set cannot take these clips.
    """
    captions_digest = embedder_digest(config.captions.model)
    fingerprints: dict[str, Any] = {
        "clips": fingerprint(config.clips),
        "captions": fingerprint(config.captions, model_digest=captions_digest),
        "noise": {},
    }
    captions = {"model": _found_at(config.captions.model), "digest": captions_digest}
    models: dict[str, Any] = {"captions": captions, "noise": {}}
    for noise in config.noise:
        try:
            shape = check_clips(config, noise)
            digest = model_digest(noise.model, noise.motion_adapter)
            fingerprints["noise"][noise.name] = fingerprint(noise, model_digest=digest)
            if not _has_inverted(latest, fingerprints, noise.name):
                check_model(noise.model, noise.num_inference_steps, shape, noise.motion_adapter)
        except ConfigError as error:
            raise ConfigError(f"noise.{noise.name}: {error}") from error
        models["noise"][noise.name] = {
            "model": _found_at(noise.model),
            "digest": digest,
            "inverter": noise.inverter,
            "prompt": noise.prompt,
            "guidance_scale": noise.guidance_scale,
            "num_inference_steps": noise.num_inference_steps,
            "dtype": noise.dtype,
            "shape": list(shape),
        }
    return fingerprints, models


def _has_inverted(latest: Snapshot | None, fingerprints: dict[str, Any], name: str) -> bool:
    """Whether the snapshot's records of a noise set were made with the same model and options, of such clips."""
    known = latest.fingerprints if latest else {}
    of_set = known.get("noise", {}).get(name)
    return known.get("clips") == fingerprints["clips"] and of_set == fingerprints["noise"][name]


def _found_at(model: str) -> str:
    """A hub id, or the absolute path of a folder: readers of the bank start elsewhere."""
    return str(Path(model).absolute()) if Path(model).is_dir() else model


def check_clips(config: Config, noise: NoiseOptions) -> tuple[int, int, int, int]:
    """The shape ``(C, F, H, W)`` of the records of a noise set.

    Raises:
        ConfigError: the model cannot take these clips; says what would fit.
    """
    height, width = config.clips.height_width
    rules = load_clip_rules(noise.model, noise.motion_adapter)
    try:
        return rules.latent_shape(noise.frames or config.clips.frames, height, width)
    except ShapeMismatch as error:
        raise ConfigError(f"{error}; change clips.size, or clips.frames or noise.frames") from error
