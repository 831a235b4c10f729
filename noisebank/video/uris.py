"""What kind of address a uri is, and how it may be shown in a message."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from noisebank.errors import RowFailure

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_YOUTUBE_HOSTS = {"youtube.com", "www.youtube.com", "m.youtube.com", "music.youtube.com", "youtu.be"}
_SHORT_PATH = re.compile(r"/([^/?#]+)")
_YOUTUBE_PATH = re.compile(r"/(?:embed|shorts|live|v)/([^/?#]+)")
OBJECT_STORES = ("gs", "s3", "az")


def kind_of(uri: str) -> str:
    """``local``, ``http``, ``object`` (gs, s3, az) or ``youtube``.

    Raises:
        RowFailure: ``bad_uri``, when it is empty or has another scheme.
    """
    if youtube_id(uri) is not None:
        return "youtube"
    match = _SCHEME.match(uri)
    if match is None:
        if not uri or "\0" in uri:
            raise RowFailure("bad_uri", f"{uri!r} is neither a path nor an address")
        return "local"
    scheme = match.group(1).lower()
    if scheme in ("http", "https"):
        return "http"
    if scheme in OBJECT_STORES:
        return "object"
    allowed = "a path, http://, https://, gs://, s3://, az:// or youtube:ID"
    raise RowFailure("bad_uri", f"{shown(uri)}: scheme {scheme!r} is not supported; {allowed} is")


def youtube_id(uri: str) -> str | None:
    """The 11 characters that name a YouTube video, or None where ``uri`` is no YouTube address.

    >>> youtube_id("https://youtu.be/dQw4w9WgXcQ?t=3")
    'dQw4w9WgXcQ'
    """
    if uri.startswith("youtube:"):
        video = uri.removeprefix("youtube:")
    else:
        try:
            parts = urlsplit(uri)
            host = parts.hostname
        except ValueError:
            return None
        if parts.scheme not in ("http", "https") or host not in _YOUTUBE_HOSTS:
            return None
        query = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
        path = (_SHORT_PATH if host == "youtu.be" else _YOUTUBE_PATH).match(parts.path)
        video = path.group(1) if path else query.get("v", "")
    return video if _YOUTUBE_ID.fullmatch(video) else None


def shown(uri: str) -> str:
    """``uri`` without what may be secret: user, password, query (signatures) and fragment.

    >>> shown("https://me:pw@example.org/a.mp4?X-Signature=1")
    'https://example.org/a.mp4'
    """
    if not _SCHEME.match(uri):
        return uri
    scheme, _, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    path = path if scheme in OBJECT_STORES else re.split(r"[?#]", path, maxsplit=1)[0]
    authority = re.split(r"[?#]", authority, maxsplit=1)[0]
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
