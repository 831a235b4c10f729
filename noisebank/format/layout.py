"""Which names belong in a bank, so that what does not is found and never touched."""

from __future__ import annotations

import re

from noisebank.format.stage_names import NOISE

_DATA = r"[0-9a-f]{32}(-v[1-9][0-9]*)?"
_FOLDERS = ("clips", "captions", "index", "rows", "records", "touched", "failures", "parts", "expired", "snapshots")
_WORK = ("plans", "runs", "probe")
_OVER_CLIPS = rf"(?!({'|'.join((*_FOLDERS, *_WORK))})/)[A-Za-z0-9_]+/[A-Za-z0-9_]+"
_NAMES = re.compile(
    rf"""
    clips/{_DATA}\.(tar|parquet)
    | captions/{_DATA}\.parquet
    | records(/[A-Za-z0-9_]+){{1,2}}/{_DATA}\.arrow
    | {_OVER_CLIPS}/{_DATA}\.(arrow|parquet)
    | index/{_DATA}\.(faiss|parquet|json|bits)
    | (rows|touched)/{_DATA}\.arrow
    | (failures|parts|expired)/{_DATA}\.parquet
    | (clips|captions|index|{_OVER_CLIPS})/[0-9a-f]{{32}}\.json
    | snapshots/[0-9]{{8}}\.json
    | (plans|runs|probe)/.+
    """,
    re.VERBOSE,
)


def is_ours(key: str) -> bool:
    """Whether a file of this name may be in a bank.

    >>> is_ours("snapshots/00000001.json"), is_ours("clips/holiday.tar")
    (True, False)
    """
    return _NAMES.fullmatch(key) is not None


def is_free(kind: str) -> bool:
    """Whether a user's stage over clips may be of this kind: a name for a folder that the bank does not use itself."""
    return kind != NOISE and re.fullmatch(_OVER_CLIPS, f"{kind}/set") is not None


def is_work(key: str) -> bool:
    """Whether it is a file of a job in progress (plans, run summaries), not of a snapshot."""
    return key.partition("/")[0] in _WORK
