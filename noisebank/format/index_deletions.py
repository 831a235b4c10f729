"""Which positions of an index segment no longer count: captions removed, or replaced by a later segment's.

An index is never modified. Beside each segment lies a bitmap with one bit a position, least significant bit first (as
FAISS's ``IDSelectorBitmap`` reads it), set where the caption is gone.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from noisebank.errors import BankDamaged
from noisebank.format.manifest import IndexSegment
from noisebank.format.reading import verified_path, verified_table
from noisebank.format.stage_names import INDEX
from noisebank.ids import Mask, Nums
from noisebank.storage import BankWriter, Store


def read_deleted(store: Store, segment: IndexSegment) -> Mask:
    """One bool a position, true where the caption is gone.

    Raises:
        BankDamaged: the bitmap is missing, damaged or has another length.
    """
    if segment.deleted is None:
        return np.zeros(segment.size, bool)
    with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
        packed = np.fromfile(verified_path(store, segment.deleted, Path(scratch)), np.uint8)
    if len(packed) != (segment.size + 7) // 8:
        raise BankDamaged(f"{segment.deleted.path}: {len(packed)} bytes for {segment.size} positions; run verify")
    return np.unpackbits(packed, count=segment.size, bitorder="little").astype(bool)


def read_nums(store: Store, segment: IndexSegment) -> Nums:
    """The number of the clip at each position.

    Raises:
        BankDamaged: the entries are missing, damaged or of another number.
    """
    nums: Nums = verified_table(store, segment.entries, ["num"]).column("num").to_numpy()
    if len(nums) != segment.size:
        raise BankDamaged(f"{segment.entries.path}: {len(nums)} rows for {segment.size} positions; run verify")
    return nums


def mark_deleted(writer: BankWriter, segment: IndexSegment, nums: Nums) -> IndexSegment:
    """``segment`` with the positions of the clips ``nums`` deleted."""
    if not len(nums):
        return segment
    before = read_deleted(writer.store, segment)
    after = before | np.isin(read_nums(writer.store, segment), nums)
    if (after == before).all():
        return segment
    packed = np.packbits(after, bitorder="little").tobytes()
    entry = writer.data(packed, INDEX, ".bits", int(after.sum()))
    return dataclasses.replace(segment, deleted=entry)
