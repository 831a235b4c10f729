"""Folders of videos with their captions beside them, ``a.mp4`` with ``a.txt`` or ``a.json``, listed as lines of JSON.

A video is known by its path in the folder without its ending. Hidden files are none of it, and texts without a video
are nothing to it.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from noisebank.errors import ConfigError
from noisebank.format.shards import VIDEO_EXTENSIONS
from noisebank.options import SourceOptions
from noisebank.sources.list_file import HTTP, connect

COLUMNS = ["key", "file", "caption", "problem"]
"""What is known of every video; where it has a json beside it, its members are columns too."""
_CAPTIONS = ("caption", "text")


def find_folders(source: SourceOptions) -> list[str]:
    """The folders of a source, in the order listed, globs sorted; local paths absolute.

    Raises:
        ConfigError: one does not exist, or is behind HTTP.
    """
    folders: list[str] = []
    for pattern in source.path:
        if "://" in pattern:
            found = [pattern.rstrip("/")]
        else:
            paths = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
            found = [str(Path(path).absolute()) for path in paths if Path(path).is_dir()]
        if not found or pattern.startswith(HTTP):
            wanted = "a local folder, or one at gs://, s3:// or az://, is wanted"
            raise ConfigError(f"source {source.name or source.kind}: path {pattern!r}: no such folder; {wanted}")
        folders += found
    return folders


def write_list(folder: str, target: Path) -> None:
    """Lists the videos of a folder and of those in it, sorted by path, a line of JSON each.

    Raises:
        ConfigError: there is none.
    """
    names = set(_names(folder))
    videos = sorted(name for name in names if _extension(name) in VIDEO_EXTENSIONS)
    if not videos:
        raise ConfigError(f"folder {folder}: no video in it (.{', .'.join(VIDEO_EXTENSIONS)})")
    first: dict[str, str] = {}
    with target.open("w", encoding="utf-8") as lines:
        for video in videos:
            key = str(PurePosixPath(video).with_suffix(""))
            row = _describe(folder, video, key, names)
            if (taken_by := first.setdefault(key, video)) != video:
                row["problem"] = f"same_key: {video} and {taken_by} differ in their endings alone; rename one"
            lines.write(json.dumps(row) + "\n")


def _describe(folder: str, video: str, key: str, names: set[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"key": key, "file": video, "caption": None, "problem": None}
    try:
        video.encode()
        info = _read_json(folder, f"{key}.json") if f"{key}.json" in names else {}
        caption: Any = _read(folder, f"{key}.txt").decode("utf-8-sig").strip() if f"{key}.txt" in names else ""
        caption = caption or next((info[name] for name in _CAPTIONS if info.get(name)), "")
    except UnicodeError as error:
        row |= dict.fromkeys(("key", "file"), repr(os.fsencode(video)))
        return {**row, "problem": f"bad_utf8: the name or the caption of {row['file']}: {error}"}
    except OSError as error:
        return {**row, "problem": f"missing_file: the caption of {video}: {error.strerror or error}"}
    return {**info, **row, "caption": caption}


def _read_json(folder: str, name: str) -> dict[str, Any]:
    """What a json has, if that is an object."""
    try:
        found = json.loads(_read(folder, name).decode("utf-8-sig"))
    except (json.JSONDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(folder: str) -> Iterator[str]:
    """The files in a folder and in those in it, relative to it, without hidden ones."""
    if "://" in folder:
        bare = folder.partition("://")[2]
        found = (path.removeprefix(bare).lstrip("/") for path in connect(folder).find(folder))
        yield from (name for name in found if not any(part.startswith(".") for part in name.split("/")))
        return
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(parent, folder)
        yield from (os.path.normpath(os.path.join(inside, name)) for name in files if not name.startswith("."))  # noqa: PTH118


def _read(folder: str, name: str) -> bytes:
    address = f"{folder}/{name}"
    return bytes(connect(address).cat_file(address)) if "://" in address else Path(address).read_bytes()


def _extension(name: str) -> str:
    return PurePosixPath(name).suffix.lower().removeprefix(".")
