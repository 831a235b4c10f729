"""The files of a source: from a path, glob, brace range or URL to files that can be read in ranges.

A list is read where it lies, by local paths or by obstore's fsspec adapter. One behind HTTP, or compressed, cannot be
read in ranges: it is copied into the bank's planning folder first.
"""

from __future__ import annotations

import glob
import gzip
import os
import re
import shutil
import tempfile
import urllib.request
import zlib
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, cast

from noisebank.errors import ConfigError
from noisebank.options import SourceOptions
from noisebank.storage import Store

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAGIC = re.compile(r"[*?\[]")
_TIMEOUT_SECONDS = 60
_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
_REMOTE = ("gs", "s3", "az")
_HTTP = ("http://", "https://")


@dataclass(frozen=True)
class ListFile:
    """One file of a source.

    Args:
        source: the options of its source.
        name: its address as the configuration gives it, for messages and as what relative uris start from.
        bytes: its size.
        format: ``csv``, ``jsonl``, ``parquet`` or ``tar``.
        copy: the bank and the file in it that it was copied to; None where it is read where it lies.
    """

    source: SourceOptions
    name: str
    bytes: int
    format: str
    copy: tuple[Store, str] | None = None

    @property
    def source_name(self) -> str:
        """The source's identity and the prefix of its ids."""
        return self.source.name or self.source.kind

    @property
    def is_http(self) -> bool:
        """Whether it was fetched from an ``http(s)://`` address."""
        return self.name.startswith(_HTTP)

    @property
    def folder(self) -> str:
        """The folder of the list, which relative uris start from."""
        return _path(self.name).rpartition("/")[0]

    @property
    def relative_name(self) -> str:
        """The list as seen from its folder, with the query of its address."""
        return self.name.removeprefix(self.folder).removeprefix("/")

    def open(self) -> BinaryIO:
        """The file, seekable.

        Raises:
            ConfigError: it cannot be opened any more.
        """
        try:
            return self.copy[0].open(self.copy[1]) if self.copy else _open(self.name)
        except OSError as error:
            raise ConfigError(f"source {self.source_name}: {self.name}: {error.strerror or error}") from error


def expand(source: SourceOptions) -> list[str]:
    """The addresses of the files of a source, in the order listed, globs sorted; local paths absolute.

    >>> expand(SourceOptions("webvid", ("https://example.org/{08..10}.csv",)))[1]
    'https://example.org/09.csv'

    Raises:
        ConfigError: a file does not exist, nothing matches a glob, or a name is not UTF-8.
    """
    name = source.name or source.kind
    addresses: list[str] = []
    for pattern in source.path:
        for part in expand_braces(pattern):
            found = _matches(part)
            if not found:
                of = "" if part == pattern else f" of {pattern!r}"
                raise ConfigError(f"source {name}: path {part!r}{of}: no such file")
            addresses += found
    return addresses


def expand_braces(pattern: str) -> list[str]:
    """``{000..002}`` counted out as bash does, up or down, with leading zeros; several are combined.

    >>> expand_braces("a{08..10}.tar"), expand_braces("{2..1}.csv")
    (['a08.tar', 'a09.tar', 'a10.tar'], ['2.csv', '1.csv'])
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last = map(int, match.groups())
    head, tail = pattern[: match.start()], pattern[match.end() :]
    padded = any(len(text) > 1 and text.startswith("0") for text in match.groups())
    width = max(map(len, match.groups())) if padded else 0
    step = 1 if first <= last else -1
    numbers = (f"{number:0{width}d}" for number in range(first, last + step, step))
    return [expanded for number in numbers for expanded in expand_braces(f"{head}{number}{tail}")]


def open_lists(source: SourceOptions, store: Store, folder: str) -> list[ListFile]:
    """The files of a source, ready to be read in ranges.

    Args:
        source: whose files.
        store: the bank, and
        folder: the folder in it where lists that cannot be read in ranges are copied to.

    Raises:
        ConfigError: as :func:`expand`; or the format of a file cannot be told, or it cannot be fetched.
    """
    files = []
    for i, address in enumerate(expand(source)):
        format = _format(source, address)
        if address.startswith(_HTTP) or _is_gzip(address):
            key = f"{folder}/{source.name or source.kind}-{i}.{format}"
            _copy(source, address, store, key)
            files.append(ListFile(source, address, store.size(key), format, (store, key)))
        else:
            files.append(ListFile(source, address, _size(address), format))
    return files


def is_local(address: str) -> bool:
    """Whether an address is a path of this machine."""
    return "://" not in address


def _matches(pattern: str) -> list[str]:
    """The files at one address, [] if there is none."""
    scheme = pattern.partition("://")[0] if "://" in pattern else ""
    if scheme in ("http", "https"):
        return [pattern]
    if scheme in _REMOTE:
        if _MAGIC.search(pattern):
            return sorted(f"{scheme}://{key}" for key in _remote(pattern).glob(pattern))
        return [pattern] if _remote(pattern).exists(pattern) else []
    if scheme:
        raise ConfigError(f"path {pattern!r}: a local path, http(s)://, gs://, s3:// or az:// is wanted")
    found = [pattern]
    if _MAGIC.search(pattern) and not Path(pattern).exists():
        found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (it takes absolute patterns)
    files = [str(Path(path).absolute()) for path in found if Path(path).is_file()]
    for path in files:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"path {pattern!r}: the name {path!r} is not UTF-8; rename it") from error
    return files


def _format(source: SourceOptions, address: str) -> str:
    if source.kind == "webvid":
        return "csv"
    path = _path(address)
    suffixes = {".tar": "tar"} if source.kind == "webdataset" else _SUFFIXES
    suffix = Path(path if source.kind == "webdataset" else path.removesuffix(".gz")).suffix.lower()
    if suffix not in suffixes:
        wanted = ", ".join(suffixes)
        raise ConfigError(
            f"source {source.name or source.kind}: path {address!r}: a name that ends in {wanted} is wanted"
        )
    return suffixes[suffix]


def _path(address: str) -> str:
    """An address without the query (a signature, say) of one behind HTTP, which is no part of the file's name."""
    return re.split(r"[?#]", address, maxsplit=1)[0] if address.startswith(_HTTP) else address


def _is_gzip(address: str) -> bool:
    return _path(address).endswith(".gz")


def _copy(source: SourceOptions, address: str, store: Store, key: str) -> None:
    """Copies a list into the bank, decompressed."""
    try:
        with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
            path = Path(scratch, "list")
            with _open(address) as body, path.open("wb") as target:
                plain = gzip.GzipFile(fileobj=body) if _is_gzip(address) else body
                shutil.copyfileobj(plain, target, 1 << 20)
            store.upload(path, key)
    except (OSError, EOFError, ValueError, zlib.error, HTTPException) as error:
        raise ConfigError(f"source {source.name or source.kind}: {address}: {error}") from error


def _open(address: str) -> BinaryIO:
    """A list where it lies; seekable, unless it is behind HTTP."""
    if address.startswith(_HTTP):
        request = urllib.request.Request(address, headers={"User-Agent": "noisebank"})
        return cast(BinaryIO, urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS))
    return cast(BinaryIO, Path(address).open("rb") if is_local(address) else _remote(address).open(address))


def _size(address: str) -> int:
    return Path(address).stat().st_size if is_local(address) else int(_remote(address).size(address))


def _remote(url: str) -> Any:
    return _remote_of(url.partition("://")[0], os.getpid())


@cache
def _remote_of(scheme: str, pid: int) -> Any:  # (pid: a client does not survive a fork)
    from obstore.fsspec import FsspecStore

    return FsspecStore(scheme)
