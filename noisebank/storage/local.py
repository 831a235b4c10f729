"""A bank in a local folder.

Durable and atomic by the means of the file system: a temporary file in the same folder, fsync, then a hard link (which
fails if the name is taken) or a rename, then fsync of the folder. As in an object store, there are no empty folders.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from noisebank.errors import BankDamaged, UnsupportedStore
from noisebank.storage.base import Store, StoredFile, check_key

_TEMPORARY = ".tmp"


class LocalStore(Store):
    """A folder of this machine (or a mounted one that has hard links)."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self.url = str(self.root)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with suppress(FileNotFoundError):
            return path.read_bytes() == data
        temporary = self._write_temporary(path, lambda file: file.write(data))
        try:
            os.link(temporary, path)
        except FileExistsError:
            return self.create(key, data)  # (who came first may delete it again)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK):
                raise UnsupportedStore(
                    f"{self.url}: this file system has no hard links ({error}), which commits need; use another disk"
                ) from error
            if not path.exists() or path.read_bytes() != data:  # (a network file system may lose the answer)
                raise
        finally:
            temporary.unlink()
        _sync_folder(path.parent)
        return True

    def replace(self, key: str, held: bytes, data: bytes) -> bool:
        path = self._path(key)
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # (of this very file, not of one that has taken its place)
            if file.read() != held or os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                return False
            self.put(key, data)
        return True

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._replace(key, lambda file: file.write(data))

    def upload(self, path: Path, key: str) -> None:
        with path.open("rb") as source:
            self._replace(key, lambda target: shutil.copyfileobj(source, target, 1 << 20))

    def read(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        with self._path(key).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)

    def open(self, key: str) -> BinaryIO:
        return self._path(key).open("rb")

    def scan(self, prefix: str = "") -> Iterator[StoredFile]:
        folder = self._path(prefix.rstrip("/")) if prefix else self.root
        for path in _walk(folder):
            if path.name.startswith("."):
                continue
            try:
                status = path.lstat()
            except FileNotFoundError:  # (deleted by another process meanwhile)
                continue
            yield StoredFile(path.relative_to(self.root).as_posix(), status.st_size, status.st_mtime)

    def size(self, key: str) -> int:
        return self._path(key).stat().st_size

    def delete(self, key: str) -> None:
        self._remove(self._path(key))

    def local_path(self, key: str) -> Path:
        return self._path(key)

    def fetch(self, key: str, folder: Path) -> Path:
        return self._path(key)

    def sweep(self, before: float) -> int:
        removed = 0
        for path in _walk(self.root):
            if not (path.name.startswith(".") and path.name.endswith(_TEMPORARY)):
                continue
            with suppress(FileNotFoundError):  # (its writer has just finished)
                if path.lstat().st_mtime < before:
                    self._remove(path)
                    removed += 1
        return removed

    def probe(self) -> None:
        """A local file system either has hard links, which are exclusive, or fails in :meth:`create`."""

    def _path(self, key: str) -> Path:
        path = self.root / check_key(key)
        if os.path.realpath(path) != str(path):
            raise BankDamaged(f"{path}: a symbolic link; files of a bank are real files inside its folder")
        return path

    def _remove(self, path: Path) -> None:
        """Removes a file, and the folders that it leaves empty."""
        path.unlink(missing_ok=True)
        with suppress(OSError):  # (not empty, or gone)
            for folder in path.relative_to(self.root).parents[:-1]:
                self.root.joinpath(folder).rmdir()

    def _replace(self, key: str, write: Callable[[BinaryIO], object]) -> None:
        path = self._path(key)
        temporary = self._write_temporary(path, write)
        temporary.replace(path)
        _sync_folder(path.parent)

    def _write_temporary(self, path: Path, write: Callable[[BinaryIO], object]) -> Path:
        """A temporary file beside ``path``, written and synced."""
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY}")
        try:
            with self._create_file(temporary) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _create_file(self, path: Path, attempts: int = 32) -> BinaryIO:
        """A new file with its folder, which another process that finds it empty may remove at any moment."""
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                for folder in [path.parent, *path.parent.parents][: len(path.relative_to(self.root).parts)]:
                    _sync_folder(folder)
            return path.open("xb")
        except (FileNotFoundError, FileExistsError):  # (mkdir may raise either)
            if attempts == 1:
                raise
            return self._create_file(path, attempts - 1)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent, name)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # (another process has deleted what was in it, and with that the folder)
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
