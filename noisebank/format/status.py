"""What became of a row; the column ``status`` of the tables ``rows`` and ``records``."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt


class Status(IntEnum):
    """What became of the newest listing of a row."""

    OK = 0
    PENDING = 1  # only inside a plan
    FAILED = 2  # for good, unless the listing changes
    RETRYABLE = 3
    REMOVED = 5  # tombstone; gone when segments are merged


def failure_status(retryable: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """FAILED or RETRYABLE."""
    return np.where(retryable, Status.RETRYABLE, Status.FAILED).astype(np.uint8)
