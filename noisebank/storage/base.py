"""What every store can do, and which names files may have."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from noisebank.errors import BankDamaged

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.=-]*(/[A-Za-z0-9_-][A-Za-z0-9_.=-]*)*")


def check_key(key: str) -> str:
    """``key`` itself, if it is a plain relative name.

    Raises:
        BankDamaged: it is absolute, climbs out with ``..`` or has other characters than banks use; keys come from the
            bank's own JSON, so a bad one was put there by damage or by malice.
    """
    if not _KEY.fullmatch(key):
        raise BankDamaged(f"{key!r} is not the name of a file of a bank; the file that names it is damaged")
    return key


@dataclass(frozen=True)
class StoredFile:
    """A file as a listing shows it."""

    key: str
    bytes: int
    modified: float
    """Seconds since 1970, by the store's own clock."""


class Store(ABC):
    """A folder of immutable files, by key (relative path with ``/``).

    Stores are pickled by their url and cache, so that they can travel to workers. A missing file raises
    ``FileNotFoundError``.
    """

    url: str
    cache: Path | None = None
    """The folder where it keeps copies of what was read, if it does."""

    def __reduce__(self) -> tuple[object, tuple[str, Path | None]]:
        from noisebank.storage.opening import open_store

        return open_store, (self.url, self.cache)

    def __repr__(self) -> str:
        return f"open_store({self.url!r})"

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Creates ``key`` with ``data`` unless it exists; whether it now holds exactly ``data``.

        ``data`` should be unique to its writer: when an answer is lost on the way, what the store holds is compared
        with it to find out who won.
        """

    @abstractmethod
    def replace(self, key: str, held: bytes, data: bytes) -> bool:
        """Puts ``data`` in place of exactly ``held``; whether it did. Of several at once one does, as of creators."""

    @abstractmethod
    def put(self, key: str, data: bytes | memoryview) -> None:
        """Writes ``data``; readers see all of it or what was there before."""

    @abstractmethod
    def upload(self, path: Path, key: str) -> None:
        """Like :meth:`put` from the local file ``path``, which is never held in memory whole."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The whole file."""

    @abstractmethod
    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; fewer where the file ends before."""

    def read_ranges(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """:meth:`read_range` of several ``(offset, length)`` of one file, at once where it is elsewhere."""
        return [self.read_range(key, *span) for span in spans]

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """A seekable binary file, for readers such as pyarrow's."""

    @abstractmethod
    def scan(self, prefix: str = "") -> Iterator[StoredFile]:
        """Every file in the folder ``prefix`` and below, in no particular order."""

    def list(self, prefix: str, after: str = "") -> list[str]:
        """The sorted keys in the folder ``prefix`` and below that come after the key ``after``."""
        return sorted(file.key for file in self.scan(prefix) if file.key > after)

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of the file."""

    def exists(self, key: str) -> bool:
        """Whether the file is there."""
        try:
            self.size(key)
        except FileNotFoundError:
            return False
        return True

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes the file; one that is already gone is no error."""

    @abstractmethod
    def local_path(self, key: str) -> Path | None:
        """The file as a path of this machine, for memory maps; None where it is elsewhere."""

    @abstractmethod
    def fetch(self, key: str, folder: Path) -> Path:
        """The file on this machine: itself where it is here, else a copy, by default under its key in ``folder``."""

    def forget(self, key: str) -> bool:
        """Removes copies of the file that this store keeps on this machine; whether there were any."""
        return False

    @abstractmethod
    def sweep(self, before: float) -> int:
        """Removes what killed writers left half-written before the time ``before``; how many there were."""

    @abstractmethod
    def probe(self) -> None:
        """Proves that creating a file only if it is absent works.

        Raises:
            UnsupportedStore: two writers were both told that they had created the same file.
        """
