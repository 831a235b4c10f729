"""The gates of a build and its commit: before any work, whether the lists look sane; before the inversions and at the
end, whether too much failed; then one snapshot, and how the run ended for whoever started it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo
from noisebank.commits.publishing import Outcome, Schemas
from noisebank.commits.runs import record_run
from noisebank.errors import JobFailed, SnapshotConflict, SnapshotExpired
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.receipts import Receipt, find_receipts
from noisebank.format.tables import PARQUET, write_segment
from noisebank.options import Config
from noisebank.planning.plan import FOLDER, Plan, refuse, removal_problems
from noisebank.stages.finished import Finished, stage_figures
from noisebank.storage import Store, open_store
from schemas.failures import FAILURES
from schemas.noise import RECORDS
from schemas.rows import ROWS
from transforms.index import BuiltIndex
from transforms.work import Done, plan_of

_log = logging.getLogger(__name__)
_SCHEMAS = Schemas(ROWS, RECORDS, FAILURES)


@dataclass(frozen=True)
class FinishedShard:
    """What the commit is told of a finished shard. It reads the receipt itself: with failures and the description of
    a model the receipts of a large build are hundreds of megabytes, too much for a side input."""

    stage: str
    inputs: str
    made: bool
    seconds: float


class CheckPlan(beam.PTransform):
    """Stops the build before any work when a source lost or changed more rows than is allowed.

    Input and output: the plan's hash.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[str]:
        return plans | beam.Map(_checked, self.config)


class CheckClips(beam.PTransform):
    """Stops a build before its inversions when so many clips failed that nothing could be published.

    Args:
        config: of the build.
        clips: all finished shards of the clips.
        warn: whether it only warns, because somebody else commits, perhaps under another limit.

    Input and output: the plan's hash.
    """

    def __init__(self, config: Config, clips: beam.PCollection[Done], warn: bool) -> None:
        super().__init__()
        self.config, self.clips, self.warn = config, clips, warn

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[str]:
        shards = beam.pvalue.AsList(self.clips | "ClipShards" >> beam.Map(finished_shard))
        return plans | beam.Map(_clips_checked, self.config, shards, self.warn)


class Publish(beam.PTransform):
    """Commits what the shards of a plan came to, and records how the run ended.

    Args:
        config: of the build.
        run_id: of the run; a repeated commit step finds its own snapshot by it.
        done: all finished shards.
        index: the index of the captions made.

    Input: the plan's hash. Output: the summary.
    """

    def __init__(
        self, config: Config, run_id: str, done: beam.PCollection[Done], index: beam.PCollection[BuiltIndex]
    ) -> None:
        super().__init__()
        self.config, self.run_id, self.done, self.index = config, run_id, done, index

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[dict[str, Any]]:
        shards = beam.pvalue.AsList(self.done | "Shards" >> beam.Map(finished_shard))
        index = beam.pvalue.AsList(self.index)
        return plans | "Commit" >> beam.Map(_publish, self.config, self.run_id, shards, index)


def finished_shard(done: Done) -> FinishedShard:
    """The part of a finished shard that goes to the commit."""
    receipt = done.finished.receipt
    return FinishedShard(receipt.stage, receipt.inputs, done.finished.made, done.finished.seconds)


def _checked(hash: str, config: Config) -> str:
    problems = removal_problems(plan_of(config.bank, hash), config)
    if problems:
        raise JobFailed("; ".join(problems))
    return hash


def _clips_checked(hash: str, config: Config, shards: Iterable[FinishedShard], warn: bool) -> str:
    shards = list(shards)
    if not shards:
        return hash
    store, plan = open_store(config.bank), plan_of(config.bank, hash)
    outcome = Outcome(store, plan, _parent(store, plan), _receipts(store, shards), _SCHEMAS)
    if not warn:
        _check_failures(outcome, config)
    elif problem := outcome.too_many_failed(config.max_failed):
        _log.warning("'commit' would refuse this: %s", problem)
    return hash


