"""What a diffusers model folder says about itself, read from its JSON files alone: no weights, no diffusers, no torch.

This is what a plan needs to know whether clips fit a model, and what a fingerprint needs to know which model it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from noisebank.errors import ConfigError

_DIGESTED = (".json", ".safetensors", ".bin", ".txt", ".model")


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


def resolve_file(model: str, name: str, *, download: bool = True) -> Path | None:
    """The local path of one file of a folder or hub id; None where the model has no such file.

    Args:
        model: hub id or folder.
        name: of the file, relative to the model.
        download: fetch what the hub has and the cache has not; otherwise it is only looked for.

    Raises:
        ConfigError: the model is neither a folder nor to be had from the hub.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = hf_hub_download(model, name, dry_run=not download)
        return Path(found if isinstance(found, str) else found.local_path)
    except LocalEntryNotFoundError as error:
        if isinstance(try_to_load_from_cache(model, "model_index.json"), str):  # (what the cache lacks is not in it)
            return None
        raise ConfigError(f"model {model!r}: not a folder here, and the hub cannot be reached ({error})") from error
    except EntryNotFoundError:
        return None
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise ConfigError(f"model {model!r}: neither a local folder nor a model of the hub ({error})") from error


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
    """Which model this is, whatever its path: 32 hexadecimal digits; raises :class:`ConfigError` where there is none.

    A folder is digested by its relative file names and contents (weights, configs, tokenizers; nothing hidden), a hub
    id by the revision that it resolves to, which names the contents already.
    """
    parts = []
    for part, marker in ((model, "model_index.json"), (motion_adapter, "config.json")):
        if part is not None:
            parts += content_lines(part, marker, "diffusers")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def content_lines(model: str, marker: str, library: str, suffixes: tuple[str, ...] = _DIGESTED) -> list[str]:
    """What a model consists of, to be hashed: a line a file of a folder, or the revision of a hub id.

    Args:
        model: hub id or folder.
        marker: the file that every model of its kind has.
        library: whose format that is, for the message.
        suffixes: of the files that count; hidden ones never do.

    Raises:
        ConfigError: there is no such model, or it has no such file.
    """
    import xxhash

    marked = resolve_file(model, marker)
    if marked is None:
        raise ConfigError(f"model {model!r}: no {marker}; is it in the format of {library}?")
    folder = marked.parent
    if not Path(model).is_dir():
        return [f"revision {folder.name}"]
    lines = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_hidden = any(piece.startswith(".") for piece in name.parts)
        if path.suffix in suffixes and path.is_file() and not is_hidden:
            with path.open("rb") as file:
                lines.append(f"{name.as_posix()} {hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()}")
    return lines
