"""Downloads from object stores (gs, s3, az) to a file, streamed, by obstore.

Credentials and endpoints come from the environment, as obstore reads it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from noisebank.errors import RowFailure
from noisebank.options import FetchOptions

if TYPE_CHECKING:
    from noisebank.storage.remote import RemoteStore

_CHUNK = 1 << 20


def download(uri: str, destination: Path, options: FetchOptions, span: tuple[int, int] | None = None) -> None:
    """Writes the object at ``uri``, or its bytes ``[start, end)`` in ``span``, to ``destination``.

    Raises:
        RowFailure: ``bad_uri``, ``missing_file``, ``forbidden``, ``too_large``, ``not_video`` (0 bytes) or, where
            trying again may help, ``connection`` or ``short_body``; the client has tried several times by then.
    """
    import obstore
    from obstore import exceptions

    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if not bucket or not key or set(key) & {"#", "?"}:  # obstore would silently drop what follows # or ?
        raise RowFailure("bad_uri", f"{uri}: {scheme}://bucket/key without # and ? is wanted")
    try:
        client = _bucket(f"{scheme}://{bucket}").client
        result = obstore.get(client, key, options={"range": span} if span else None)
        start, end = result.range
        if end - start > options.max_bytes:
            raise RowFailure("too_large", f"{uri}: {end - start} bytes, fetch.max_bytes is {options.max_bytes}")
        size = 0
        with destination.open("wb") as file:
            for chunk in result.stream(min_chunk_size=_CHUNK):
                size += file.write(chunk)
    except (FileNotFoundError, exceptions.NotFoundError) as error:
        raise RowFailure("missing_file", f"{uri}: there is no such object") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise RowFailure("forbidden", f"{uri}: access denied; check the credentials in the environment") from error
    except ValueError as error:  # (a bucket or key that no store could have)
        raise RowFailure("bad_uri", f"{uri}: {_first_line(error)}") from error
    except exceptions.BaseError as error:
        raise RowFailure("connection", f"{uri}: {_first_line(error)}", retryable=True) from error
    if size < end - start:
        raise RowFailure("short_body", f"{uri}: {size} bytes of {end - start}", retryable=True)
    if size == 0:
        raise RowFailure("not_video", f"{uri}: 0 bytes")


@functools.lru_cache(maxsize=64)
def _bucket(url: str) -> RemoteStore:
    from noisebank.storage.remote import RemoteStore

    return RemoteStore(url)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
