"""Clip ids, the 63-bit numbers that stand for them, and the hashes that tell whether a row changed.

An id is text: ``{source}-{video}`` or ``{source}-{video}-{start_ms}-{end_ms}``, made of letters, digits, ``_`` and
``-`` only (webdataset cuts names at the first dot; and an id is part of file names inside tars). Its number is 24
bits of XXH64(source-video) followed by 39 bits of XXH64(id), so that the clips of one video are neighbours in every
table, all of which are sorted by it. XXH64 with seed 0 over the UTF-8 bytes is stable by specification.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

Nums = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

VIDEO_BITS = 24
CLIP_BITS = 39
NUMBER_BITS = VIDEO_BITS + CLIP_BITS
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_RANGE = re.compile(r"-[0-9]+-[0-9]+$")
LONGEST_SAFE = 160
"""Characters of a text that :func:`safe` keeps at most."""

_HASHED_AT_ONCE = 4096


def xxh64(text: str) -> int:
    """XXH64, seed 0, of the UTF-8 bytes of ``text``."""
    return xxhash.xxh64_intdigest(text.encode())


def safe(text: str) -> str:
    """``text`` as a part of an id; where characters had to go, a hash of the whole keeps it unique.

    >>> safe("dQw4w9WgXcQ")
    'dQw4w9WgXcQ'
    >>> safe("a/b.mp4")
    'a_b_mp4-b0e0e16ab2e4e162'
    """
    cleaned = _UNSAFE.sub("_", text)
    if cleaned == text and len(text) <= LONGEST_SAFE:
        return text
    return f"{cleaned[:LONGEST_SAFE]}-{xxh64(text):016x}"


def clip_number(id: str) -> int:
    """The 63-bit number of a clip; the video is the id less the range at its end, if it has one."""
    video = _RANGE.sub("", id)
    return (xxh64(video) >> (64 - VIDEO_BITS)) << CLIP_BITS | xxh64(id) >> (64 - CLIP_BITS)


def clip_numbers(ids: pa.Array) -> Nums:
    """:func:`clip_number` of every id of an Arrow string array."""
    clip = xxh64_of(ids)
    video = xxh64_of(pc.replace_substring_regex(ids, pattern=_RANGE.pattern, replacement=""))
    number = (video >> np.uint64(64 - VIDEO_BITS)) << np.uint64(CLIP_BITS) | clip >> np.uint64(64 - CLIP_BITS)
    return number.astype(np.int64)


def captions_hash(captions: Sequence[str]) -> int:
    """One hash of the captions of a clip: XXH64 of the caption, of several with a zero byte between them."""
    return xxh64("\0".join(captions))


def xxh64_of(texts: pa.Array) -> Hashes:
    """XXH64, seed 0, of every string of an Arrow array without nulls."""
    values = texts.cast(pa.binary())
    pieces = (values.slice(start, _HASHED_AT_ONCE).to_pylist() for start in range(0, len(values), _HASHED_AT_ONCE))
    return np.fromiter(map(xxhash.xxh64_intdigest, chain.from_iterable(pieces)), np.uint64, len(values))


def source_number(name: str) -> int:
    """The number that stands for a source in the column ``source`` of tables: the low half of XXH64 of its name."""
    return xxh64(name) & 0xFFFFFFFF
