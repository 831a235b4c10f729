"""Which names belong in a bank, so that what does not is found and never touched."""

from __future__ import annotations

import re

_DATA = r"[0-9a-f]{32}(-v[1-9][0-9]*)?"
_NAMES = re.compile(
    rf"""
    clips/{_DATA}\.(tar|parquet)
    | captions/{_DATA}\.parquet
    | (noise|records)/[A-Za-z0-9_]+/{_DATA}\.arrow
    | index/{_DATA}\.(faiss|parquet|json|bits)
    | (rows|touched)/{_DATA}\.arrow
    | (failures|parts|expired)/{_DATA}\.parquet
    | (clips|captions|index|noise/[A-Za-z0-9_]+)/[0-9a-f]{{32}}\.json
    | snapshots/[0-9]{{8}}\.json
    | (plans|runs|probe)/.+
    """,
    re.VERBOSE,
)
_WORK = ("plans", "runs", "probe")


def is_ours(key: str) -> bool:
    """Whether a file of this name may be in a bank.

    >>> is_ours("snapshots/00000001.json"), is_ours("clips/holiday.tar")
    (True, False)
    """
    return _NAMES.fullmatch(key) is not None


def is_work(key: str) -> bool:
    """Whether it is a file of a job in progress (plans, run summaries), not of a snapshot."""
    return key.partition("/")[0] in _WORK
