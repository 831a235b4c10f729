"""Which source a folder or a list is, told by the names of its files and columns, as published layouts have them.

A guess is tried out: of the ways in which a layout's videos are kept, the one counts by which the first rows of the
list lead to files that are there. Where none are, the list's own addresses are taken.
"""

from __future__ import annotations

import glob
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from noisebank.config import config_from_mapping
from noisebank.errors import ConfigError
from noisebank.format.shards import VIDEO_EXTENSIONS
from noisebank.sources import FORMATS, check_columns, cut_ranges, open_lists, read_columns, read_range
from noisebank.sources.folder import match_paths
from noisebank.storage import open_store

_LISTS = tuple(suffix for format in FORMATS.values() for suffix in format.suffixes if suffix != ".tar")
_LOOKED_AT = 256
"""Rows of a list that are tried out."""
_RANGE_BYTES = 1 << 16
_SHARD = re.compile(r"-[0-9]{5}(-of-[0-9]{5})")
"""What tells the files of one list of Hugging Face's apart."""
_DEEPEST = 2
"""How many folders below the list's a root is looked for."""
_MOST_FOLDERS = 1000


@dataclass(frozen=True)
class Layout:
    """A published layout of lists.

    Args:
        name: what people call it.
        columns: that tell it.
        source: the options of a source of such a list but for its path.
        copies: what to add where the videos are files, the likeliest first.
    """

    name: str
    columns: frozenset[str]
    source: Mapping[str, Any]
    copies: tuple[Mapping[str, Any], ...] = ({},)


@dataclass(frozen=True)
class Recognised:
    """What was found.

    Args:
        layout: its name.
        source: the options of a source.
        rows: how many rows were looked at.
        usable: how many of them can be used, as far as their list says.
        videos: how many of these name a file that is there.
        others: lists beside it that are not of this source.
    """

    layout: str
    source: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    usable: int = 0
    videos: int = 0
    others: tuple[str, ...] = ()


def _table(uri: str, caption: str | list[str], **more: Any) -> dict[str, Any]:
    return {"kind": "table", "uri": uri, "caption": caption, **more}


_CLIP = "{YoutubeID}_{Start_timestamp}_{End_timestamp}.mp4"
LAYOUTS = (
    Layout(
        "WebVid",
        frozenset({"videoid", "contentUrl", "duration", "page_dir", "name"}),
        {"kind": "webvid"},
        ({"uri": "{page_dir}/{videoid}.mp4"}, {"uri": "{videoid}.mp4"}),
    ),
    Layout(
        "InternVid",
        frozenset({"YoutubeID", "Start_timestamp", "End_timestamp", "Caption"}),
        {"kind": "internvid"},
        ({"uri": _CLIP, "cut": True}, {"uri": "{YoutubeID}.mp4"}),
    ),
    Layout("OpenVid", frozenset({"video", "caption", "aesthetic score"}), _table("video", "caption")),
    Layout(
        "Panda-70M or Koala-36M",
        frozenset({"videoID", "url", "timestamp", "caption"}),
        _table("url", "caption", range="timestamp"),
        ({"uri": "{videoID}.mp4"},),
    ),
    Layout(
        "MiraData",
        frozenset({"index", "video_id", "start_frame", "end_frame", "short_caption", "dense_caption"}),
        _table("{index}.mp4", ["short_caption", "dense_caption"], id="index"),
    ),
    Layout(
        "MiraData",
        frozenset({"clip_id", "video_url", "short_caption", "dense_caption"}),
        _table("{clip_id}.mp4", ["short_caption", "dense_caption"], id="clip_id"),
    ),
    Layout("VidGen", frozenset({"vid", "caption"}), _table("{vid}.mp4", "caption", id="vid")),
    Layout("VATEX", frozenset({"videoID", "enCap"}), _table("{videoID}.mp4", "enCap", id="videoID")),
    Layout("MSR-VTT", frozenset({"video_id", "caption", "sen_id"}), _table("{video_id}.mp4", "caption", id="video_id")),
    *(
        Layout("a Hugging Face videofolder", frozenset({"file_name", caption}), _table("file_name", caption))
        for caption in ("caption", "text", "prompt")
    ),
)
_VIDEO_COLUMNS = ("video", "uri", "path", "file", "filename", "video_path", "file_path", "filepath", "url", "video_url")
_CAPTION_COLUMNS = ("caption", "text", "captions", "prompt", "title", "description", "sentence", "name")


