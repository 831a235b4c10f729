"""Models by hub id or folder: which revision, which of its files are loaded, and a digest of what these hold.

A model is named by a *reference*: a folder, a hub id, or ``id@revision`` with a branch, a tag or a commit. Its digest
is of the names and contents of the files that loading reads: a commit to a README, a copy in a folder and a copy with
weights in more formats are the same model.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath

from noisebank.errors import ConfigError

_LOADED = re.compile(
    r"(diffusion_pytorch_model|model)(-\d{5}-of-\d{5})?\.safetensors"
    r"|(diffusion_pytorch_model|model)\.safetensors\.index\.json"
    r"|(config|generation_config|model_index|scheduler_config|(video_|image_)?(pre)?processor_config)\.json"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json"
    r"|(vocab|merges)\.txt|chat_template\.jinja|[^/]*\.model"
)
_NOT_LOADED = ("safety_checker", "feature_extractor")
"""Components of pipelines that take no part."""
_WEIGHTLESS = re.compile(r"(Tokenizer|TokenizerFast|Scheduler|Processor|FeatureExtractor|ProcessorFast)$")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOT_READ_AGAIN = 1 << 26
"""Bytes from which a file of the hub's cache is taken to have the sha256 that it is named by."""
_SUFFIXES = (".json", ".safetensors", ".bin", ".txt", ".model")


def split_reference(model: str | Path) -> tuple[str, str | None]:
    """The id and the revision of a reference; of a folder no revision.

    >>> split_reference("damo-vilab/text-to-video-ms-1.7b@main")
    ('damo-vilab/text-to-video-ms-1.7b', 'main')
    """
    id, at, revision = (model := str(model)).partition("@")
    return (model, None) if not at or not revision or Path(model).is_dir() else (id, revision)


def refer(model: str, revision: str | None) -> str:
    """The reference of a model and a revision of it, which a folder has not."""
    return model if not revision or Path(model).is_dir() else f"{split_reference(model)[0]}@{revision}"


def resolve_file(model: str, name: str, *, download: bool = True) -> Path | None:
    """The local path of one file of a model; None where the model has no such file.

    Args:
        model: reference.
        name: of the file, relative to the model.
        download: fetch what the hub has and the cache has not; otherwise it is only looked for.

    Raises:
        ConfigError: the model is neither a folder nor to be had from the hub.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if folder.is_symlink():
        raise ConfigError(f"model {model!r}: a link to {folder.readlink()}, where no folder is")
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    id, revision = split_reference(model)
    try:
        found = hf_hub_download(id, name, revision=revision, dry_run=not download)
        return Path(found if isinstance(found, str) else found.local_path)
    except LocalEntryNotFoundError as error:
        if isinstance(try_to_load_from_cache(id, "model_index.json", revision=revision), str):
            return None  # (what the cache lacks is not in it)
        raise ConfigError(f"model {model!r}: not a folder here, and the hub cannot be reached ({error})") from error
    except EntryNotFoundError:
        return None
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise ConfigError(f"model {model!r}: neither a local folder nor a model of the hub ({error})") from error


def pin(model: str, markers: Iterable[str]) -> str:
    """The reference of the commit that a hub id or a branch stands for now; a folder is what it is.

    Args:
        model: reference.
        markers: files of which such a model has one.

    Raises:
        ConfigError: there is no such model.
    """
    _, revision = split_reference(model)
    if Path(model).is_dir() or (revision and _COMMIT.fullmatch(revision)):
        return model
    marked = next(filter(None, (resolve_file(model, marker) for marker in markers)), None)
    return model if marked is None else refer(model, marked.parent.name)


def model_files(model: str, marker: str, library: str) -> dict[str, str]:
    """The files that loading a model reads, as ``{name: sha256}``.

    Those of a hub id are read from the cache, where weights are named by their sha256; what is not there is asked of
    the hub, which knows it without a download of the weights.

    Args:
        model: reference.
        marker: the file that every model of its kind has.
        library: whose format that is, for the message.

    Raises:
        ConfigError: there is no such model, or it has no such file, or some are neither cached nor to be asked for.
    """
    marked = _find_marked(model, marker, library)
    folder, index = marked.parent, json.loads(marked.read_text()) if marker == "model_index.json" else {}
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    names = {name for name in names if _is_loaded(name, index)}
    if Path(model).is_dir() or _has_weights(names, folder, index):
        return {name: _sha256(folder / name) for name in sorted(names)}
    return _ask_hub(refer(model, folder.name), index)


def content_digest(files: Iterable[Mapping[str, str]]) -> str:
    """32 hexadecimal digits that stand for the files of one or several models (:func:`model_files`)."""
    return digest_lines(f"{name} {sha256}" for part in files for name, sha256 in sorted(part.items()))


def is_same_by_older_rule(digest: str, models: Iterable[tuple[str, str, str]]) -> bool:
    """Whether a digest of earlier versions stands for what these models are now.

    They took a folder by all its files, and a hub id by its commit: one of those in the cache, whose files must be the
    same as now.

    Args:
        digest: as a snapshot has it.
        models: reference, marker and library of each part, as for :func:`model_files`.
    """
    parts = [_older_lines(*model) for model in models]
    return any(digest_lines(itertools.chain(*lines)) == digest for lines in itertools.product(*parts))


def digest_lines(lines: Iterable[str]) -> str:
    """32 hexadecimal digits that stand for lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def content_lines(model: str, marker: str, library: str, suffixes: tuple[str, ...] = _SUFFIXES) -> list[str]:
    """The older rule of what tells models apart: a line a file of a folder, or the commit of a hub id.

    Args:
        model: reference.
        marker: the file that every model of its kind has.
        library: whose format that is, for the message.
        suffixes: of the files that count; hidden ones never do.

    Raises:
        ConfigError: there is no such model, or it has no such file.
    """
    import xxhash

    marked = _find_marked(model, marker, library)
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


