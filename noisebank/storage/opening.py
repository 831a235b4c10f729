"""From an address to a store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from noisebank.errors import ConfigError
from noisebank.storage.base import Store
from noisebank.storage.local import LocalStore

REMOTE_SCHEMES = ("gs", "s3", "az", "memory")


def absolute_address(address: str) -> str:
    """An address that means the same whatever the working directory: that of the process a job is started in is not
    that of its workers.

    >>> absolute_address("gs://me/bank"), absolute_address("/data//bank/")
    ('gs://me/bank', '/data/bank/')
    """
    if "://" in address or not address.strip():
        return address
    return str(Path(address).absolute()) + ("/" if address.endswith("/") and address.strip("/") else "")


def open_store(url: str | Path, cache: str | Path | None = None) -> Store:
    """The store at ``url``: a local path (or ``file://``), ``gs://``, ``s3://``, ``az://`` or ``memory://``.

    Nothing is read or written yet. ``memory://name`` is one store per name in this process, for tests.

    Args:
        url: the address.
        cache: a folder of this machine that keeps what is read from an object store, for other processes too.

    Raises:
        ConfigError: it is empty (no word for the working directory: that is ``.``), a file is there, the scheme is
            unknown, or it has a ``?`` or ``#``, which object stores would cut off.
    """
    text = str(url)
    scheme, separator, rest = text.partition("://")
    if not (rest.strip("/") if separator else text.strip()):
        raise ConfigError(f"bank address {text!r} is empty; name a folder, or a bucket and a path in it")
    if separator and ("#" in text or "?" in text):
        raise ConfigError(f"bank address {text!r}: '#' and '?' are not allowed; use a plain path")
    if not separator or scheme == "file":
        path = Path(unquote(urlsplit(text).path) if separator else text)
        if path.exists() and not path.is_dir():
            raise ConfigError(f"bank address {str(path)!r}: a file is there, not a folder")
        return LocalStore(path)
    if scheme not in REMOTE_SCHEMES:
        raise ConfigError(f"bank address {text!r}: a local path or one of {', '.join(REMOTE_SCHEMES)}:// is wanted")
    from noisebank.storage.remote import RemoteStore  # (obstore is needed for remote banks only)

    if cache is None:
        return RemoteStore(text)
    from noisebank.storage.cached import CachedStore

    return CachedStore(text, Path(cache))
