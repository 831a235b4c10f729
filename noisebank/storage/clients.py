"""Clients of S3, Google Cloud Storage, Azure and the memory of this process: one setting for banks, lists and videos.

Credentials and endpoints come from the environment variables of each cloud, as obstore reads them, and
``STORAGE_EMULATOR_HOST``. AWS profiles and Azure connection strings are not read; see docs/format.md.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.fsspec import FsspecStore
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

from noisebank.errors import ConfigError, NoiseBankError, StoreError
from noisebank.storage.answers import RETRIES, describe_answer, one_line_errors
from noisebank.storage.opening import REMOTE_SCHEMES

MEMORY = "memory"
_KINDS: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
_CLIENT = {"timeout": timedelta(seconds=300), "connect_timeout": timedelta(seconds=5)}
_CLIENT |= {"read_timeout": timedelta(seconds=90)}
_RETRY = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=300)}
_FIRST_CLIENT = {"timeout": timedelta(seconds=4), "connect_timeout": timedelta(seconds=2)}
_FIRST_RETRY = {"max_retries": 1, "retry_timeout": timedelta(seconds=5)}
_FIRST_KEY = "noisebank"
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9$_.:-]*")
_SETTINGS = ("AWS_", "GOOGLE_", "AZURE_", "STORAGE_EMULATOR_HOST")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT")
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_STORAGE_USE_EMULATOR")
_GOOGLE_CREDENTIALS = (
    "GOOGLE_BEARER_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_SKIP_SIGNATURE",
)

_client_process: list[int] = []


def connect(scheme: str, bucket: str) -> Any:
    """The obstore client of a bucket, one a process; the store has answered it once.

    Args:
        scheme: ``s3``, ``gs``, ``az`` or ``memory``.
        bucket: or container, or any name for ``memory``.

    Raises:
        ConfigError: ``bucket`` cannot be one; or the environment does not say enough, such as which Azure account.
        StoreError: nothing answers there, which takes less than ten seconds.
        NoiseBankError: this process was forked from one that had used obstore, whose threads did not survive the fork:
            it would wait for ever.
    """
    check_process(f"{scheme}://{bucket}")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"{scheme}://{bucket}: {bucket!r} is not the name of a bucket or container")
    told = {(name, value) for name, value in os.environ.items() if name.startswith(_SETTINGS)}
    return _connect(scheme, bucket, frozenset(() if scheme == MEMORY else told))


def check_process(url: str) -> None:
    """Refuses a process that was forked from one that had used obstore, as :func:`connect` says."""
    if not _client_process:
        _client_process.append(os.getpid())
    elif _client_process[0] != os.getpid():
        raise NoiseBankError(
            f"{url} is used in process {os.getpid()}, forked from {_client_process[0]} which had opened an object "
            "store already; start workers with the 'spawn' or 'forkserver' method"
        )


class FileSystem(FsspecStore):  # type: ignore[misc]
    """The objects of a scheme for readers who know fsspec; reading only.

    >>> FileSystem("s3").open("s3://bucket/list.csv")           # doctest: +SKIP
    """

    protocol = REMOTE_SCHEMES
    cachable = False  # (clients are kept by :func:`connect`, for as long as the environment is the same)

    def _construct_store(self, bucket: str) -> Any:
        return connect(str(self.protocol), bucket)

    def _split_path(self, path: str) -> tuple[str, str]:
        """Bucket and key; of the key nothing is cut off, and memory has buckets, too."""
        bucket, _, key = path.removeprefix(f"{self.protocol}://").partition("/")
        return bucket, key


@cache
def _connect(scheme: str, bucket: str, told: frozenset[tuple[str, str]]) -> Any:
    """The client of a bucket where the environment is as ``told``."""
    if scheme == MEMORY:
        return MemoryStore()
    address = f"{scheme}://{bucket}"
    try:
        client, first = (
            _KINDS[scheme](
                bucket,
                config=_config(scheme),
                client_options=options | {"allow_http": _allows_http(scheme)},  # (options hide *_ALLOW_HTTP)
                retry_config=retries,
            )
            for options, retries in ((_CLIENT, _RETRY), (_FIRST_CLIENT, _FIRST_RETRY))
        )
    except (BaseError, ValueError) as error:
        raise ConfigError(f"{address}: {describe_answer(error)}; set it in the environment") from None
    try:
        with suppress(FileNotFoundError), one_line_errors(address):
            obstore.head(first, _FIRST_KEY)
    except StoreError as error:
        if not error.status:
            raise
    return client


def _config(scheme: str) -> dict[str, Any]:
    emulator = _emulator(scheme)
    if not emulator:
        return {}
    known = any(os.environ.get(name) for name in _GOOGLE_CREDENTIALS)
    return {"base_url": emulator} | ({} if known else {"bearer_token": "emulator"})  # (unsigned clients cannot write)


def _emulator(scheme: str) -> str:
    """The address in ``STORAGE_EMULATOR_HOST``, which Google's own clients follow."""
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if scheme != "gs" or not emulator or os.environ.get("GOOGLE_BASE_URL"):
        return ""
    return (emulator if "://" in emulator else f"http://{emulator}").rstrip("/")


def _allows_http(scheme: str) -> bool:
    allowed = any(os.environ.get(name, "").lower() in ("1", "true", "yes") for name in _ALLOW_HTTP)
    endpoints = [_emulator(scheme), *(os.environ.get(name, "") for name in _ENDPOINTS)]
    return allowed or any(endpoint.startswith("http://") for endpoint in endpoints)
