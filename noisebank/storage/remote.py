"""A bank in S3, Google Cloud Storage, Azure, or in the memory of this process, through obstore.

Credentials and endpoints come from the environment variables of each cloud, as obstore reads them, and
``STORAGE_EMULATOR_HOST``. AWS profiles and Azure connection strings are not read; see docs/format.md.
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

from noisebank.errors import ConfigError, NoiseBankError, UnsupportedStore
from noisebank.storage.base import Store, StoredFile, check_key

_PART_BYTES = 8 << 20
_PARTS_AT_ONCE = 4
_READ_AHEAD_BYTES = 1 << 16
_PROBE_WRITERS = 8
_CLIENT = {"timeout": timedelta(seconds=300), "connect_timeout": timedelta(seconds=5)}
_CLIENT |= {"read_timeout": timedelta(seconds=90)}
_RETRY = {"max_retries": 6, "retry_timeout": timedelta(seconds=300)}
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT")
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_STORAGE_USE_EMULATOR")

_memory: dict[str, MemoryStore] = {}
_client_process: list[int] = []


class RemoteStore(Store):
    """A prefix of a bucket or container.

    Raises:
        NoiseBankError: it is used in a process forked from one that had used obstore, whose threads did not survive
            the fork: it would wait for ever.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._client_of_url: Any = None

    @property
    def client(self) -> Any:
        """The obstore client, for what this class has no method for."""
        if not _client_process:
            _client_process.append(os.getpid())
        elif _client_process[0] != os.getpid():
            raise NoiseBankError(
                f"{self.url} is used in process {os.getpid()}, forked from {_client_process[0]} which had opened an "
                "object store already; start workers with the 'spawn' or 'forkserver' method"
            )
        if self._client_of_url is None:
            self._client_of_url = _connect(self.url)
        return self._client_of_url

    def create(self, key: str, data: bytes) -> bool:
        try:
            obstore.put(self.client, check_key(key), data, mode="create", use_multipart=False)
        except (
            BaseError,
            OSError,
        ):  # (it is there; or time-outs and broken connections: it may have been written none the less)
            if not self.exists(key):
                raise
            return self.read(key) == data
        return True

    def replace(self, key: str, held: bytes, data: bytes) -> bool:
        found = obstore.get(self.client, check_key(key))
        version: Any = {name: found.meta[name] for name in ("e_tag", "version") if found.meta[name] is not None}
        if bytes(found.bytes()) != held:
            return False
        try:
            obstore.put(self.client, key, data, mode=version, use_multipart=False)
        except PreconditionError:
            return False
        except (BaseError, OSError):  # (the answer may be lost)
            if self.read(key) != data:
                raise
        return True

    def put(self, key: str, data: bytes | memoryview) -> None:
        obstore.put(self.client, check_key(key), bytes(data), use_multipart=False)

    def upload(self, path: Path, key: str) -> None:
        wanted = path.stat().st_size
        try:
            obstore.put(self.client, check_key(key), path, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
        except (BaseError, OSError):  # (the answer to a completed multipart upload may be lost, or read NotFound)
            if not self.exists(key) or self.size(key) != wanted:
                raise
        if (found := self.size(key)) != wanted:
            raise NoiseBankError(f"{self.url}/{key}: {found} bytes arrived of {wanted}; try again")

    def read(self, key: str) -> bytes:
        return bytes(obstore.get(self.client, check_key(key)).bytes())

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        return bytes(obstore.get_range(self.client, check_key(key), start=offset, length=length))

    def open(self, key: str) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(_RangeFile(self, key), _READ_AHEAD_BYTES))

    def scan(self, prefix: str = "") -> Iterator[StoredFile]:
        folder = check_key(prefix.rstrip("/")) if prefix else None
        for page in obstore.list(self.client, folder, chunk_size=1000):
            for file in page:
                yield StoredFile(file["path"], file["size"], file["last_modified"].timestamp())

    def size(self, key: str) -> int:
        return int(obstore.head(self.client, check_key(key))["size"])

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError):
            obstore.delete(self.client, check_key(key))

    def local_path(self, key: str) -> None:
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


def _connect(url: str) -> Any:
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return _memory.setdefault(url, MemoryStore())
    if not parts.netloc:
        raise ConfigError(f"bank address {url!r}: a bucket is wanted after {parts.scheme}://")
    endpoints = [os.environ.get(name, "") for name in _ENDPOINTS]
    config: dict[str, Any] = {}
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if parts.scheme == "gs" and emulator and not os.environ.get("GOOGLE_BASE_URL"):
        config["base_url"] = emulator if "://" in emulator else f"http://{emulator}"
        endpoints.append(config["base_url"])
        if not os.environ.get("GOOGLE_BEARER_TOKEN"):
            config["skip_signature"] = True
    allowed = any(os.environ.get(name, "").lower() in ("1", "true", "yes") for name in _ALLOW_HTTP)
    plain = allowed or any(endpoint.startswith("http://") for endpoint in endpoints)
    kind = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[parts.scheme]
    return kind(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        config=config,
        client_options=_CLIENT | {"allow_http": plain},  # (giving options hides *_ALLOW_HTTP from obstore)
        retry_config=_RETRY,
    )
