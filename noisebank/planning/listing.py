"""Listed rows of one partition: sorted, duplicates and invalid rows told apart, one hash for all that a row says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from noisebank.ids import Hashes, Mask, Nums


def listing_hash(video: Hashes, caption_hash: Hashes) -> Hashes:
    """One hash of everything a listing says, from the hash of its uri and range and that of its caption.

    Two rounds of multiply and xor-shift, so that no pair of equal changes cancels out.
    """
    mixed = video ^ (caption_hash * np.uint64(0x9E3779B97F4A7C15))
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return np.asarray(mixed ^ (mixed >> np.uint64(32)), np.uint64)


def rows_digest(rows: pa.Table) -> str:
    """A digest of what listed rows say, in the order in which they say it."""
    digest = hashlib.sha256()
    for name in ("num", "video", "caption_hash", "base"):
        digest.update(rows.column(name).to_numpy().tobytes())
    digest.update(np.packbits(rows.column("invalid").is_null().to_numpy()).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Listing:
    """What the lists say about the numbers of one partition.

    Args:
        table: all rows of the partition, in no order.
        rows: places in ``table`` of the rows that count, sorted by num, no num twice.
        duplicates: places of rows whose id came before.
        invalid: places of rows that cannot be used.
        reasons: ``"code: message"`` of each invalid row.
    """

    table: pa.Table
    rows: Nums
    duplicates: Nums
    invalid: Nums
    reasons: list[str]

    @property
    def nums(self) -> Nums:
        """Sorted numbers of the rows that count."""
        return self.values("num").astype(np.int64, copy=False)

    def values(self, name: str) -> npt.NDArray[np.generic]:
        """A numeric column of the rows that count."""
        return np.asarray(self.table.column(name).to_numpy()[self.rows])

    def take(self, mask: Mask) -> pa.Table:
        """The rows that count and that ``mask`` selects, with all columns."""
        return self.table.take(pa.array(self.rows[mask]))


def sort_listing(table: pa.Table) -> Listing:
    """Sorts rows by (num, position); of the valid rows of one id the first listed counts.

    Two ids that share a number (expected for one build in 200,000 at ten million clips) cannot both be kept: the later
    one is invalid.
    """
    nums, positions = table.column("num").to_numpy(), table.column("position").to_numpy()
    order = np.lexsort((positions, nums))
    bad = ~table.column("invalid").is_null().to_numpy()[order]
    valid, invalid = order[~bad], order[bad]
    first = np.ones(len(valid), bool)
    first[1:] = nums[valid[1:]] != nums[valid[:-1]]
    rows, repeated = valid[first], valid[~first]
    reasons = table.column("invalid").take(pa.array(invalid)).to_pylist()
    if len(repeated):
        originals = rows[np.cumsum(first)[~first] - 1]
        ids = table.column("id")
        pairs = zip(ids.take(pa.array(repeated)).to_pylist(), ids.take(pa.array(originals)).to_pylist(), strict=True)
        clash = np.array([own != other for own, other in pairs], bool)
        for place, other in zip(repeated[clash].tolist(), originals[clash].tolist(), strict=True):
            reasons.append(f"id_collision: has the number of {ids[other].as_py()}; give it another id")
            invalid = np.append(invalid, place)
        repeated = repeated[~clash]
    return Listing(table, rows, repeated, invalid, reasons)