def _check_failures(outcome: Outcome, config: Config) -> None:
    """Refuses the plan for good, and leaves the table of what failed, where too much did."""
    try:
        outcome.check_failures(config.max_failed)
    except JobFailed as error:
        store, hash = outcome.store, outcome.plan.hash
        failures = write_segment(store, f"{FOLDER}/{hash}", outcome.failures(), suffix=PARQUET)
        refuse(store, hash, str(error), [failures] if failures else [])
        raise


def _receipts(store: Store, shards: Iterable[FinishedShard]) -> list[Receipt]:
    return find_receipts(store, [(shard.stage, shard.inputs) for shard in shards])


def _publish(
    hash: str, config: Config, run_id: str, shards: Iterable[FinishedShard], indices: Iterable[BuiltIndex]
) -> dict[str, Any]:
    store = open_store(config.bank)
    plan = plan_of(config.bank, hash)
    parent = _parent(store, plan)
    shards = sorted(shards, key=lambda shard: (shard.stage, shard.inputs))
    index = next(iter(indices), None)
    receipts = _receipts(store, shards)
    outcome = Outcome(store, plan, parent, receipts, _SCHEMAS, *((index.segment, index.replaces) if index else ()))
    _check_failures(outcome, config)
    snapshot = parent
    if not plan.is_empty:
        snapshot = commit(store, parent, outcome.delta(), _info(plan, run_id, outcome))
    finished = [Finished(receipt, s.made, s.seconds) for receipt, s in zip(receipts, shards, strict=True)]
    finished += [index.finished] if index else []
    summary = _summary(plan, parent, snapshot, finished, outcome)
    record_run(store, run_id, summary)
    return summary


def _parent(store: Store, plan: Plan) -> Snapshot | None:
    """The snapshot that the plan updates."""
    try:
        return None if plan.parent is None else read_snapshot(store, plan.parent)
    except SnapshotExpired as error:
        raise SnapshotConflict(f"{error}: it was vacuumed while this build ran; run the build again") from error


def _info(plan: Plan, run_id: str, outcome: Outcome) -> CommitInfo:
    return CommitInfo(
        run_id=run_id,
        plan=plan.hash,
        fingerprints=plan.fingerprints,
        models=_models(plan, outcome),
        noise_sets=tuple(plan.fingerprints["noise"]),
        sources=tuple(plan.source_names.values()),
        counts=_rows(plan, outcome),
    )


def _models(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What readers must know of the models: as planned, with what the workers learnt when they loaded them."""
    known = outcome.parent.models if outcome.parent else {}
    models: dict[str, Any] = {"captions": {**known.get("captions", {}), **plan.models["captions"]}, "noise": {}}
    for name, planned in plan.models["noise"].items():
        models["noise"][name] = {**known.get("noise", {}).get(name, {}), **planned}
    for receipt in [*outcome.claimed, *outcome.receipts]:
        if receipt.stage == "captions" and "dim" in receipt.info:
            models["captions"]["dim"] = receipt.info["dim"]
        if receipt.stage.startswith("noise/") and "description" in receipt.info:
            models["noise"][receipt.stage.removeprefix("noise/")] |= receipt.info["description"]
    return models


def _rows(plan: Plan, outcome: Outcome) -> dict[str, int]:
    names = ("read", "new", "changed", "unchanged", "removed", "duplicate", "invalid", "retried")
    failed = len({failure.num for failure in outcome.failed})
    return {**{name: plan.counts[name] for name in names}, "failed": failed}


def _summary(
    plan: Plan, parent: Snapshot | None, snapshot: Snapshot | None, finished: list[Finished], outcome: Outcome
) -> dict[str, Any]:
    return {
        "snapshot": snapshot.number if snapshot else None,
        "parent": parent.number if parent else None,
        "committed": snapshot is not None and (parent is None or snapshot.number != parent.number),
        "rows": {**_rows(plan, outcome), "in_bank": snapshot.in_bank if snapshot else 0},
        "stages": stage_figures(finished),
        "failed_by_code": outcome.failed_by_code(),
    }
