"""Times of lists, as milliseconds: seconds, ``HH:MM:SS.mmm``, and the ISO durations of WebVid."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:\.(\d{1,9}))?")
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{0,9})?")
_DURATION = re.compile(r"PT(?=\d)(?:(\d{1,4})H)?(?:(\d{1,6})M)?(?:(\d{1,8})(?:\.(\d{1,9}))?S)?")
_LONGEST_SECONDS = 10**9
_ZERO = "00:00:00.000"
_DIGIT_MS = np.array([36_000_000, 3_600_000, 600_000, 60_000, 10_000, 1000, 100, 10, 1])


def time_ms(text: str) -> int | None:
    """A time in milliseconds from ``HH:MM:SS.mmm``, ``MM:SS`` or seconds; None if it is none of them.

    >>> time_ms("00:01:02.5"), time_ms("62.5"), time_ms("1:75")
    (62500, 62500, None)
    """
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return round(float(text) * 1000)
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
    """:func:`time_ms` of a column of text or numbers (seconds): int64, null where it is empty; and which are bad."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _from_seconds(column.cast(pa.float64()))
    column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    try:
        return _from_seconds(column.cast(pa.float64()))
    except pa.ArrowInvalid:
        pass
    milliseconds = _clock_ms(column)
    if milliseconds is not None:
        return milliseconds, np.zeros(len(column), bool)
    return each_ms(column, time_ms)


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
    milliseconds = np.rint(np.where(bad, 0, values) * 1000).astype(np.int64)
    return pa.array(milliseconds, mask=~given | bad), bad


def _clock_ms(column: pa.Array) -> pa.Array | None:
    """Times that are all like ``00:00:05.320``, or null; None if one is not."""
    texts = column.fill_null(_ZERO)
    if pc.any(pc.not_equal(pc.binary_length(texts), len(_ZERO))).as_py():
        return None
    codes = np.frombuffer(pc.cast(texts, pa.binary()).cast(pa.binary(len(_ZERO))).buffers()[1], np.uint8)
    digits = codes.reshape(-1, len(_ZERO)).astype(np.int64) - ord("0")
    separators = digits[:, [2, 5, 8]] != np.frombuffer(b"::.", np.uint8).astype(np.int64) - ord("0")
    numbers = np.delete(digits, [2, 5, 8], axis=1)
    if separators.any() or ((numbers < 0) | (numbers > 9)).any() or (numbers[:, [2, 4]] > 5).any():
        return None
    return pa.array(numbers @ _DIGIT_MS, mask=np.asarray(column.is_null()))


def _milliseconds(seconds: int, fraction: str | None) -> int:
    return seconds * 1000 + (int((fraction or "")[:6].ljust(6, "0")) + 500) // 1000
