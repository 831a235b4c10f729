"""One partition of a plan: the listed rows and claims of a range of numbers in, tables of work and changes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.format.status import Status
from noisebank.format.tables import matches
from noisebank.planning.diff import Difference, Rules, count_by_source
from noisebank.planning.listing import Listing, Mask, sort_listing
from noisebank.planning.parent import Parent
from noisebank.sources import FILE_SHIFT

_FAILURE_COLUMNS = ("num", "id", "source", "uri", "stage", "code", "message", "retryable", "attempts")
PLAN_STAGE = "plan"
"""Stage of the failures that a list itself is to blame for."""


@dataclass(frozen=True)
class Reduced:
    """What comes of one partition.

    Args:
        clips, captions: rows to do, sorted by num.
        noise: records to make of each noise set, sorted by tar and num.
        rows: rows of the snapshot's table that change.
        records: records of each noise set that change.
        failures: those known now: invalid rows, claimed failures, and healed ones with an empty code.
        locations: duplicate and invalid rows by position.
        counts: as :attr:`.plan.Plan.counts`.
        sources: as :attr:`.plan.Plan.sources`.
        receipts: numbers of the receipts that are claimed.
    """

    clips: pa.Table
    captions: pa.Table
    noise: Mapping[str, pa.Table]
    rows: pa.Table
    records: Mapping[str, pa.Table]
    failures: pa.Table
    locations: pa.Table
    counts: Mapping[str, int]
    sources: Mapping[str, Mapping[str, int]]
    receipts: frozenset[int] = field(default_factory=frozenset)


def reduce_partition(
    listed: pa.Table,
    claims: pa.Table,
    parent: Parent,
    lo: int,
    hi: int,
    rules: Rules,
    stages: Sequence[str],
    source_names: Mapping[int, str],
) -> Reduced:
    """Plans the rows ``lo <= num < hi``.

    Args:
        listed: all listed rows of the range, in any order (:func:`noisebank.sources.rows.listed_rows`).
        claims: of the range (:data:`.claims.CLAIMS`).
        parent: the snapshot to update.
        lo, hi: the range.
        rules: what is retried and removed.
        stages: numbers of the stages in ``claims``.
        source_names: of the configured sources, by number.
    """
    listing = sort_listing(listed)
    difference = Difference(listing, parent, lo, hi, claims, rules, stages)
    failures, newly_invalid = _failures(difference, source_names)
    numbers = listing.table.column("source").to_numpy()
    by_source = {
        "before": difference.known["source"][difference.known["status"] != Status.REMOVED],
        "changed": numbers[listing.rows][difference.changed],
        "removed": difference.known["source"][difference.removed],
        "rows": numbers[listing.rows],
    }
    counted = {what: count_by_source(found, source_names) for what, found in by_source.items()}
    return Reduced(
        clips=_task_rows(difference, difference.clips.todo),
        captions=_task_rows(difference, difference.captions_todo),
        noise={name: _task_records(difference, name) for name in difference.noise},
        rows=pa.table(difference.touched_rows()),
        records={name: pa.table(difference.touched_records(name)) for name in difference.records},
        failures=failures,
        locations=_locations(listing),
        counts={
            "read": listing.table.num_rows,
            "new": int(difference.new.sum()),
            "changed": int(difference.changed.sum()),
            "unchanged": int(difference.same.sum()),
            "removed": int(difference.removed.sum()),
            "duplicate": len(listing.duplicates),
            "invalid": len(listing.invalid),
            "newly_invalid": newly_invalid,
            "retried": int(difference.retried.sum()),
            "to_embed": int(difference.embed.sum()),
        },
        sources={name: {what: counted[what].get(name, 0) for what in counted} for name in source_names.values()},
        receipts=frozenset(difference.used_receipts()),
    )


def _task_rows(difference: Difference, mask: Mask) -> pa.Table:
    rows = difference.listing.take(mask)
    names = ("num", "id", "source", "uri", "base", "start_ms", "end_ms", "caption", "video", "caption_hash")
    columns = {name: rows.column(name) for name in names}
    columns["attempt"] = pa.array(difference.clips.attempt[mask].astype(np.int16))
    columns["embed"] = pa.array(difference.embed[mask])
    return pa.table(columns)


def _task_records(difference: Difference, name: str) -> pa.Table:
    work = difference.noise[name]
    places = np.flatnonzero(work.todo)
    files = difference.clip_file[places]
    order = places[np.lexsort((difference.nums[places], files))]
    ids = difference.listing.table.column("id").take(pa.array(difference.listing.rows[order]))
    return pa.table(
        {
            "num": difference.nums[order],
            "id": ids,
            "clip_file": difference.clip_file[order],
            "clip_row": difference.clip_row[order],
            "attempt": work.attempt[order].astype(np.int16),
        }
    )


def _failures(difference: Difference, source_names: Mapping[int, str]) -> tuple[pa.Table, int]:
    """The failures that this plan adds or heals, sorted by (num, stage), and how many rows are newly invalid."""
    invalid = _invalid_failures(difference.listing, source_names)
    parts = _claimed_failures(difference, source_names)
    known = difference.failures
    if known is not None and known.num_rows:
        invalid_nums = invalid.column("num").to_numpy()
        parts.append(_healed(difference, known, source_names, invalid_nums))
        of_plan = known.filter(pc.equal(known.column("stage"), PLAN_STAGE))
        place, found = matches(of_plan.column("num").to_numpy(), invalid_nums)
        if found.any():
            before = of_plan.take(pa.array(place))
            for name in ("code", "message"):
                found &= pc.equal(invalid.column(name), before.column(name)).to_numpy()
            invalid = invalid.filter(pa.array(~found))
    table = pa.concat_tables([invalid, *parts], promote_options="permissive")
    return table.sort_by([("num", "ascending"), ("stage", "ascending")]), invalid.num_rows


def _invalid_failures(listing: Listing, source_names: Mapping[int, str]) -> pa.Table:
    """One failure for each invalid id that no other row gives validly."""
    rows = listing.table.take(pa.array(listing.invalid))
    nums = rows.column("num").to_numpy()
    _, first = np.unique(nums, return_index=True)
    first = first[~matches(listing.nums, nums[first])[1]]
    reasons = [listing.reasons[i] for i in first.tolist()]
    split = [reason.partition(": ") for reason in reasons]
    values = {
        "code": [code for code, _, _ in split],
        "message": [message for _, _, message in split],
        "retryable": [False] * len(first),
        "attempts": [1] * len(first),
    }
    return _failure_table(rows.take(pa.array(first)), PLAN_STAGE, values, source_names)


def _claimed_failures(difference: Difference, source_names: Mapping[int, str]) -> list[pa.Table]:
    """The failures that claimed shards recorded."""
    works = {"clips": difference.clips} | {f"noise/{name}": work for name, work in difference.noise.items()}
    tables = []
    for stage, work in works.items():
        mask = work.claimed.failed
        if mask.any():
            claims = difference.claims[stage].take(pa.array(work.claimed.claim[mask]))
            retryable = pc.equal(claims.column("status"), int(Status.RETRYABLE))
            values = {
                "code": claims.column("code"),
                "message": claims.column("message"),
                "retryable": retryable,
                "attempts": claims.column("attempt"),
            }
            tables.append(_failure_table(difference.listing.take(mask), stage, values, source_names))
    return tables


def _failure_table(rows: pa.Table, stage: str, values: Mapping[str, Any], source_names: Mapping[int, str]) -> pa.Table:
    names = [source_names[number] for number in rows.column("source").to_pylist()]
    columns = {name: rows.column(name) for name in ("num", "id", "uri")}
    columns |= {"source": pa.array(names, pa.string()), "stage": pa.array([stage] * rows.num_rows, pa.string())}
    types = {"code": pa.string(), "message": pa.string(), "retryable": pa.bool_(), "attempts": pa.int16()}
    for name, type in types.items():
        value = values[name]
        columns[name] = value.cast(type) if isinstance(value, (pa.Array, pa.ChunkedArray)) else pa.array(value, type)
    zeros = pa.array(np.zeros(rows.num_rows, np.int64))
    table = pa.table({name: columns[name] for name in _FAILURE_COLUMNS})
    return table.append_column("first_snapshot", zeros).append_column("last_snapshot", zeros)


def _healed(
    difference: Difference, known: pa.Table, source_names: Mapping[int, str], invalid: np.ndarray[Any, Any]
) -> pa.Table:
    """The failures of the snapshot that no longer hold, with an empty code."""
    nums, stages = known.column("num").to_numpy(), known.column("stage")
    gone = np.isin(nums, difference.known["num"][difference.removed])
    of_plan = pc.equal(stages, PLAN_STAGE).to_numpy()
    ours = pc.is_in(known.column("source"), value_set=pa.array(list(source_names.values()))).to_numpy()
    ours = ours | difference.rules.prune
    healed = np.where(of_plan, ours & ~np.isin(nums, invalid), gone)
    ready = difference.held | difference.clips.claimed.done
    healed |= pc.equal(stages, "clips").to_numpy() & np.isin(nums, difference.nums[ready])
    for name, work in difference.noise.items():
        healed |= pc.equal(stages, f"noise/{name}").to_numpy() & np.isin(nums, difference.nums[work.claimed.done])
    table = known.filter(pa.array(healed))
    for name in ("code", "message"):
        empty = pa.array([""] * table.num_rows, pa.string())
        table = table.set_column(table.column_names.index(name), name, empty)
    zeros = pa.array(np.zeros(table.num_rows, np.int64))
    return table.set_column(table.column_names.index("last_snapshot"), "last_snapshot", zeros)


def _locations(listing: Listing) -> pa.Table:
    places = np.concatenate([listing.duplicates, listing.invalid]).astype(np.int64)
    rows = listing.table.select(["position", "id"]).take(pa.array(places))
    duplicate = len(listing.duplicates)
    return pa.table(
        {
            "position": rows.column("position"),
            "id": rows.column("id"),
            "status": pa.array(["duplicate"] * duplicate + ["invalid"] * len(listing.invalid), pa.string()),
            "reason": pa.array([None] * duplicate + listing.reasons, pa.string()),
        }
    )


def row_numbers(
    positions: np.ndarray[Any, Any], starts: np.ndarray[Any, Any], rows_before: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Which file and which row of it each position is; rows are counted from 1, the header not included.

    Args:
        positions: of rows.
        starts: sorted positions at which the ranges of all files begin.
        rows_before: how many rows of its file come before each range.
    """
    part = np.searchsorted(starts, positions, side="right") - 1
    return positions >> FILE_SHIFT, rows_before[part] + positions - starts[part] + 1
