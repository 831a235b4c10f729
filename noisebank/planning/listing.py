"""Listed rows of one partition: sorted, duplicates and rows that do not count told apart, a hash of all a row says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.ids import Hashes, Mask, Nums
from noisebank.sources.rows import FILTERED
from noisebank.video.uris import parse_member

CLASHES = ("id_collision: ", "same_key: ")
"""What the reasons of rows begin with whose id or number another has."""


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
        filtered: places of rows that their source does not take.
        filter_reasons: why, of each of these.
    """

    table: pa.Table
    rows: Nums
    duplicates: Nums
    invalid: Nums
    reasons: list[str]
    filtered: Nums
    filter_reasons: pa.Array

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


def sort_listing(table: pa.Table, limits: Mapping[int, int] = MappingProxyType({})) -> Listing:
    """Sorts rows by (num, position); of the valid rows of one id the first listed counts.

    Two ids that share a number (expected for one build in 200,000 at ten million clips) cannot both be kept: the later
    one is invalid.

    Args:
        table: all rows of a partition.
        limits: by the number of a source, the largest number of a clip that it takes.
    """
    nums, positions = table.column("num").to_numpy(), table.column("position").to_numpy()
    order = np.lexsort((positions, nums))
    problem = _find_problems(table, limits)
    bad = ~problem.is_null().to_numpy(zero_copy_only=False)[order]
    valid, refused = order[~bad], order[bad]
    said = problem.take(pa.array(refused))
    is_filtered = np.asarray(pc.starts_with(said, FILTERED), bool)
    invalid, filtered = refused[~is_filtered], refused[is_filtered]
    first = np.ones(len(valid), bool)
    first[1:] = nums[valid[1:]] != nums[valid[:-1]]
    rows, repeated = valid[first], valid[~first]
    reasons = said.filter(pa.array(~is_filtered)).to_pylist()
    if len(repeated):
        originals = rows[np.cumsum(first)[~first] - 1]
        clashes = _find_clashes(table, repeated, originals)
        reasons += clashes.values()
        is_clash = np.isin(repeated, [*clashes])
        invalid, repeated = np.append(invalid, [*clashes]).astype(np.int64), repeated[~is_clash]
    why = pc.utf8_slice_codeunits(said.filter(pa.array(is_filtered)), len(FILTERED))
    return Listing(table, rows, repeated, invalid, reasons, filtered, why)


def _find_problems(table: pa.Table, limits: Mapping[int, int]) -> pa.ChunkedArray:
    """Why rows do not count, null where they do; rows beyond the limits of their sources among them."""
    problem = table.column("invalid")
    for source, largest in limits.items():
        beyond = pc.and_(pc.equal(table.column("source"), source), pc.greater(table.column("num"), largest))
        problem = pc.coalesce(problem, pc.if_else(beyond, f"{FILTERED}beyond the limit of its source", None))
    return problem


def _find_clashes(table: pa.Table, repeated: Nums, originals: Nums) -> dict[int, str]:
    """Of the rows whose number another has, those that are no duplicates, by their places, with the reason."""
    clashes = {}
    rows, firsts = (table.select(["id", "uri"]).take(pa.array(places)) for places in (repeated, originals))
    pairs = (zip(*(side.column(name).to_pylist() for side in (rows, firsts)), strict=True) for name in ("id", "uri"))
    for place, (id, first_id), (uri, first_uri) in zip(repeated.tolist(), *pairs, strict=True):
        if id != first_id:
            clashes[place] = f"id_collision: has the number of {first_id}; give it another id"
        elif (one := parse_member(uri)) and (other := parse_member(first_uri)) and uri != first_uri:
            clashes[place] = (
                f"same_key: {one} has the key of {other}; tell them apart by the source's id: '{{tar}}_{{key}}'"
            )
    return clashes
