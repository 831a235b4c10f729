"""When a failure that can heal is tried again: after a growing pause, and not for ever."""

from __future__ import annotations

from collections.abc import Mapping

MAX_ATTEMPTS = 8
_FIRST_PAUSE_SECONDS = 3600.0


def pause_seconds(attempts: int) -> float:
    """The pause after the last of ``attempts`` failed tries: none, one hour, two, four...

    >>> [pause_seconds(n) / 3600 for n in (1, 2, 3, 4)]
    [0.0, 1.0, 2.0, 4.0]
    """
    return _FIRST_PAUSE_SECONDS * 2 ** (attempts - 2) if attempts > 1 else 0.0


def is_due(attempts: int, failed_at: float, now: float) -> bool:
    """Whether to try again at ``now`` what failed for the last time at ``failed_at`` (seconds since 1970)."""
    return attempts < MAX_ATTEMPTS and now >= failed_at + pause_seconds(attempts)


def due_failures(known: set[tuple[int, int]], created: Mapping[int, float], now: float) -> tuple[tuple[int, int], ...]:
    """Of the ``(attempts, snapshot)`` of retryable failures those to try again.

    Args:
        known: attempts, and the number of the snapshot that recorded the last.
        created: when each snapshot was committed; one that was vacuumed is long past.
        now: seconds since 1970.
    """
    return tuple(sorted(pair for pair in known if is_due(pair[0], created.get(pair[1], 0.0), now)))
