"""Brings a video to a local file from a path, HTTP(S), an object store, YouTube or a member of a tar."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import NamedTuple

from noisebank.errors import RowFailure
from noisebank.options import FetchOptions
from noisebank.video import http, objects, youtube
from noisebank.video.members import HEADER_BYTES, Member, parse_member
from noisebank.video.uris import kind_of, youtube_id

_CHUNK = 1 << 20


class Fetched(NamedTuple):
    """A video on this machine."""

    path: Path
    """``destination``, or the listed file itself where the uri is a local path."""
    start_ms: int
    """Where in the video the file begins: 0 but for a range of a YouTube video."""


def fetch(
    uri: str,
    destination: Path,
    options: FetchOptions,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> Fetched:
    """Fetches one video, streamed to disk.

    Args:
        uri: a path (used in place), ``http(s)://``, ``gs://``, ``s3://``, ``az://``, a YouTube address,
            ``youtube:ID``, or a member of a tar at any of the first four (:func:`~.members.member_uri`).
        destination: file to write; unused where ``uri`` is a path.
        options: limits and retries.
        start_ms, end_ms: the range wanted, a hint: only YouTube downloads less than the whole for it.

    Raises:
        RowFailure: with a code of :func:`.http.download`, :func:`.objects.download` or :func:`.youtube.download`, or
            ``missing_file``, ``too_large``, ``bad_uri``.
    """
    member = parse_member(uri)
    if member is not None:
        _fetch_member(member, destination, options)
        return Fetched(destination, 0)
    kind = kind_of(uri)
    if kind == "local":
        return Fetched(_local(uri, options), 0)
    if kind == "youtube":
        youtube.download(str(youtube_id(uri)), destination, options, start_ms, end_ms)
        ranged = start_ms is not None and end_ms is not None
        return Fetched(destination, start_ms if ranged and start_ms is not None else 0)
    (http if kind == "http" else objects).download(uri, destination, options)
    return Fetched(destination, 0)


def _local(uri: str, options: FetchOptions) -> Path:
    """The path of a regular file within the size limit."""
    path = Path(uri)
    try:
        found = path.stat()
    except OSError as error:
        raise RowFailure("missing_file", f"{uri}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise RowFailure("missing_file", f"{uri}: not a regular file")
    if found.st_size > options.max_bytes:
        raise RowFailure("too_large", f"{uri}: {found.st_size} bytes, fetch.max_bytes is {options.max_bytes}")
    if found.st_size == 0:
        raise RowFailure("not_video", f"{uri}: 0 bytes")
    return path


def _fetch_member(member: Member, destination: Path, options: FetchOptions) -> None:
    """Copies the data of a tar's member, after a look at its header."""
    if member.size > options.max_bytes:
        raise RowFailure(
            "too_large", f"{member.tar}#{member.name}: {member.size} bytes, fetch.max_bytes is {options.max_bytes}"
        )
    kind = kind_of(member.tar)
    start, end = member.span
    if kind == "local":
        piece, begin = _tar(member.tar), start
    else:
        piece, begin = destination.with_name(destination.name + ".member"), 0
        (http if kind == "http" else objects).download(member.tar, piece, options, span=(start, end))
    try:
        with piece.open("rb") as source, destination.open("wb") as target:
            source.seek(begin)
            member.check(source.read(HEADER_BYTES))
            left = member.size
            while left and (chunk := source.read(min(_CHUNK, left))):
                left -= target.write(chunk)
    finally:
        if kind != "local":
            piece.unlink(missing_ok=True)
    if left:
        raise RowFailure("missing_file", f"{member.tar}#{member.name}: the tar ends {left} bytes early")


def _tar(uri: str) -> Path:
    path = Path(uri)
    if not path.is_file():
        raise RowFailure("missing_file", f"{uri}: no such tar")
    return path
