"""The address of one member of a tar: ``path/to/000.tar#clip.mp4@1536+204800``.

The text after ``#`` is the member's name, the offset of its first data byte in the tar and its size. With both in the
address a fetch is one range request, without reading the tar's other members; the 512-byte tar header in front of the
data is read along and checked, so that a tar that was rewritten gives an error, never another video.
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass

from noisebank.errors import RowFailure

HEADER_BYTES = tarfile.BLOCKSIZE
_MEMBER = re.compile(
    r"(?P<tar>.+\.tar(?:\?[^#]*)?)#(?P<name>.+)@(?P<offset>[0-9]{1,15})\+(?P<size>[0-9]{1,15})", re.DOTALL
)


@dataclass(frozen=True)
class Member:
    """One file inside a tar."""

    tar: str
    name: str
    offset: int
    """Of the first data byte."""
    size: int

    @property
    def span(self) -> tuple[int, int]:
        """The bytes ``[start, end)`` to read: the header, then the data."""
        return self.offset - HEADER_BYTES, self.offset + self.size

    def check(self, header: bytes) -> None:
        """Raises ``missing_file`` unless ``header`` is the tar header of this member."""
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.TarError:
            info = None
        if info is None or info.size != self.size or not self._named(info.name):
            raise RowFailure(
                "missing_file", f"{self.tar} has no {self.name} of {self.size} bytes at {self.offset}; it was rewritten"
            )

    def _named(self, header: str) -> bool:
        """Whether a header's name is ours: long ones are cut there, and pax headers have ? for what is not ASCII."""
        return all(ours == theirs or theirs == "?" for ours, theirs in zip(self.name, header, strict=False))


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
