"""What became of a row; the column ``status`` of the tables ``rows`` and ``records``."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """What became of the newest listing of a row."""

    OK = 0
    PENDING = 1  # only inside a plan
    FAILED = 2  # for good, unless the listing changes
    RETRYABLE = 3
    INVALID = 4  # the list itself is wrong: no caption, a bad time
    REMOVED = 5  # tombstone; gone when segments are merged
