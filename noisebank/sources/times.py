"""Times of lists, as milliseconds: seconds, ``HH:MM:SS.mmm``, and the ISO durations of WebVid."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.ids import Mask

_CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:\.(\d{1,9}))?", re.ASCII)
_SECONDS = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_PLAIN_SECONDS = r"^[0-9]{1,9}(?:\.[0-9]{0,9})?$"
"""The usual ones of _SECONDS, none of which is too long a time."""
_DURATION = re.compile(r"PT(?=\d)(?:(\d{1,4})H)?(?:(\d{1,6})M)?(?:(\d{1,8})(?:\.(\d{1,9}))?S)?", re.ASCII)
_LONGEST_SECONDS = 10**9
_ZERO = "00:00:00.000"
_SEPARATORS = [2, 5, 8]
_DIGIT_MS = np.array([36_000_000, 3_600_000, 600_000, 60_000, 10_000, 1000, 100, 10, 1])


def time_ms(text: str) -> int | None:
    """A time in milliseconds from ``HH:MM:SS.mmm``, ``MM:SS`` or seconds; None if it is none of them.

    >>> time_ms("00:01:02.5"), time_ms("62.5"), time_ms("1:75")
    (62500, 62500, None)
    """
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return round(float(text) * 1000) if 0 <= float(text) <= _LONGEST_SECONDS else None
    match = _CLOCK.fullmatch(text)
    if match is None or int(match[2]) > 59 or int(match[3]) > 59:
        return None
    return _milliseconds(*match.groups())


def duration_ms(text: str) -> int | None:
    """A length in milliseconds, more than 0, from an ISO 8601 duration; None if it is none.

    >>> duration_ms("PT00H00M05S"), duration_ms("PT1M"), duration_ms("PT00H00M00S"), duration_ms("5")
    (5000, 60000, None, None)
    """
    match = _DURATION.fullmatch(text.strip())
    return None if match is None else _milliseconds(*match.groups()) or None


def times_ms(column: pa.Array) -> tuple[pa.Array, Mask]:
    """:func:`time_ms` of a column of text or numbers (seconds): int64, null where it is empty; and which are bad.

    Each row goes by its own form, whatever its neighbours have: the two usual ones are read in columns.
    """
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        found = _round(column.cast(pa.float64(), safe=False))  # (what is rounded is too long)
        return found, np.asarray(pc.and_(column.is_valid(), found.is_null()))
    texts = pc.if_else(pc.equal(column, ""), None, column)
    found, left = pa.nulls(len(texts), pa.int64()), texts
    for read in (_clocks, _plain_seconds, partial(each_ms, parse=time_ms)):
        if left.null_count < len(left):
            found = pc.coalesce(found, read(left))
            left = pc.if_else(found.is_null(), texts, None)
    return found, np.asarray(left.is_valid())


def each_ms(column: pa.Array, parse: Callable[[str], int | None]) -> pa.Array:
    """``parse`` of a text column, once per value that occurs: int64, null where that is None or the text is null."""
    encoded = column.dictionary_encode()
    values = [parse(text) for text in encoded.dictionary.to_pylist()]
    return pa.array(values, pa.int64()).take(encoded.indices)


def _clocks(texts: pa.Array) -> pa.Array:
    """Times like ``00:00:05.320``, null where a text is none."""
    fit = np.asarray(pc.equal(pc.binary_length(texts), len(_ZERO)).fill_null(False))
    aligned = pc.if_else(pa.array(fit), texts, _ZERO).cast(pa.binary()).cast(pa.binary(len(_ZERO)))
    codes = np.frombuffer(aligned.buffers()[1], np.uint8).reshape(-1, len(_ZERO))
    digits = np.delete(codes, _SEPARATORS, axis=1).astype(np.int64) - ord("0")
    fit &= (codes[:, _SEPARATORS] == np.frombuffer(b"::.", np.uint8)).all(axis=1)
    fit &= ((digits >= 0) & (digits <= 9)).all(axis=1) & (digits[:, [2, 4]] <= 5).all(axis=1)
    return pa.array(digits @ _DIGIT_MS, mask=~fit)


def _plain_seconds(texts: pa.Array) -> pa.Array:
    """Times like ``62.5``, null where a text is none."""
    return _round(pc.if_else(pc.match_substring_regex(texts, _PLAIN_SECONDS), texts, None).cast(pa.float64()))


def _round(seconds: pa.Array) -> pa.Array:
    """Seconds as milliseconds, null where they are too many or less than 0."""
    fit = pc.and_(pc.greater_equal(seconds, 0), pc.less_equal(seconds, _LONGEST_SECONDS))
    return pc.round(pc.multiply(pc.if_else(fit, seconds, None), 1000)).cast(pa.int64())


def _milliseconds(hours: str | None, minutes: str | None, seconds: str | None, fraction: str | None) -> int:
    whole = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)
    return whole * 1000 + (int((fraction or "")[:6].ljust(6, "0")) + 500) // 1000
