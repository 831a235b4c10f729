"""webdataset tars: written so that equal clips give equal bytes, and read back; tars of others too.

A sample is three members, ``{id}.json {id}.mp4 {id}.txt``: what is known of the clip (``captions``
where it has several), the clip, and its first caption. Time, owner, mode and tar format are fixed; JSON has sorted
keys. GNU format, because ids may be longer than ustar's 100.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from noisebank.errors import BankDamaged, RowFailure
from noisebank.format.reading import reading

MEMBER_MODE = 0o444
VIDEO_EXTENSIONS = (
    "mp4", "webm", "mkv", "mov", "avi", "m4v", "mpg", "mpeg", "ts", "flv", "wmv", "ogv", "3gp", "video",
)  # fmt: skip
_CAPTION_KEYS = ("caption", "text")
_MAX_TEXT_BYTES = 1 << 20


@dataclass(frozen=True)
class ShardSample:
    """One clip in a shard."""

    id: str
    mp4: bytes
    caption: str
    info: dict[str, Any] = field(default_factory=dict)
    """The member ``{id}.json``: id, caption, source, uri, start_ms, end_ms, frames, height, width, fps, sha256, ..."""

    def with_captions(self, captions: Sequence[str]) -> ShardSample:
        """The clip with these captions: the first in ``{id}.txt``, several in ``captions`` of ``{id}.json``."""
        info = {name: value for name, value in self.info.items() if name != "captions"} | {"caption": captions[0]}
        several = {"captions": list(captions)} if len(captions) > 1 else {}
        return replace(self, caption=captions[0], info=info | several)


@dataclass(frozen=True)
class ForeignSample:
    """One video in a tar that others wrote; the video is a member to fetch, not bytes."""

    key: str
    """Path in the tar up to the first dot of the file's name, as webdataset groups members; of the second and later
    videos of one group up to the last dot."""
    name: str
    """Of the video member; empty where there is none."""
    offset: int
    size: int
    caption: str | list[str]
    """From ``.txt``, else from ``caption`` or ``text`` of ``.json``, lists too; empty where there is neither."""
    invalid: str = ""
    """Why it cannot be used, ``"code: message"``; empty where it can."""
    info: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What ``.json`` has, if that is an object."""


def write_shard(path: Path, samples: Iterable[ShardSample]) -> int:
    """Writes a tar by webdataset's ``TarWriter``; the same samples in the same order give the same bytes.

    Args:
        path: file to write.
        samples: clips in their order; taken one at a time.

    Returns:
        The number of samples written.

    Raises:
        ValueError: two samples have one id, or an id has a dot (webdataset would cut it there) or a slash.
    """
    from webdataset import TarWriter

    ids: set[str] = set()
    with path.open("wb") as file:
        writer = TarWriter(
            file, user="", group="", mode=MEMBER_MODE, mtime=0, encoder=False, compress=False, format="GNU_FORMAT"
        )
        with writer:
            for sample in samples:
                if sample.id in ids or not sample.id or set(sample.id) & {".", "/"}:
                    raise ValueError(f"{path.name}: id {sample.id!r} is empty, repeated, or has a dot or a slash")
                ids.add(sample.id)
                text = json.dumps(sample.info, sort_keys=True, ensure_ascii=False)
                members = {"json": text.encode(), "mp4": sample.mp4, "txt": sample.caption.encode()}
                writer.write({"__key__": sample.id, **members})
    return len(ids)


def read_shard(path: Path, wanted: Collection[str] | None = None) -> Iterator[ShardSample]:
    """The samples of a tar of :func:`write_shard`, in their order, one in memory at a time.

    Args:
        path: the tar.
        wanted: ids of the samples to read, a set or a mapping; the others are passed over. None: all.

    Raises:
        BankDamaged: the tar is missing or damaged, or a sample is not complete.
    """
    try:
        with reading(f"shard {path}"), tarfile.open(path, "r:") as tar:
            members: dict[str, bytes] = {}
            for info in tar:
                id, _, extension = info.name.partition(".")
                if wanted is not None and id not in wanted:
                    continue
                members[extension] = _data(tar, info)
                if extension == "txt":  # the last of a sample
                    document = json.loads(members["json"])
                    yield ShardSample(id, members["mp4"], members["txt"].decode(), document)
                    members = {}
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise BankDamaged(f"shard {path}: {type(error).__name__}: {error}; run noisebank verify") from error
    if members:
        raise BankDamaged(f"shard {path}: it ends inside a sample; run noisebank verify")


class ShardClips:
    """The clips of a local tar of :func:`write_shard`, by their positions.

    Args:
        path: of the tar.
        name: in its bank, for messages.
        rows: clips that it should have.

    Raises:
        BankDamaged: the tar is missing, damaged or has another number of clips.
    """

    def __init__(self, path: Path, name: str, rows: int) -> None:
        self._name = name
        try:
            with reading(name):
                self._file = path.open("rb")
                with tarfile.open(fileobj=self._file, mode="r:") as tar:
                    self._places = [(info.offset_data, info.size) for info in tar if info.name.endswith(".mp4")]
        except tarfile.TarError as error:
            raise BankDamaged(f"{name}: {error}; run verify") from error
        if len(self._places) != rows:
            raise BankDamaged(f"{name}: {len(self._places)} clips, the manifest says {rows}; run verify")

    def read(self, row: int, sha256: str | None) -> bytes:
        """The mp4 of a clip.

        Raises:
            BankDamaged: it is not there, or differs from ``sha256``, if there is one.
        """
        offset, size = self._places[row] if 0 <= row < len(self._places) else (0, 1)
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise BankDamaged(f"{self._name}: ends inside clip {row}; run verify")
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise BankDamaged(f"{self._name}: clip {row} differs from its checksum; run verify")
        return data


