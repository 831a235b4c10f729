"""A bank in an object store of which what was read stays on this machine, for readers that come back.

Files are named by their content and never change, so a copy is right for ever: a second process asks the store for no
table, index or record that a first has read. The folder may be shared by processes, and emptied at any time.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from noisebank.errors import ConfigError
from noisebank.storage.files import is_content_named
from noisebank.storage.local import LocalStore
from noisebank.storage.remote import RemoteStore


class CachedStore(RemoteStore):
    """Whole files as :meth:`fetch` brought them, and ranges, each in a file of its own.

    Args:
        url: of the bank, in an object store.
        cache: the folder; each bank has its own in it.

    Raises:
        ConfigError: no folder can be made there.
    """

    def __init__(self, url: str, cache: Path) -> None:
        super().__init__(url)
        self.cache = cache.absolute()
        folder = self.cache / hashlib.sha256(self.url.encode()).hexdigest()[:32]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cache {str(cache)!r}: {error.strerror}; name a folder that can be written") from error
        self._copies = LocalStore(folder)

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        return self.read_ranges(key, [(offset, length)])[0]

    def read_ranges(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        if not is_content_named(key):
            return super().read_ranges(key, spans)
        found: dict[tuple[int, int], bytes] = {}
        for span in spans:
            with suppress(FileNotFoundError):
                if len(data := self._copies.read(_range_key(key, span))) == span[1]:
                    found[span] = data
        if missing := [span for span in spans if span not in found]:
            for span, data in zip(missing, super().read_ranges(key, missing), strict=True):
                found[span] = data
                with suppress(OSError):  # (a full disk costs a request, no lookup)
                    self._copies.put(_range_key(key, span), data)
        return [found[span] for span in spans]

    def fetch(self, key: str, folder: Path) -> Path:
        if not is_content_named(key):
            return super().fetch(key, folder)
        target = self._copies.local_path(key)
        with tempfile.TemporaryDirectory(dir=self._copies.root, prefix=".") as scratch:
            copy = super().fetch(key, Path(scratch))
            with copy.open("rb+") as file:
                os.fsync(file.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            copy.replace(target)
        return target

    def local_path(self, key: str) -> Path | None:
        path = self._copies.local_path(key) if is_content_named(key) else None
        return path if path is not None and path.is_file() else None

    def forget(self, key: str) -> bool:
        copies = [*self._copies.list(_ranges_folder(key)), *([key] if self.local_path(key) else [])]
        for copy in copies:
            self._copies.delete(copy)
        return bool(copies)


def _ranges_folder(key: str) -> str:
    return f"{key}.ranges"


def _range_key(key: str, span: tuple[int, int]) -> str:
    return f"{_ranges_folder(key)}/{span[0]}-{span[1]}"
