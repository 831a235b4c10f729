"""Which positions of an index segment no longer count: captions removed, or replaced by a later segment's.

An index is never modified. Beside each segment lies a bitmap with one bit a position, least significant bit first (as
FAISS's ``IDSelectorBitmap`` reads it), set where the caption is gone.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import BankDamaged
from .manifest import IndexSegment
from .storage import Store, publish_bytes

if TYPE_CHECKING:
    from .delta import Delta

Nums = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SUFFIX = ".bits"


def read_deleted(store: Store, segment: IndexSegment) -> Mask:
    """One bool a position, true where the caption is gone.

    Raises:
        BankDamaged: the bitmap is missing or has another length.
    """
    if segment.deleted is None:
        return np.zeros(segment.size, bool)
    try:
        packed = np.frombuffer(store.read(segment.deleted.path), np.uint8)
    except FileNotFoundError as error:
        raise BankDamaged(f"{segment.deleted.path}: missing; run verify") from error
    if len(packed) != (segment.size + 7) // 8:
        raise BankDamaged(f"{segment.deleted.path}: {len(packed)} bytes for {segment.size} positions; run verify")
    return np.unpackbits(packed, count=segment.size, bitorder="little").astype(bool)


def read_nums(store: Store, segment: IndexSegment) -> Nums:
    """The number of the clip at each position.

    Raises:
        BankDamaged: the sidecar is missing, cannot be read or has another length.
    """
    path = segment.entries.path
    try:
        with store.open(path) as file:
            nums = pq.read_table(file, columns=["num"]).column("num").to_numpy()
    except FileNotFoundError as error:
        raise BankDamaged(f"{path}: missing; run verify") from error
    except (pa.ArrowException, OSError) as error:
        raise BankDamaged(f"{path}: cannot be read ({error}); run verify") from error
    if len(nums) != segment.size:
        raise BankDamaged(f"{path}: {len(nums)} rows for {segment.size} positions; run verify")
    return nums  # type: ignore[no-any-return]


def without_deleted(
    store: Store, segments: tuple[IndexSegment, ...], delta: Delta, moved: Nums, generation: int
) -> tuple[IndexSegment, ...]:
    """The segments after a commit: those before it with more bits set, and the new one.

    Args:
        store: the bank.
        segments: of the newest snapshot, oldest first.
        delta: the commit.
        moved: numbers whose caption was changed by others since the new segment was built; theirs counts.
        generation: number of the last vacuum.
    """
    fresh = read_nums(store, delta.index) if delta.index else np.zeros(0, np.int64)
    unsearchable = delta.unsearchable()
    gone = np.union1d(unsearchable, np.setdiff1d(fresh, moved))
    kept = [mark_deleted(store, s, gone, generation) for s in segments if s.index.path not in delta.replaces]
    if delta.index:
        kept.append(mark_deleted(store, delta.index, np.union1d(unsearchable, moved), generation))
    return tuple(segment for segment in kept if segment.live)


def mark_deleted(store: Store, segment: IndexSegment, nums: Nums, generation: int) -> IndexSegment:
    """``segment`` with the positions of the clips ``nums`` deleted."""
    if not len(nums):
        return segment
    before = read_deleted(store, segment)
    after = before | np.isin(read_nums(store, segment), nums)
    if (after == before).all():
        return segment
    packed = np.packbits(after, bitorder="little").tobytes()
    entry = publish_bytes(store, packed, "index", _SUFFIX, int(after.sum()), generation)
    return dataclasses.replace(segment, deleted=entry)
