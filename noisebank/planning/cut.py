"""Rows to do, cut into tasks of a shard each.

Rows are cut evenly inside prefixes of their numbers that hold about 64 shards, between videos, so that one download
serves all clips of a video. The cut depends on the rows alone, not on how many files they lie in.

The clips of a tar are cut once more where their records are large, so that a worker that is killed loses minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from noisebank.ids import CLIP_BITS, NUMBER_BITS, Nums
from noisebank.options import MAX_SHARD_ROWS

SHARDS_PER_PREFIX = 64
_MIN_SHARD_ROWS = 16
_WANTED_SHARDS = 64
"""As long as shards are neither too small nor too large, so that a few workers have work to the end."""
MAX_RECORDS_BYTES = 1 << 26
"""Most that the records of a file over clips take, at two bytes a value."""
_MAX_ROWS = (1 << 31) - 1  # (rows of a tar are int32)
"""More than a tar has."""


class Task(NamedTuple):
    """A shard of a stage to make.

    Args:
        stage: ``clips``, ``captions`` or ``noise/<set>``.
        pieces: ``(path, start, stop)``: rows of task files of the plan, to be joined.
        tar: noise: the tar to invert (some clips of), a path in the bank.
    """

    stage: str
    pieces: tuple[tuple[str, int, int], ...]
    tar: str = ""

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(stop - start for _, start, stop in self.pieces)


def cut_tasks(stage: str, files: Iterable[tuple[str, Nums]], total: int, maxcount: int) -> tuple[Task, ...]:
    """Tasks of at most ``maxcount`` rows out of ``total``, which lie in files: path and ascending numbers of each."""
    bits = max(0, (total // (SHARDS_PER_PREFIX * maxcount)).bit_length() - 1)
    tasks: list[Task] = []
    waiting: list[tuple[str, int, Nums]] = []
    prefix = -1
    for path, nums in files:
        prefixes = nums >> (NUMBER_BITS - bits)
        starts = np.flatnonzero(np.diff(prefixes, prepend=-1))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(nums)], strict=False):
            if prefixes[start] != prefix:
                tasks += _cut(stage, waiting, maxcount)
                waiting, prefix = [], int(prefixes[start])
            waiting.append((path, start, nums[start:stop]))
    return (*tasks, *_cut(stage, waiting, maxcount))


def shard_rows(total: int, maxcount: int) -> int:
    """Most rows in a shard: ``maxcount``; if that is the default, fewer where there are few to do.

    >>> [shard_rows(total, MAX_SHARD_ROWS) for total in (10, 1000, 10_000, 10_000_000)]
    [16, 16, 156, 512]
    >>> shard_rows(1000, 100)
    100

    Args:
        total: rows to do.
        maxcount: as configured.
    """
    if maxcount != MAX_SHARD_ROWS:
        return maxcount
    return min(max(total // _WANTED_SHARDS, _MIN_SHARD_ROWS), MAX_SHARD_ROWS)


def records_a_file(model: Mapping[str, Any]) -> int:
    """How many clips of a tar have their records in one file: the clips of file ``i`` are those in the rows from
    ``i * records_a_file(model)`` on.

    >>> records_a_file({"shape": [4, 16, 32, 32]}), records_a_file({"shape": [16, 21, 60, 104]})
    (512, 16)

    Args:
        model: what a plan or a snapshot says of the model of a stage over clips; ``shape`` is that of a record. Without
            one, a tar has one file.
    """
    shape = model.get("shape")
    return max(1, MAX_RECORDS_BYTES // (2 * math.prod(shape))) if shape else _MAX_ROWS


def even_stops(videos: Nums, maxcount: int) -> list[int]:
    """Where to cut rows, sorted by video, into even shards of at most ``maxcount`` rows, between videos if possible.

    >>> even_stops(np.array([1, 1, 1, 2, 3, 3]), 4)
    [3, 6]
    """
    total = len(videos)
    edges = np.append(np.flatnonzero(np.diff(videos)) + 1, total)
    stops: list[int] = []
    start = 0
    while start < total:
        wanted = start + -(-(total - start) // -(-(total - start) // maxcount))
        after = int(np.searchsorted(edges, wanted))
        near = [int(edge) for edge in edges[max(0, after - 1) : after + 1] if start < edge <= start + maxcount]
        start = min(near, key=lambda edge: abs(edge - wanted), default=wanted)
        stops.append(start)
    return stops


def _cut(stage: str, waiting: list[tuple[str, int, Nums]], maxcount: int) -> list[Task]:
    if not waiting:
        return []
    videos = np.concatenate([nums for _, _, nums in waiting]) >> CLIP_BITS
    tasks = []
    start = 0
    for stop in even_stops(videos, maxcount):
        pieces = []
        before = 0
        for path, first, nums in waiting:
            low, high = max(start, before), min(stop, before + len(nums))
            if low < high:
                pieces.append((path, first + low - before, first + high - before))
            before += len(nums)
        tasks.append(Task(stage, tuple(pieces)))
        start = stop
    return tasks
