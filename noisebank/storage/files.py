"""Data files: named by the hash of their content, so that equal content is one file and nothing is overwritten."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noisebank.errors import BankDamaged
from noisebank.storage.base import Store, check_key

_CHUNK = 1 << 20
_DIGITS = 32
_NAME = re.compile(r"([0-9a-f]{32})(-v([1-9][0-9]*))?\.[a-z]+")


@dataclass(frozen=True)
class FileEntry:
    """A data file as manifests and receipts name it; BankDamaged if its path is not one of a data file."""

    path: str
    bytes: int
    sha256: str
    rows: int

    def __post_init__(self) -> None:
        _name(check_key(self.path))

    @property
    def key(self) -> int:
        """The number by which tables refer to the file: the first 16 hexadecimal digits of its name, as uint64."""
        return int(_name(self.path).group(1)[:16], 16)

    @property
    def vacuum(self) -> int:
        """Number of the last vacuum before the file was written; 0: none."""
        return int(_name(self.path).group(3) or 0)


def data_path(folder: str, digest: str, suffix: str, vacuum: int = 0) -> str:
    """The path of a data file whose content (or group of files) has the hexadecimal ``digest``.

    >>> data_path("noise/modelscope", "c0ffee" * 10, ".arrow", vacuum=7)
    'noise/modelscope/c0ffeec0ffeec0ffeec0ffeec0ffeec0-v7.arrow'
    """
    return f"{folder}/{digest[:_DIGITS]}{f'-v{vacuum}' if vacuum else ''}{suffix}"


def is_content_named(key: str) -> bool:
    """Whether the file has the name of its content, and so is never another (receipts are named by what went in)."""
    return _NAME.fullmatch(key.rpartition("/")[2]) is not None and not key.endswith(".json")


def file_sha256(path: Path) -> str:
    """The sha256 of a local file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_stored(store: Store, key: str) -> str:
    """The sha256 of a stored file, read in pieces."""
    digest = hashlib.sha256()
    with store.open(key) as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class BankWriter:
    """Writes data files into a bank, under the names that their content gives them.

    A file of such a name that is there already (another attempt made the same) stays if its content is right, and is
    replaced if it is damaged.

    Args:
        store: the bank.
        vacuum: number of the last vacuum of the snapshot that is updated. It goes into the names of the files, so that
            late deletions of that vacuum never hit them.
    """

    store: Store
    vacuum: int = 0

    def file(self, path: Path, folder: str, suffix: str, rows: int) -> FileEntry:
        """Uploads a finished local file, which is copied and left alone.

        Args:
            path: the file.
            folder: where it goes, such as ``captions`` or ``noise/modelscope``.
            suffix: with the dot.
            rows: its rows, for the manifest.
        """
        digest = file_sha256(path)
        return self._upload(path, data_path(folder, digest, suffix, self.vacuum), digest, rows)

    def group(self, files: Sequence[tuple[Path, str, int]], folder: str) -> tuple[FileEntry, ...]:
        """Uploads files ``(path, suffix, rows)`` that belong together under one name, the hash of all their digests."""
        digests = [file_sha256(path) for path, _, _ in files]
        name = hashlib.sha256("".join(digests).encode()).hexdigest()
        return tuple(
            self._upload(path, data_path(folder, name, suffix, self.vacuum), digest, rows)
            for (path, suffix, rows), digest in zip(files, digests, strict=True)
        )

    def data(self, content: bytes | memoryview, folder: str, suffix: str, rows: int) -> FileEntry:
        """:meth:`file` for small content in memory."""
        digest = hashlib.sha256(content).hexdigest()
        entry = FileEntry(data_path(folder, digest, suffix, self.vacuum), len(content), digest, rows)
        if not is_intact(self.store, entry):
            self.store.put(entry.path, content)
        return entry

    def _upload(self, path: Path, key: str, digest: str, rows: int) -> FileEntry:
        entry = FileEntry(key, path.stat().st_size, digest, rows)
        if not is_intact(self.store, entry):
            self.store.upload(path, key)
        return entry


def is_intact(store: Store, entry: FileEntry) -> bool:
    """Whether the file is there with the content that ``entry`` states."""
    return is_present(store, entry) and hash_stored(store, entry.path) == entry.sha256


def fits_name(store: Store, path: str) -> bool:
    """Whether the file is there with the content that named it; for files that have their name to themselves."""
    try:
        return hash_stored(store, path)[:_DIGITS] == _name(path).group(1)
    except FileNotFoundError:
        return False


def is_present(store: Store, entry: FileEntry) -> bool:
    """Whether the file is there with the right size (its content is not read)."""
    try:
        return store.size(entry.path) == entry.bytes
    except FileNotFoundError:
        return False


def _name(path: str) -> re.Match[str]:
    match = _NAME.fullmatch(path.rpartition("/")[2])
    if match is None:
        raise BankDamaged(f"{path!r} is not the name of a data file; the manifest or receipt that names it is damaged")
    return match
