"""The files of a source: from a path, glob, brace range or URL to files that can be read in ranges.

A list is read where it lies, by local paths or by obstore's fsspec adapter. One behind HTTP, or compressed, cannot be
read in ranges: it is copied into the bank's planning folder first.
"""

from __future__ import annotations

import csv
import glob
import gzip
import itertools
import re
import shutil
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
from braceexpand import braceexpand

from noisebank.errors import ConfigError
from noisebank.options import SourceOptions
from noisebank.sources.formats import FORMATS
from noisebank.sources.layouts import layout_of
from noisebank.storage import Store

_BRACES = re.compile(r"(\{[0-9]+\.\.[0-9]+\})")
_TIMEOUT_SECONDS = 60
_REMOTE = ("gs", "s3", "az")
_HTTP = ("http://", "https://")


@dataclass(frozen=True)
class ListFile:
    """One file of a source.

    Args:
        source: the options of its source.
        name: its address as the configuration gives it, for messages and as what relative uris start from.
        size: in bytes.
        format: one of :data:`.FORMATS`.
        copy: the bank and the file in it that it was copied to; None where it is read where it lies.
    """

    source: SourceOptions
    name: str
    size: int
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

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, seekable.

        Raises:
            ConfigError: it cannot be opened any more, or what is read of it is damaged.
        """
        where = f"source {self.source_name}: {self.name}"
        try:
            stream = self.copy[0].open(self.copy[1]) if self.copy else _open(self.name)
        except OSError as error:
            raise ConfigError(f"{where}: {error.strerror or error}") from error
        try:
            with stream:
                yield stream
        except (OSError, pa.ArrowException, csv.Error) as error:
            raise ConfigError(f"{where}: cannot be read: {error}") from error


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
    parts = (braceexpand(part) if _BRACES.fullmatch(part) else [part] for part in _BRACES.split(pattern))
    return ["".join(combined) for combined in itertools.product(*parts)]


def open_lists(source: SourceOptions, store: Store, folder: str) -> list[ListFile]:
    """The files of a source, ready to be read in ranges.

    Lists that cannot be read in ranges are copied to ``folder`` in the bank ``store``.

    Raises:
        ConfigError: as :func:`expand`; or the format of a file cannot be told, or it cannot be fetched.
    """
    files = []
    for i, address in enumerate(expand(source)):
        format = _format(source, address)
        if address.startswith(_HTTP) or address.endswith(".gz"):
            key = f"{folder}/{source.name or source.kind}-{i}.{format}"
            _copy(source, address, store, key)
            files.append(ListFile(source, address, store.size(key), format, (store, key)))
        else:
            size = int(_remote(address).size(address)) if "://" in address else Path(address).stat().st_size
            files.append(ListFile(source, address, size, format))
    return files


def _matches(pattern: str) -> list[str]:
    """The files at one address, [] if there is none."""
    if pattern.startswith(_HTTP):
        return [pattern]
    scheme, separator, _ = pattern.partition("://")
    if separator and scheme in _REMOTE:
        if glob.has_magic(pattern):
            return sorted(f"{scheme}://{key}" for key in _remote(pattern).glob(pattern))
        return [pattern] if _remote(pattern).exists(pattern) else []
    if separator:
        raise ConfigError(f"path {pattern!r}: a local path, http(s)://, gs://, s3:// or az:// is wanted")
    found = [pattern]
    if glob.has_magic(pattern) and not Path(pattern).exists():
        found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (it takes absolute patterns)
    files = [str(Path(path).absolute()) for path in found if Path(path).is_file()]
    for path in files:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"path {pattern!r}: the name {path!r} is not UTF-8; rename it") from error
    return files


def _format(source: SourceOptions, address: str) -> str:
    layout, path = layout_of(source), _path(address)
    for name in layout.formats:
        plain = path.removesuffix(".gz") if FORMATS[name].compressible else path
        if Path(plain).suffix.lower() in FORMATS[name].suffixes:
            return name
    if layout.default_format:
        return layout.default_format
    wanted = ", ".join(suffix for name in layout.formats for suffix in FORMATS[name].suffixes)
    raise ConfigError(f"source {source.name or source.kind}: path {address!r}: a name that ends in {wanted} is wanted")


def _path(address: str) -> str:
    """An address without the query (a signature, say) of one behind HTTP, which is no part of the file's name."""
    return re.split(r"[?#]", address, maxsplit=1)[0] if address.startswith(_HTTP) else address


def _copy(source: SourceOptions, address: str, store: Store, key: str) -> None:
    """Copies a list into the bank, decompressed."""
    try:
        with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
            path = Path(scratch, "list")
            with _open(address) as body, path.open("wb") as target:
                plain = gzip.GzipFile(fileobj=body) if _path(address).endswith(".gz") else body
                shutil.copyfileobj(plain, target, 1 << 20)
            store.upload(path, key)
    except (OSError, EOFError, ValueError, zlib.error, HTTPException) as error:
        raise ConfigError(f"source {source.name or source.kind}: {address}: {error}") from error


def _open(address: str) -> BinaryIO:
    """A list where it lies; seekable, unless it is behind HTTP."""
    if address.startswith(_HTTP):
        request = urllib.request.Request(address, headers={"User-Agent": "noisebank"})
        return cast(BinaryIO, urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS))
    return cast(BinaryIO, _remote(address).open(address) if "://" in address else Path(address).open("rb"))


def _remote(url: str) -> Any:
    from obstore.fsspec import FsspecStore

    return FsspecStore(url.partition("://")[0])  # (fsspec makes one a process)