def read_foreign_shard(file: IO[bytes], name: str = "tar") -> Iterator[ForeignSample]:
    """The samples of a tar written by others; nothing is extracted, videos are skipped over.

    Args:
        file: the tar, uncompressed, opened for binary reading; seeking is used.
        name: of the tar, for messages.

    Raises:
        RowFailure: ``bad_tar``, when it is damaged or no tar; after the samples that came before.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            group: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
            current = ""
            for info in tar:
                if info.size < 0:  # (the next member would be this one again)
                    raise tarfile.ReadError(f"member {info.name!r} of {info.size} bytes")
                if not info.isreg():
                    continue
                key, extension = _split(info.name)
                if key != current:
                    yield from _sample(current, group)
                    current, group = key, {}
                text = _data(tar, info) if extension in ("txt", "json") and info.size <= _MAX_TEXT_BYTES else b""
                group[extension] = (info, text)
            yield from _sample(current, group)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:  # (what bad headers raise)
        raise RowFailure("bad_tar", f"{name}: {error}") from error


def _split(name: str) -> tuple[str, str]:
    """Key and extension of a member, at the first dot of its file name."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _sample(key: str, group: dict[str, tuple[tarfile.TarInfo, bytes]]) -> Iterator[ForeignSample]:
    """The samples of one key: one a video, or one without, if there is a text that wants one."""
    videos = sorted(filter(_is_video, group), key=lambda extension: (_is_video(extension), extension))
    if not videos and not group.keys() & {"txt", "json"}:
        return
    for number, extension in enumerate(videos or [""]):
        video = group[extension][0] if extension else None
        member = (video.name, video.offset_data, video.size) if video is not None else ("", 0, 0)
        own = f"{key}.{extension.rpartition('.')[0] or extension}" if number else key
        name = key.encode(errors="surrogateescape")  # (as it stands in the tar)
        try:
            name.decode()
        except UnicodeDecodeError as error:
            yield ForeignSample("", "", 0, 0, "", f"bad_utf8: {error.reason} in the name {name!r}")
            return
        try:
            info, problem = _info(group)
            caption = _caption(group, info)
            yield ForeignSample(own, *member, caption, "" if any(caption) else problem, info)
        except (UnicodeDecodeError, UnicodeEncodeError) as error:
            yield ForeignSample(own, *member, "", f"bad_utf8: {error.reason} in the caption of {key!r}")
        except RowFailure as failure:
            yield ForeignSample(own, *member, "", str(failure))


def _is_video(extension: str) -> int:
    """0 for what is no video, else a number that tells which of several videos comes first."""
    last = extension.rpartition(".")[2]
    return VIDEO_EXTENSIONS.index(last) + 1 if last in VIDEO_EXTENSIONS else 0


def _caption(group: dict[str, tuple[tarfile.TarInfo, bytes]], info: Mapping[str, Any]) -> str | list[str]:
    """The caption of a sample, or all that its json lists, empty if it has none; UnicodeError or RowFailure if it is no
    text."""
    member, text = group.get("txt", (None, b""))
    if member is not None and member.size > _MAX_TEXT_BYTES:
        raise RowFailure("too_large", _too_large(member))
    if caption := text.decode().strip():
        return caption
    found = next((info[k] for k in _CAPTION_KEYS if isinstance(info.get(k), (str, list)) and info[k]), "")
    texts = found if isinstance(found, list) else [found]
    if not all(isinstance(text, str) for text in texts):
        raise RowFailure("bad_json", f"{group['json'][0].name}: a list of texts is wanted as caption")
    "".join(texts).encode()  # (JSON can spell lone surrogates, which are no text)
    return [text.strip() for text in texts] if isinstance(found, list) else found.strip()


def _too_large(member: tarfile.TarInfo) -> str:
    return f"{member.name} has {member.size} bytes, at most {_MAX_TEXT_BYTES} are read"


def _info(group: dict[str, tuple[tarfile.TarInfo, bytes]]) -> tuple[dict[str, Any], str]:
    """What the json of a sample has, and why that is nothing, ``"code: message"``; nothing, if there is none."""
    if "json" not in group:
        return {}, ""
    member, text = group["json"]
    if member.size > _MAX_TEXT_BYTES:
        return {}, f"too_large: {_too_large(member)}"
    try:
        document = json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        if "txt" in group and group["txt"][1].strip():
            return {}, ""  # (the caption is there without it)
        raise
    except (ValueError, RecursionError) as error:
        return {}, f"bad_json: {member.name}: {error}"
    return (document, "") if isinstance(document, dict) else ({}, f"bad_json: {member.name}: an object is wanted")


def _data(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    source = tar.extractfile(info)
    data = source.read() if source is not None else b""
    if len(data) != info.size:
        raise tarfile.ReadError(f"member {info.name!r} ends early")
    return data
