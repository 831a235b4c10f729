"""What a diffusers model folder says about itself, read from its JSON files alone: no weights, no diffusers, no torch.

This is what a plan needs to know whether clips fit a model, and what a fingerprint needs to know which model it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from noisebank.errors import ConfigError
from noisebank.hub import (
    content_digest,
    content_lines,
    digest_lines,
    is_same_by_older_rule,
    model_files,
    resolve_file,
)


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of a pipeline.

    Args:
        pipeline_class: diffusers class, ``_class_name`` of ``model_index.json``.
        index: the pipeline's own settings, such as ``expand_timesteps``.
        read: gives the config of a component by its name (``vae``, ``unet``...), empty where there is none.
    """

    pipeline_class: str
    index: Mapping[str, Any]
    read: Callable[[str], Mapping[str, Any]] = field(repr=False)


def absolute_path(model: str) -> str:
    """A hub id, or the absolute path of a folder: readers of the bank start elsewhere."""
    return str(Path(model).absolute()) if Path(model).is_dir() else model


def read_json(model: str, name: str) -> dict[str, Any]:
    """A JSON file of a model, empty where the model has no such file."""
    path = resolve_file(model, name)
    content = json.loads(path.read_text()) if path else {}
    if not isinstance(content, dict):
        raise ConfigError(f"model {model!r}: {name} is not a JSON object")
    return content


def read_model_config(model: str, motion_adapter: str | None = None) -> ModelConfig:
    """The configuration of a model.

    Args:
        model: hub id, or folder in diffusers' format.
        motion_adapter: the same of an AnimateDiff motion adapter, which turns a Stable Diffusion model into an
            ``AnimateDiffPipeline``.

    Raises:
        ConfigError: there is no such model, or it has no ``model_index.json``.
    """
    index = read_json(model, "model_index.json")
    if "_class_name" not in index:
        raise ConfigError(f"model {model!r}: no model_index.json with a _class_name; is it in diffusers' format?")
    pipeline_class = str(index["_class_name"])
    if motion_adapter is not None:
        if pipeline_class != "StableDiffusionPipeline":
            raise ConfigError(
                f"model {model!r}: {pipeline_class} takes no motion_adapter, only StableDiffusionPipeline does (an "
                "AnimateDiffPipeline has its own); leave the option out"
            )
        pipeline_class = "AnimateDiffPipeline"

    def read(component: str) -> dict[str, Any]:
        if component == "motion_adapter" and motion_adapter is not None:
            return read_json(motion_adapter, "config.json")
        return read_json(model, f"{component}/{'scheduler_config' if component == 'scheduler' else 'config'}.json")

    return ModelConfig(pipeline_class, index, read)


def check_weights(model: str, components: Iterable[str]) -> None:
    """Refuse a model whose weights could not be loaded: they are read from safetensors, without a variant.

    Args:
        model: hub id or folder; weights of a hub id are looked for, not fetched.
        components: folders in it, such as ``vae``; empty for a component that is a model of its own.
    """
    for component in components:
        stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
        single = PurePosixPath(component, f"{stem}.safetensors")
        shards = read_json(model, f"{single}.index.json").get("weight_map", {}).values()
        for file in sorted({PurePosixPath(component, shard) for shard in shards} or {single}):
            if resolve_file(model, str(file), download=False) is None:
                raise ConfigError(
                    f"model {model!r}: no {file}; weights are read from safetensors without a variant: load it with "
                    "from_pretrained(..., use_safetensors=False) or (..., variant=NAME), write it with "
                    "save_pretrained(FOLDER, safe_serialization=True), and give that folder"
                )


def pipeline_config(pipe: Any) -> ModelConfig:
    """The configuration of a live diffusers pipeline."""

    def read(component: str) -> dict[str, Any]:
        part = getattr(pipe, component, None)
        return dict(part.config) if part is not None else {}

    return ModelConfig(type(pipe).__name__, dict(pipe.config), read)


def model_digest(model: str, motion_adapter: str | None = None) -> str:
    """Which model this is, whatever its path: 32 hexadecimal digits of the files that loading reads.

    Raises:
        ConfigError: there is no such model, or its files can neither be read nor asked for.
    """
    return content_digest(model_files(*part) for part in _parts(model, motion_adapter))


def older_model_digest(model: str, motion_adapter: str | None = None) -> str:
    """The digest of earlier versions: of a folder all its files, of a hub id the commit."""
    return digest_lines(line for part in _parts(model, motion_adapter) for line in content_lines(*part))


def has_digest(digest: str, model: str, motion_adapter: str | None = None) -> bool:
    """Whether a digest, of this version or of an earlier one, stands for a model."""
    is_same = model_digest(model, motion_adapter) == digest
    return is_same or is_same_by_older_rule(digest, _parts(model, motion_adapter))


def _parts(model: str, motion_adapter: str | None) -> list[tuple[str, str, str]]:
    parts = [(model, "model_index.json", "diffusers")]
    return parts + ([(motion_adapter, "config.json", "diffusers")] if motion_adapter is not None else [])