def recognise(path: Path) -> Recognised:
    """Tells what a folder, a list or a tar is.

    Raises:
        ConfigError: nothing that is known; says what was found.
    """
    if path.is_file():
        return _recognise_tars(path, [path]) if path.suffix == ".tar" else recognise_list(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such file or folder")
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    tars = [file for file in files if file.suffix == ".tar"]
    if tars:
        return _recognise_tars(Path(glob.escape(str(path)), "*.tar"), tars)
    problems = []
    for lists in (_find_lists(files), _find_lists(sorted(path.glob("*/*")))):
        for file in lists:
            try:
                found = recognise_list(file)
            except ConfigError as error:
                problems.append(str(error))
                continue
            taken = match_paths(found.source["path"])
            others = sorted(other.name for other in lists if str(other) not in taken)
            return replace(found, others=tuple(others))
    if not any(entry.suffix.lower()[1:] in VIDEO_EXTENSIONS for entry in path.rglob("*")):
        seen = "; ".join(problems) or ", ".join(entry.name for entry in islice(sorted(path.iterdir()), 5)) or "nothing"
        raise ConfigError(f"{path}: neither videos nor a list of them, nor tars, were found: {seen}")
    return _try("a folder of videos with captions beside them", {"kind": "folder", "path": str(path)}, path)


def _find_lists(files: Sequence[Path]) -> list[Path]:
    """The lists among files, ``metadata.csv`` and the like first; a json beside a video is none."""
    videos = {file.with_suffix("") for file in files if file.suffix.lower().removeprefix(".") in VIDEO_EXTENSIONS}
    lists = [file for file in files if file.name.endswith(_LISTS) and file.with_suffix("") not in videos]
    return sorted(lists, key=lambda file: (not file.name.startswith("metadata."), file))


def recognise_list(path: Path) -> Recognised:
    """Tells what a list is.

    Raises:
        ConfigError: its columns are none that are known; names them.
    """
    columns = _columns(path)
    known = next((layout for layout in LAYOUTS if layout.columns <= {*columns}), None)
    if known is None:
        uri, caption = (next((n for n in names if n in columns), None) for names in (_VIDEO_COLUMNS, _CAPTION_COLUMNS))
        if uri is None or caption is None:
            raise ConfigError(
                f"{path}: its columns are of no layout that is known, nor named as videos and captions often are: "
                f"{', '.join(columns)}; write a source of kind table, with uri and caption"
            )
        known = Layout("a list", frozenset(), _table(uri, caption))
    plain = {**known.source, "path": str(path)}
    if _SHARD.search(path.name):
        plain["path"] = _SHARD.sub(r"-*\1", glob.escape(str(path.parent)) + "/" + glob.escape(path.name))
    guesses = [{**plain, **copy, **root} for root in _roots(path) for copy in known.copies]
    tried = (_try(known.name, guess, path.parent) for guess in guesses)
    return next((found for found in tried if found.videos), None) or _try(known.name, plain, path.parent)


def _recognise_tars(path: Path, tars: Sequence[Path]) -> Recognised:
    found = _try("webdataset tars", {"kind": "webdataset", "path": str(path)}, tars[0].parent, tars[:1])
    keys = [row["id"] for tar in tars[:2] for row in _rows({"kind": "webdataset", "path": str(tar)})]
    if len(set(keys)) < len(keys):  # (each tar counts from 0)
        found.source["id"] = "{tar}_{key}"
    return found


def _columns(path: Path) -> list[str]:
    """The columns of a list; of a document those of its rows."""
    source = config_from_mapping({"sources": [{**_table("-", "-"), "path": str(path)}]}).sources[0]
    with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
        (file,) = open_lists(source, open_store(scratch), "lists")
        return read_columns(file)


def _roots(path: Path) -> Iterator[dict[str, str]]:
    """Where the videos of a list may be: beside it, or in a folder below it."""
    yield {}
    folders = [path.parent]
    for _ in range(_DEEPEST):
        folders = sorted(entry for folder in folders for entry in folder.iterdir() if entry.is_dir())[:_MOST_FOLDERS]
        yield from ({"root": str(folder)} for folder in folders)


def _try(layout: str, source: dict[str, Any], folder: Path, tars: Sequence[Path] = ()) -> Recognised:
    """A source in a folder, with what its first rows come to; ``tars``: those of them that are looked into."""
    rows = _rows({**source, "path": [str(tar) for tar in tars]} if tars else source)
    usable = [row for row in rows if not row["invalid"]]
    base = Path(source.get("root") or folder)
    here = sum((base / row["uri"].partition("#")[0]).is_file() for row in usable if "://" not in row["uri"])
    return Recognised(layout, source, len(rows), len(usable), here)


def _rows(source: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The first rows of a source."""
    options = config_from_mapping({"sources": [dict(source)]}).sources[0]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
        for file in open_lists(options, open_store(scratch), "lists"):
            header = check_columns(file)
            for part in cut_ranges(file, 0, _RANGE_BYTES):
                for table in read_range(file, part, header, 0):
                    rows += table.select(["id", "uri", "invalid"]).slice(0, _LOOKED_AT - len(rows)).to_pylist()
                    if len(rows) >= _LOOKED_AT:
                        return rows
    return rows
