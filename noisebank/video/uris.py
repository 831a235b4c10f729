"""What the address of a video says: its kind, what of it may be shown in a message, and which member of a tar it is.

``path/to/000.tar#clip.mp4@1536+204800`` is one member of a tar: its name, the offset of its first data byte in the tar
and its size. With both in the address a fetch is one range request, without reading the tar's other members; the
512-byte tar header in front of the data is read along and checked, so that a tar that was rewritten gives an error,
never another video.
"""

from __future__ import annotations

import re
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from noisebank.errors import RowFailure
from noisebank.storage.opening import REMOTE_SCHEMES

HEADER_BYTES = tarfile.BLOCKSIZE
_KINDS = {"http": "http", "https": "http", **dict.fromkeys(REMOTE_SCHEMES, "object")}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_YOUTUBE_HOSTS = {"youtube.com", "www.youtube.com", "m.youtube.com", "music.youtube.com", "youtu.be"}
_SHORT_PATH = re.compile(r"/([^/?#]+)")
_YOUTUBE_PATH = re.compile(r"/(?:embed|shorts|live|v)/([^/?#]+)")
_MEMBER = re.compile(
    r"(?P<tar>.+\.tar(?:\?[^#]*)?)#(?P<name>.+)@(?P<offset>[0-9]{1,15})\+(?P<size>[0-9]{1,15})", re.DOTALL
)


def kind_of(uri: str) -> str:
    """``local``, ``http``, ``object`` (gs, s3, az, memory) or ``youtube``.

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
    scheme = match[1].lower()
    if kind := _KINDS.get(scheme):
        return kind
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
        path = (_SHORT_PATH if host == "youtu.be" else _YOUTUBE_PATH).match(parts.path)
        video = path[1] if path else parse_qs(parts.query).get("v", [""])[-1]
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
    path = path if scheme in REMOTE_SCHEMES else re.split(r"[?#]", path, maxsplit=1)[0]
    authority = re.split(r"[?#]", authority, maxsplit=1)[0]
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


@dataclass(frozen=True)
class Member:
    """One file inside a tar."""

    tar: str
    name: str
    offset: int
    """Of the first data byte."""
    size: int

    def __str__(self) -> str:
        return f"{shown(self.tar)}#{self.name}"

    def check(self, header: bytes) -> None:
        """Raises ``missing_file`` unless ``header`` is the tar header of this member.

        Long names are cut off there, and pax headers have ? for what is not ASCII.
        """
        with suppress(tarfile.TarError):
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            named = all(theirs in (ours, "?") for ours, theirs in zip(self.name, info.name, strict=False))
            if named and info.size == self.size:
                return
        where = f"{shown(self.tar)} has no {self.name} of {self.size} bytes"
        raise RowFailure("missing_file", f"{where} at {self.offset}; it was rewritten")


def member_uri(tar: str, name: str, offset: int, size: int) -> str:
    """The address of a member; ``offset`` is that of its data (``TarInfo.offset_data``).

    >>> member_uri("a/000.tar", "clip.mp4", 1536, 204800)
    'a/000.tar#clip.mp4@1536+204800'
    """
    return f"{tar}#{name}@{offset}+{size}"


def parse_member(uri: str) -> Member | None:
    """The member that ``uri`` addresses, or None where it is no such address."""
    match = _MEMBER.fullmatch(uri)
    if match is None or int(match["offset"]) < HEADER_BYTES:
        return None
    return Member(match["tar"], match["name"], int(match["offset"]), int(match["size"]))
