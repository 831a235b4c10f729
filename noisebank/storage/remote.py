"""A bank in S3, Google Cloud Storage, Azure, or in the memory of this process, through obstore.

What was sent or answered may be lost on the way: obstore asks again, a bounded number of times, and what may have been
written none the less is looked up. Uploads are seen whole or not at all.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from noisebank.errors import ConfigError, StoreError, UnsupportedStore
from noisebank.storage.answers import RETRIES, is_cut_off, one_line_errors
from noisebank.storage.base import Store, StoredFile, check_key
from noisebank.storage.clients import check_process, connect

_PART_BYTES = 8 << 20
_PARTS_AT_ONCE = 4
_PAGE = 1000
_READ_AHEAD_BYTES = 1 << 16
_PROBE_WRITERS = 8


class RemoteStore(Store):
    """A prefix of a bucket or container.

    Every method raises :class:`StoreError` where the store cannot be reached or refuses, and what
    :func:`.clients.connect` raises.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._scheme, _, path = self.url.partition("://")
        self._bucket, _, prefix = path.partition("/")
        if not self._bucket:
            raise ConfigError(f"bank address {url!r}: a bucket is wanted after {self._scheme}://")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    @property
    def client(self) -> Any:
        """The obstore client of the whole bucket, for what this class has no method for."""
        check_process(self.url)
        return self._client

    @cached_property
    def _client(self) -> Any:
        return connect(self._scheme, self._bucket)

    def create(self, key: str, data: bytes) -> bool:
        try:
            with self._asking(key) as path:
                obstore.put(self.client, path, data, mode="create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError, StoreError) as error:
            # (who came first may have been this very writer, whose answer was lost, and may delete it again)
            try:
                return self.read(key) == data
            except FileNotFoundError:
                if isinstance(error, StoreError):
                    raise error from None
            return self.create(key, data)
        return True

    def replace(self, key: str, held: bytes, data: bytes) -> bool:
        with self._asking(key) as path:
            found = obstore.get(self.client, path)
            version: Any = {name: found.meta[name] for name in ("e_tag", "version") if found.meta[name] is not None}
            if bytes(found.bytes()) != held:
                return False
        try:
            with self._asking(key) as path:
                obstore.put(self.client, path, data, mode=version, use_multipart=False)
        except (PreconditionError, StoreError) as error:  # (or the answer is lost)
            if self.read(key) != data:
                if isinstance(error, StoreError):
                    raise
                return False
        return True

    def put(self, key: str, data: bytes | memoryview) -> None:
        with self._asking(key) as path:
            obstore.put(self.client, path, bytes(data), use_multipart=False)

    def upload(self, path: Path, key: str) -> None:
        wanted = path.stat().st_size
        try:
            with self._asking(key) as target:
                obstore.put(self.client, target, path, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
        except (StoreError, FileNotFoundError):  # (of a completed upload the answer may be lost, or read NotFound)
            if not self.exists(key) or self.size(key) != wanted:
                raise
        if (found := self.size(key)) != wanted:
            raise StoreError(f"{self.url}/{key}: {found} bytes arrived of {wanted}; try again")

    def read(self, key: str) -> bytes:
        with self._asking(key) as path:
            return bytes(obstore.get(self.client, path).bytes())

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        with self._asking(key) as path:
            return bytes(obstore.get_range(self.client, path, start=offset, length=length))

    def read_ranges(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        starts, lengths = zip(*spans, strict=True)
        with self._asking(key) as path:
            return [bytes(data) for data in obstore.get_ranges(self.client, path, starts=starts, lengths=lengths)]

    def open(self, key: str) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(_RangeFile(self, key), _READ_AHEAD_BYTES))

    def fetch(self, key: str, folder: Path) -> Path:
        path = folder / check_key(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file, self._asking(key) as source:
            try:
                first = obstore.get(self.client, source, options={"range": (0, _PART_BYTES)})
            except BaseError:
                if self.size(key):
                    raise
                return path  # (nothing has no range)
            file.write(first.bytes())
            while (at := file.tell()) < first.meta["size"]:
                file.write(obstore.get_range(self.client, source, start=at, length=_PART_BYTES))
        return path

    def scan(self, prefix: str = "") -> Iterator[StoredFile]:
        folder = self._prefix + (check_key(prefix.rstrip("/")) if prefix else "")
        with one_line_errors(f"{self.url}/{prefix}"):
            for file in self._list(folder.rstrip("/")):
                key = file["path"].removeprefix(self._prefix)
                yield StoredFile(key, file["size"], file["last_modified"].timestamp())

    def _list(self, folder: str) -> Iterator[Any]:
        """What obstore says of every object in a folder; a page that is cut off is asked for again."""
        last, tries = None, 0
        while True:
            try:
                for page in obstore.list(self.client, folder or None, offset=last, chunk_size=_PAGE):
                    for file in page:
                        yield file
                        last, tries = file["path"], 0
                return
            except BaseError as error:
                tries += 1
                if tries > RETRIES or not is_cut_off(error):
                    raise

    def size(self, key: str) -> int:
        with self._asking(key) as path:
            return int(obstore.head(self.client, path)["size"])

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError), self._asking(key) as path:
            obstore.delete(self.client, path)

    def local_path(self, key: str) -> Path | None:
        return None

    def sweep(self, before: float) -> int:
        """Uploads are atomic; parts of aborted ones are the bucket's life-cycle rules' to remove."""
        return 0

    def probe(self) -> None:
        key = f"probe/{uuid.uuid4().hex}"
        try:
            with ThreadPoolExecutor(_PROBE_WRITERS) as pool:
                won = sum(pool.map(lambda i: self.create(key, b"writer %d" % i), range(_PROBE_WRITERS)))
            won += self.create(key, b"a late writer")
        finally:
            self.delete(key)
        if won != 1:
            raise UnsupportedStore(
                f"{self.url}: {won} of {_PROBE_WRITERS + 1} writers were told that they had created the same file; "
                "this store ignores If-None-Match, so that snapshots would be lost; use one that honours it"
            )

    @contextmanager
    def _asking(self, key: str) -> Iterator[str]:
        """The path of a key in the bucket; errors in one line that names it."""
        path = self._prefix + check_key(key)
        with one_line_errors(f"{self.url}/{key}"):
            yield path


class _RangeFile(io.RawIOBase):
    """A remote file as a seekable one; each read is a range request."""

    def __init__(self, store: RemoteStore, key: str) -> None:
        self._store, self._key = store, key
        self._size = store.size(key)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self._size - self._position))
        data = self._store.read_range(self._key, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
