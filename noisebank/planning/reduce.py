"""One partition of a plan: the listed rows and claims of a range of numbers in, tables of work and changes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.format.schemas import FAILURES, TASK_RECORDS, TASK_ROWS
from noisebank.format.stage_names import CAPTIONS, CLIPS, PLAN, StageName
from noisebank.format.status import Status
from noisebank.format.tables import matches
from noisebank.ids import Mask, Nums
from noisebank.options import Config
from noisebank.planning.changes import changed_records, changed_rows, used_receipts
from noisebank.planning.diff import Difference
from noisebank.planning.listing import CLASHES, Listing, sort_listing
from noisebank.planning.parent import Parent
from noisebank.planning.redone import count_redone
from noisebank.planning.spill import partition_range
from noisebank.planning.survey import Survey


@dataclass(frozen=True)
class Reduced:
    """What comes of one partition.

    Args:
        tasks: by stage the rows to do, sorted by num, or for stages over clips by tar and num.
        changes: deltas of the tables of a snapshot: ``rows``, ``records/<key>``, and ``failures`` (those known now:
            invalid rows, claimed failures, and healed ones with an empty code).
        locations: duplicate, invalid and filtered rows by position.
        counts: as :attr:`.plan.Plan.counts`.
        sources: as :attr:`.plan.Plan.sources`.
        receipts: numbers of the receipts that are claimed.
        redone: as :attr:`.plan.Plan.redone`.
    """

    tasks: Mapping[str, pa.Table]
    changes: Mapping[str, pa.Table]
    locations: pa.Table
    counts: Mapping[str, int]
    sources: Mapping[str, Mapping[str, int]]
    receipts: frozenset[int]
    redone: Mapping[str, Mapping[str, int]]


def reduce_partition(
    listed: pa.Table,
    claims: pa.Table,
    parent: Parent,
    partition: int,
    config: Config,
    survey: Survey,
    limits: Mapping[int, int] = MappingProxyType({}),
) -> Reduced:
    """Plans the rows of a partition.

    Args:
        listed: all its listed rows, in any order (:func:`noisebank.sources.rows.listed_rows`).
        claims: of its rows (:data:`.claims.CLAIMS`).
        parent: the snapshot to update.
        partition: its number.
        config: of the build.
        survey: of the bank.
        limits: as :attr:`.assemble.Scanned.limits`.
    """
    listing, source_names = sort_listing(listed, limits), survey.sources
    difference = Difference(listing, parent, *partition_range(partition, survey.bits), claims, config, survey)
    failures, newly_invalid = _failures(difference, source_names)
    numbers = listing.table.column("source").to_numpy()
    by_source = {
        "before": difference.known["source"][difference.known["status"] != Status.REMOVED],
        "changed": numbers[listing.rows][difference.changed],
        "removed": difference.known["source"][difference.removed],
        "filtered": difference.known["source"][difference.filtered],
        "rows": numbers[listing.rows],
    }
    todo = {CLIPS: difference.clips.todo, CAPTIONS: difference.captions_todo}
    tasks = {stage: _task_rows(difference, mask) for stage, mask in todo.items()}
    tasks |= {stage: _task_records(difference, stage) for stage in difference.over_clips}
    keys = {stage: f"records/{StageName.parse(stage).records}" for stage in difference.records}
    records = {key: changed_records(difference, stage) for stage, key in keys.items()}
    return Reduced(
        tasks=tasks,
        changes={"rows": changed_rows(difference), **records, "failures": failures},
        locations=_locations(listing),
        counts={
            "read": listing.table.num_rows,
            "new": int(difference.new.sum()),
            "changed": int(difference.changed.sum()),
            "unchanged": int(difference.same.sum()),
            "removed": int(difference.removed.sum()),
            "duplicate": len(listing.duplicates),
            "invalid": len(listing.invalid),
            "filtered": len(listing.filtered),
            "newly_invalid": newly_invalid,
            "retried": int(difference.retried.sum()),
            "to_embed": int(difference.embed.sum()),
        },
        sources={
            name: {what: int((found == number).sum()) for what, found in by_source.items()}
            for number, name in source_names.items()
        },
        receipts=frozenset(used_receipts(difference)),
        redone=count_redone(difference),
    )


def _task_rows(difference: Difference, mask: Mask) -> pa.Table:
    rows = difference.listing.take(mask)
    made = {"attempt": difference.clips.attempt[mask].astype(np.int16), "embed": difference.embed[mask]}
    return pa.table({name: made[name] if name in made else rows.column(name) for name in TASK_ROWS.names}, TASK_ROWS)


def _task_records(difference: Difference, stage: str) -> pa.Table:
    to_do = difference.over_clips[stage]
    places = np.flatnonzero(to_do.todo)
    order = places[np.lexsort((difference.nums[places], difference.clip_file[places]))]
    columns = {
        "num": difference.nums[order],
        "id": difference.listing.table.column("id").take(pa.array(difference.listing.rows[order])),
        "clip_file": difference.clip_file[order],
        "clip_row": difference.clip_row[order],
        "attempt": to_do.attempt[order].astype(np.int16),
    }
    return pa.table(columns, TASK_RECORDS)


def _failures(difference: Difference, source_names: Mapping[int, str]) -> tuple[pa.Table, int]:
    """The failures that this plan adds or heals, sorted by (num, stage), and how many rows are newly invalid."""
    invalid = _invalid_failures(difference.listing, source_names)
    healed = _heal(difference, source_names, invalid.column("num").to_numpy())
    known = difference.failures.filter(pc.equal(difference.failures.column("stage"), PLAN))
    place, found = matches(known.column("num").to_numpy(), invalid.column("num").to_numpy())
    if found.any():
        before = known.take(pa.array(place))
        for name in ("code", "message"):
            found &= pc.equal(invalid.column(name), before.column(name)).to_numpy()
        invalid = invalid.filter(pa.array(~found))
    table = pa.concat_tables([invalid, *_collect_claimed_failures(difference, source_names), healed])
    return table.sort_by([("num", "ascending"), ("stage", "ascending")]), invalid.num_rows


def _invalid_failures(listing: Listing, source_names: Mapping[int, str]) -> pa.Table:
    """One failure for each invalid id that no other row gives validly, and for what has the id of another video."""
    rows = listing.table.take(pa.array(listing.invalid))
    nums = rows.column("num").to_numpy()
    clash = np.array([reason.startswith(CLASHES) for reason in listing.reasons], bool)
    lost = np.flatnonzero(clash | ~matches(listing.nums, nums)[1])
    first = lost[np.unique(nums[lost], return_index=True)[1]]
    split = [listing.reasons[i].partition(": ") for i in first.tolist()]
    values = {
        "code": [code for code, _, _ in split],
        "message": [message for _, _, message in split],
        "retryable": [False] * len(first),
        "attempts": [1] * len(first),
    }
    return _failure_table(rows.take(pa.array(first)), PLAN, values, source_names)


def _collect_claimed_failures(difference: Difference, source_names: Mapping[int, str]) -> Iterator[pa.Table]:
    for stage, to_do in {CLIPS: difference.clips, **difference.over_clips}.items():
        mask = to_do.claimed.failed
        claims = difference.claims[stage].take(pa.array(to_do.claimed.claim[mask]))
        values = {
            "code": claims.column("code"),
            "message": claims.column("message"),
            "retryable": pc.equal(claims.column("status"), int(Status.RETRYABLE)),
            "attempts": claims.column("attempt"),
        }
        yield _failure_table(difference.listing.take(mask), stage, values, source_names)


def _failure_table(rows: pa.Table, stage: str, values: Mapping[str, Any], source_names: Mapping[int, str]) -> pa.Table:
    """Rows of a list as failures; ``values`` has the columns ``code``, ``message``, ``retryable`` and ``attempts``."""
    zeros = np.zeros(rows.num_rows, np.int64)
    columns = {name: rows.column(name) for name in ("num", "id", "uri")} | dict(values)
    columns["source"] = [source_names[number] for number in rows.column("source").to_pylist()]
    columns |= {"stage": [stage] * rows.num_rows, "first_snapshot": zeros, "last_snapshot": zeros}
    return pa.table({name: columns[name] for name in FAILURES.names}, FAILURES)


def _heal(difference: Difference, source_names: Mapping[int, str], invalid: Nums) -> pa.Table:
    """The failures of the snapshot that no longer hold, with an empty code."""
    known = difference.failures
    nums, stages = known.column("num").to_numpy(), known.column("stage")
    gone = np.isin(nums, difference.known["num"][difference.removed])
    of_plan = pc.equal(stages, PLAN).to_numpy()
    ours = pc.is_in(known.column("source"), value_set=pa.array(list(source_names.values()), pa.string())).to_numpy()
    healed = np.where(of_plan, (ours | difference.config.prune) & ~np.isin(nums, invalid), gone)
    ready = {CLIPS: difference.held | difference.clips.claimed.done}
    replaced = difference.drops_clip | difference.clips.todo | difference.clips.claimed.done
    ready |= dict.fromkeys(difference.records, replaced)  # (of sets that are not configured)
    ready |= {stage: to_do.claimed.done for stage, to_do in difference.over_clips.items()}
    for stage, done in ready.items():
        healed |= pc.equal(stages, stage).to_numpy() & np.isin(nums, difference.nums[done])
    table = known.filter(pa.array(healed))
    empty, zeros = pa.repeat("", table.num_rows), pa.repeat(0, table.num_rows)
    columns = {name: table.column(name) for name in FAILURES.names}
    return pa.table(columns | {"code": empty, "message": empty, "last_snapshot": zeros}).cast(FAILURES)


def _locations(listing: Listing) -> pa.Table:
    counted = {"duplicate": listing.duplicates, "invalid": listing.invalid, "filtered": listing.filtered}
    places = np.concatenate([*counted.values()]).astype(np.int64)
    rows = listing.table.select(["position", "id"]).take(pa.array(places))
    status = [pa.repeat(pa.scalar(name), len(found)) for name, found in counted.items()]
    reasons = [pa.nulls(len(listing.duplicates), pa.string()), pa.array(listing.reasons, pa.string())]
    reasons += pa.chunked_array(listing.filter_reasons, pa.string()).chunks
    return pa.table(
        {
            "position": rows.column("position"),
            "id": rows.column("id"),
            "status": pa.chunked_array(status, pa.string()),
            "reason": pa.chunked_array(reasons, pa.string()),
        }
    )
