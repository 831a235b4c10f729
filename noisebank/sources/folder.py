"""Folders of videos with their captions beside them, ``a.mp4`` with ``a.txt`` or ``a.json``, listed as lines of JSON.

A video is known by its path in the folder without its ending. Hidden files are none of it, and texts without a video
are nothing to it. Links to folders are followed; a folder that two paths lead to is listed once.
"""

from __future__ import annotations

import glob
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from noisebank.errors import ConfigError, RowFailure
from noisebank.format.shards import VIDEO_EXTENSIONS
from noisebank.options import SourceOptions
from noisebank.sources.list_file import HTTP, connect

COLUMNS = ["key", "file", "caption", "problem"]
"""What is known of every video; where it has a json beside it, its members are columns too."""
_CAPTIONS = ("caption", "text")
_MAX_TEXT_BYTES = 1 << 20


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
            found = [str(Path(path).absolute()) for path in match_paths(pattern) if Path(path).is_dir()]
        if not found or pattern.startswith(HTTP):
            wanted = "a local folder, or one at gs://, s3:// or az://, is wanted"
            raise ConfigError(f"source {source.label}: path {pattern!r}: no such folder; {wanted}")
        folders += found
    return folders


def match_paths(pattern: str) -> list[str]:
    """The local paths that a pattern matches, sorted; itself, where it has no magic or is the name of what is there."""
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return [pattern]
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (it takes absolute patterns)


def write_list(folder: str, target: Path) -> None:
    """Lists the videos of a folder and of those in it, sorted by path, a line of JSON each.

    Raises:
        ConfigError: there is none, or a folder in it cannot be read.
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
        info, problem = _read_json(folder, f"{key}.json") if f"{key}.json" in names else ({}, None)
        caption: Any = _read(folder, f"{key}.txt").decode("utf-8-sig").strip() if f"{key}.txt" in names else ""
        caption = caption or next((info[name] for name in _CAPTIONS if info.get(name)), "")
    except UnicodeError as error:
        row |= dict.fromkeys(("key", "file"), repr(os.fsencode(video)))
        return {**row, "problem": f"bad_utf8: the name or the caption of {row['file']}: {error}"}
    except OSError as error:
        return {**row, "problem": f"missing_file: the caption of {video}: {error.strerror or error}"}
    except RowFailure as failure:
        return {**row, "problem": str(failure)}
    return {**info, **row, "caption": caption, "problem": None if caption else problem}


def _read_json(folder: str, name: str) -> tuple[dict[str, Any], str | None]:
    """What a json has, if that is an object; and why it is none."""
    try:
        found = json.loads(_read(folder, name).decode("utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        return {}, f"bad_json: {name}: {error}"
    return (found, None) if isinstance(found, dict) else ({}, f"bad_json: {name}: an object is wanted")


def _names(folder: str) -> Iterator[str]:
    """The files in a folder and in those in it, relative to it, without hidden ones."""
    if "://" in folder:
        bare = folder.partition("://")[2]
        found = (path.removeprefix(bare).lstrip("/") for path in connect(folder).find(folder))
        yield from (name for name in found if not any(part.startswith(".") for part in name.split("/")))
        return
    seen: set[tuple[int, int]] = set()
    starts = [folder]
    for start in starts:  # (links come after all that is in the folder itself)
        if not _is_new(start, seen):
            continue
        for parent, folders, files in os.walk(start, onerror=_refuse):
            shown = sorted(os.path.join(parent, name) for name in folders if not name.startswith("."))  # noqa: PTH118
            starts += [path for path in shown if Path(path).is_symlink()]
            folders[:] = [Path(path).name for path in shown if not Path(path).is_symlink() and _is_new(path, seen)]
            inside = os.path.relpath(parent, folder)
            yield from (os.path.normpath(os.path.join(inside, name)) for name in files if not name.startswith("."))  # noqa: PTH118


def _is_new(folder: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder was not listed yet; notes that it is."""
    try:
        found = Path(folder).stat()
    except OSError as error:
        _refuse(error)
    is_new = (found.st_dev, found.st_ino) not in seen
    seen.add((found.st_dev, found.st_ino))
    return is_new


def _refuse(error: OSError) -> NoReturn:
    raise ConfigError(f"folder {error.filename}: {error.strerror}; make it readable, or move it elsewhere") from error


def _read(folder: str, name: str) -> bytes:
    """A text beside a video; OSError or RowFailure where it is no regular file, or too large for a text."""
    address = f"{folder}/{name}"
    if "://" in address:
        data = bytes(connect(address).cat_file(address))
    elif not stat.S_ISREG(Path(address).stat().st_mode):
        raise RowFailure("missing_file", f"{name}: not a regular file")
    else:
        with Path(address).open("rb") as file:
            data = file.read(_MAX_TEXT_BYTES + 1)
    if len(data) > _MAX_TEXT_BYTES:
        raise RowFailure("too_large", f"{name}: more than {_MAX_TEXT_BYTES} bytes, which is no caption")
    return data


def _extension(name: str) -> str:
    return PurePosixPath(name).suffix.lower().removeprefix(".")
