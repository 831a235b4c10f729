"""One file of a list, read where it lies or where it was copied to."""

from __future__ import annotations

import csv
import re
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from noisebank.errors import ConfigError
from noisebank.options import SourceOptions
from noisebank.storage import Store

HTTP = ("http://", "https://")
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class ListFile:
    """One file of a source.

    Args:
        source: the options of its source.
        name: its address as the configuration gives it, for messages and as what relative uris start from.
        size: in bytes.
        format: one of :data:`.FORMATS`.
        copy: the bank and the file in it that it was copied to; None where it is read where it lies.
        root: the folder that relative uris start from; empty: the list's own.
    """

    source: SourceOptions
    name: str
    size: int
    format: str
    copy: tuple[Store, str] | None = None
    root: str = ""

    @property
    def source_name(self) -> str:
        """The source's identity and the prefix of its ids."""
        return self.source.label

    @property
    def is_http(self) -> bool:
        """Whether it was fetched from an ``http(s)://`` address."""
        return self.name.startswith(HTTP)

    @property
    def folder(self) -> str:
        """The folder that relative uris start from."""
        return self.root or self.own_folder

    @property
    def own_folder(self) -> str:
        """The folder that the list is in."""
        return file_path(self.name).rpartition("/")[0]

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, seekable.

        Raises:
            ConfigError: it cannot be opened any more, or what is read of it is damaged.
        """
        where = f"source {self.source_name}: {self.name}"
        try:
            with one_line_errors(self.name):
                stream = self.copy[0].open(self.copy[1]) if self.copy else open_address(self.name)
        except OSError as error:
            raise ConfigError(f"{where}: {error.strerror or error}") from error
        try:
            with stream, one_line_errors(self.name):
                yield stream
        except (OSError, pa.ArrowException, csv.Error) as error:
            raise ConfigError(f"{where}: cannot be read: {error}") from error


def file_path(address: str) -> str:
    """An address without the query (a signature, say) of one behind HTTP, which is no part of the file's name."""
    return re.split(r"[?#]", address, maxsplit=1)[0] if address.startswith(HTTP) else address


def open_address(address: str) -> BinaryIO:
    """A list where it lies; seekable, unless it is behind HTTP."""
    if address.startswith(HTTP):
        request = urllib.request.Request(address, headers={"User-Agent": "noisebank"})
        return cast(BinaryIO, urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS))
    return cast(BinaryIO, connect(address).open(address) if "://" in address else Path(address).open("rb"))


def connect(url: str) -> Any:
    """The file system of an address in an object store."""
    from noisebank.storage.clients import FileSystem

    return FileSystem(url.partition("://")[0])


def one_line_errors(address: str) -> AbstractContextManager[None]:
    """As :func:`.answers.one_line_errors` for an address in an object store; nothing for others."""
    if "://" not in address or address.startswith(HTTP):
        return nullcontext()
    from noisebank.storage import answers

    return answers.one_line_errors(address)
