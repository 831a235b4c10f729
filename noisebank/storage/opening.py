"""From an address to a store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from noisebank.errors import ConfigError
from noisebank.storage.base import Store
from noisebank.storage.local import LocalStore

REMOTE_SCHEMES = ("gs", "s3", "az", "memory")


def open_store(url: str | Path) -> Store:
    """The store at ``url``: a local path (or ``file://``), ``gs://``, ``s3://``, ``az://`` or ``memory://``.

    Nothing is read or written yet. ``memory://name`` is one store per name in this process, for tests.

    Raises:
        ConfigError: the scheme is unknown, or the address has a ``?`` or ``#``, which object stores would cut off.
    """
    text = str(url)
    scheme, separator, _ = text.partition("://")
    if not separator:
        return LocalStore(Path(text))
    if "#" in text or "?" in text:
        raise ConfigError(f"bank address {text!r}: '#' and '?' are not allowed; use a plain path")
    if scheme == "file":
        return LocalStore(Path(unquote(urlsplit(text).path)))
    if scheme not in REMOTE_SCHEMES:
        raise ConfigError(f"bank address {text!r}: a local path or one of {', '.join(REMOTE_SCHEMES)}:// is wanted")
    from noisebank.storage.remote import RemoteStore  # (obstore is needed for remote banks only)

    return RemoteStore(text)
