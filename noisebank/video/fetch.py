"""Brings a video to a local file from a path, HTTP(S), an object store, YouTube or a member of a tar.

Credentials and endpoints of object stores come from the environment, as obstore reads it.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import NamedTuple

from noisebank.errors import RowFailure, StoreError
from noisebank.options import FetchOptions
from noisebank.video import http, youtube
from noisebank.video.cells import parse_cell, read_cell
from noisebank.video.uris import HEADER_BYTES, Member, kind_of, parse_member, shown, youtube_id

_CHUNK = 1 << 20
_FORBIDDEN = (401, 403)


class Fetched(NamedTuple):
    """A video on this machine."""

    path: Path
    """``destination``, or the listed file itself where the uri is a local path."""
    start_ms: int
    """Where in the video the file begins: 0 but for a range of a YouTube video."""


def fetch(uri: str, destination: Path, options: FetchOptions, range_ms: tuple[int, int] | None = None) -> Fetched:
    """Fetches one video, streamed to disk.

    Args:
        uri: a path (used in place), ``http(s)://``, ``gs://``, ``s3://``, ``az://``, ``memory://``, a YouTube address,
            ``youtube:ID``, a member of a tar at any of the first four (:func:`~.uris.member_uri`), or a cell of a
            Parquet file (:func:`~.cells.cell_uri`).
        destination: file to write; unused where ``uri`` is a path.
        options: limits and retries.
        range_ms: start and end of what is wanted, a hint: only YouTube downloads less than the whole for it.

    Raises:
        RowFailure: with a code of :func:`.http.download` or :func:`.youtube.download`, or ``bad_uri``,
            ``missing_file``, ``forbidden``, ``too_large``, ``not_video`` (0 bytes), or, where trying again may help
            (obstore has, several times), ``connection`` or ``short_body``.
    """
    path, start_ms = destination, 0
    if member := parse_member(uri):
        _fetch_member(member, destination, options)
    elif cell := parse_cell(uri):
        video = read_cell(cell)
        _check_size(str(cell), len(video), options)
        destination.write_bytes(video)
    elif (kind := kind_of(uri)) == "local":
        path = Path(uri)
    elif kind == "youtube":
        youtube.download(str(youtube_id(uri)), destination, options, range_ms)
        start_ms = range_ms[0] if range_ms else 0
    else:
        _download(uri, destination, options)
    _check_size(shown(uri), _size(path, shown(uri)), options)
    return Fetched(path, start_ms)


def _download(uri: str, destination: Path, options: FetchOptions, span: tuple[int, int] | None = None) -> None:
    """Writes what is at ``uri``, or its bytes ``[start, end)`` in ``span``, to ``destination``."""
    (_download_object if kind_of(uri) == "object" else http.download)(uri, destination, options, span)


def _download_object(uri: str, destination: Path, options: FetchOptions, span: tuple[int, int] | None) -> None:
    import obstore

    from noisebank.storage.answers import describe_answer, one_line_errors
    from noisebank.storage.clients import connect

    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if not bucket or not key or set(key) & {"#", "?"}:  # obstore would silently drop what follows # or ?
        raise RowFailure("bad_uri", f"{uri}: {scheme}://bucket/key without # and ? is wanted")
    try:
        with one_line_errors(uri), destination.open("wb") as file:
            result = obstore.get(connect(scheme.lower(), bucket), key, options={"range": span} if span else None)
            start, end = result.range
            _check_size(uri, end - start, options)
            size = sum(file.write(chunk) for chunk in result.stream(min_chunk_size=_CHUNK))
    except FileNotFoundError as error:
        raise RowFailure("missing_file", str(error)) from error
    except ValueError as error:  # (a bucket or key that no store could have)
        raise RowFailure("bad_uri", f"{uri}: {describe_answer(error)}") from error
    except StoreError as error:
        if error.status in _FORBIDDEN:
            raise RowFailure("forbidden", f"{error}; check the credentials in the environment") from error
        raise RowFailure("connection", str(error), retryable=True) from error
    if size < end - start:
        raise RowFailure("short_body", f"{uri}: {size} bytes of {end - start}", retryable=True)


def _size(path: Path, where: str) -> int:
    try:
        found = path.stat()
    except OSError as error:
        raise RowFailure("missing_file", f"{where}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise RowFailure("missing_file", f"{where}: not a regular file")
    return found.st_size


def _check_size(where: str, size: int, options: FetchOptions) -> None:
    if size > options.max_bytes:
        raise RowFailure("too_large", f"{where}: {size} bytes, fetch.max_bytes is {options.max_bytes}")
    if size == 0:
        raise RowFailure("not_video", f"{where}: 0 bytes")


def _fetch_member(member: Member, destination: Path, options: FetchOptions) -> None:
    """Copies the data of a tar's member, after a look at its header."""
    _check_size(str(member), member.size, options)
    start, end = member.offset - HEADER_BYTES, member.offset + member.size
    tar, local = Path(member.tar), kind_of(member.tar) == "local"
    if not local:
        tar = destination.with_name(destination.name + ".member")
        _download(member.tar, tar, options, (start, end))
        start, end = 0, end - start
    missing = end - _size(tar, shown(member.tar))
    if missing > 0:
        raise RowFailure("missing_file", f"{member}: the tar ends {missing} bytes early")
    with tar.open("rb") as source, destination.open("wb") as target:
        source.seek(start)
        member.check(source.read(HEADER_BYTES))
        left = member.size
        while chunk := source.read(min(_CHUNK, left)):
            left -= target.write(chunk)
    if not local:
        tar.unlink()