def _older_lines(model: str, marker: str, library: str) -> list[list[str]]:
    """What earlier versions hashed of a model that has the files of this one; one entry a commit."""
    if Path(model).is_dir():
        return [content_lines(model, marker, library)]
    return [[f"revision {commit}"] for commit in _commits_alike(model, marker, library)]


def _find_marked(model: str, marker: str, library: str) -> Path:
    marked = resolve_file(model, marker)
    if marked is None:
        raise ConfigError(f"model {model!r}: no {marker}; is it in the format of {library}?")
    return marked


def _commits_alike(model: str, marker: str, library: str) -> list[str]:
    """The cached commits of a hub id whose files are those of a reference to it."""
    marked = _find_marked(model, marker, library)
    now, alike = model_files(model, marker, library), [marked.parent.name]
    for folder in sorted(marked.parent.parent.iterdir()):
        is_other = folder.name != marked.parent.name and (folder / marker).is_file()
        if is_other and model_files(str(folder), marker, library) == now:
            alike.append(folder.name)
    return alike


def _is_loaded(name: str, index: Mapping[str, object]) -> bool:
    """Whether loading reads a file; ``index`` is the model_index.json of a pipeline, or empty."""
    path = PurePosixPath(name)
    if not _LOADED.fullmatch(path.name):
        return False
    if not index:
        return len(path.parts) == 1
    return name == "model_index.json" or (len(path.parts) == 2 and path.parts[0] in _components(index))


def _components(index: Mapping[str, object]) -> dict[str, str]:
    """The components of a pipeline that are loaded, with their classes."""
    named = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    return {name: str(value[1]) for name, value in named.items() if name not in _NOT_LOADED and value[1]}


def _has_weights(names: set[str], folder: Path, index: Mapping[str, object]) -> bool:
    """Whether all weights are among the files here: a cache may hold configurations alone."""
    wanted = [f"{name}/" for name, kind in _components(index).items() if not _WEIGHTLESS.search(kind)]
    for part in wanted if index else [""]:
        here = {name for name in names if name.startswith(part)}
        if not any(name.endswith(".safetensors") for name in here):
            return False
        for name in (name for name in here if name.endswith(".safetensors.index.json")):
            shards = json.loads((folder / name).read_text()).get("weight_map", {}).values()
            if not {part + shard for shard in shards} <= names:
                return False
    return True


def _ask_hub(model: str, index: Mapping[str, object]) -> dict[str, str]:
    """The files of a commit as the hub lists them; small ones, whose sha256 it does not know, are fetched."""
    from huggingface_hub import HfApi, RepoFile
    from huggingface_hub.errors import HfHubHTTPError

    id, revision = split_reference(model)
    try:
        tree = HfApi().list_repo_tree(id, recursive=True, revision=revision)
        files = [file for file in tree if isinstance(file, RepoFile) and _is_loaded(file.path, index)]
    except (HfHubHTTPError, OSError) as error:
        raise ConfigError(
            f"model {model!r}: its weights are not all in the cache, and the hub cannot be asked for them ({error})"
        ) from error
    found = {}
    for file in files:
        path = None if file.lfs else resolve_file(model, file.path)
        if file.lfs or path:
            found[file.path] = file.lfs.sha256 if file.lfs else _sha256(path)  # type: ignore[arg-type]
    return dict(sorted(found.items()))


def _sha256(path: Path) -> str:
    """Of a file's content; large ones in the hub's cache are links to files that are named by it."""
    stat, target = path.stat(), path.resolve()
    if path.is_symlink() and stat.st_size >= _NOT_READ_AGAIN and _SHA256.fullmatch(target.name):
        return target.name
    return _hash_file(str(target), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)  # (several sets of one model, and a worker that digests what was just planned)
def _hash_file(path: str, _size: int, _mtime: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
