"""Times of lists, as milliseconds: seconds, ``HH:MM:SS.mmm``, and the ISO durations of WebVid."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Milliseconds = npt.NDArray[np.int64]

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
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups()
    if int(minutes) > 59 or int(seconds) > 59:
        return None
    return _milliseconds(int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds), fraction)


def duration_ms(text: str) -> int | None:
    """A length in milliseconds, more than 0, from an ISO 8601 duration; None if it is none.

    >>> duration_ms("PT00H00M05S"), duration_ms("PT1M"), duration_ms("PT00H00M00S"), duration_ms("5")
    (5000, 60000, None, None)
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups()
    whole = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)
    return _milliseconds(whole, fraction) or None


def times_ms(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """:func:`time_ms` of a column of text or numbers (seconds): int64, null where it is empty; and which are bad.

    Each row goes by its own form, whatever its neighbours have: the two usual ones are read in columns.
    """
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _from_seconds(column.cast(pa.float64(), safe=False))  # (what is rounded is too long)
    texts = column.fill_null("")
    milliseconds = np.zeros(len(texts), np.int64)
    given = np.asarray(pc.not_equal(texts, ""))
    left = np.flatnonzero(given)
    for form in (_clocks, _plain_seconds, _others):
        if len(left):
            values, fit = form(texts.take(pa.array(left)))
            milliseconds[left[fit]] = values[fit]
            left = left[~fit]
    bad = np.zeros(len(texts), bool)
    bad[left] = True
    return pa.array(milliseconds, mask=~given | bad), bad


def each_ms(column: pa.Array, parse: Callable[[str], int | None]) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """``parse`` of a text column, once per value that occurs: int64, null where it is null; and which are bad."""
    encoded = column.dictionary_encode()
    values = [parse(text) for text in encoded.dictionary.to_pylist()]
    parsed = pa.array(values, pa.int64()).take(encoded.indices)
    bad = pc.and_(parsed.is_null(), column.is_valid())
    return parsed, np.asarray(bad.to_numpy(zero_copy_only=False), bool)


def _from_seconds(seconds: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    given = np.asarray(seconds.is_valid())
    values = np.nan_to_num(np.asarray(seconds.fill_null(0)), nan=-1.0, posinf=-1.0)
    bad = given & ((values < 0) | (values > _LONGEST_SECONDS))
    return pa.array(_rounded(np.where(bad, 0, values)), mask=~given | bad), bad


def _clocks(texts: pa.Array) -> tuple[Milliseconds, npt.NDArray[np.bool_]]:
    """Times like ``00:00:05.320``, and which texts are one."""
    fit = np.asarray(pc.equal(pc.binary_length(texts), len(_ZERO)))
    aligned = pc.if_else(pa.array(fit), texts, _ZERO).cast(pa.binary()).cast(pa.binary(len(_ZERO)))
    codes = np.frombuffer(aligned.buffers()[1], np.uint8)
    digits = codes.reshape(-1, len(_ZERO)).astype(np.int64) - ord("0")
    numbers = np.delete(digits, _SEPARATORS, axis=1)
    fit &= (codes.reshape(digits.shape)[:, _SEPARATORS] == np.frombuffer(b"::.", np.uint8)).all(axis=1)
    fit &= ((numbers >= 0) & (numbers <= 9)).all(axis=1) & (numbers[:, [2, 4]] <= 5).all(axis=1)
    return numbers @ _DIGIT_MS, fit


def _plain_seconds(texts: pa.Array) -> tuple[Milliseconds, npt.NDArray[np.bool_]]:
    """Times like ``62.5``, and which texts are one."""
    fit = pc.match_substring_regex(texts, _PLAIN_SECONDS)
    return _rounded(np.asarray(pc.if_else(fit, texts, "0").cast(pa.float64()))), np.asarray(fit)


def _others(texts: pa.Array) -> tuple[Milliseconds, npt.NDArray[np.bool_]]:
    """Times in any form, and which texts are one."""
    parsed, bad = each_ms(texts, time_ms)
    return np.asarray(parsed.fill_null(0)), ~bad


def _rounded(seconds: npt.NDArray[np.float64]) -> Milliseconds:
    return np.rint(seconds * 1000).astype(np.int64)


def _milliseconds(seconds: int, fraction: str | None) -> int:
    return seconds * 1000 + (int((fraction or "")[:6].ljust(6, "0")) + 500) // 1000
