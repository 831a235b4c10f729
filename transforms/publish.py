"""The gates of a build and its commit: before any work, whether the lists look sane; before the stages over clips and
at the end, whether too much failed; then one snapshot, and how the run ended for whoever started it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import apache_beam as beam

from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo
from noisebank.commits.gates import FailureCount
from noisebank.commits.publishing import BuildResult
from noisebank.commits.runs import record_run
from noisebank.errors import JobFailed, SnapshotConflict, SnapshotExpired
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.receipts import find_receipts
from noisebank.options import Config
from noisebank.planning.plan import FOLDER, Plan, refuse, removal_problems
from noisebank.planning.redone import redone_problems
from noisebank.stages.job import Finished, add_figures, stage_figures
from noisebank.storage import Store, open_store
from transforms.work import Done, plan_of, step

_log = logging.getLogger(__name__)


class FinishedShard(NamedTuple):
    """What the commit is told of a finished shard. It reads the receipt itself: with failures and the description of
    a model the receipts of a large build are hundreds of megabytes, too much for a side input."""

    stage: str
    inputs: str
    made: bool
    seconds: float

    @classmethod
    def of(cls, done: Done) -> FinishedShard:
        """From a finished shard."""
        receipt = done.finished.receipt
        return cls(receipt.stage, receipt.inputs, done.finished.made, done.finished.seconds)


@step
class CheckPlan(beam.PTransform):
    """Stops the build before any work when a source lost or changed more rows, or changed options or models would make
    more records again, than is allowed.

    Input and output: the plan's path.
    """

    config: Config

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[str]:
        return plans | beam.Map(self._check)

    def _check(self, path: str) -> str:
        plan = plan_of(self.config.bank, path)
        if problems := [*removal_problems(plan, self.config), *redone_problems(plan, self.config)]:
            raise JobFailed("; ".join(problems))
        return path


@step
class CheckClips(beam.PTransform):
    """Stops a build before its stages over clips when so many clips failed that nothing could be published.

    Args:
        clips: all finished shards of the clips.
        warn: whether it only warns, because somebody else commits, perhaps under another limit.

    Input and output: the plan's path.
    """

    config: Config
    clips: beam.PCollection[Done]
    warn: bool

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[str]:
        shards = beam.pvalue.AsList(self.clips | "ClipShards" >> beam.Map(FinishedShard.of))
        return plans | beam.Map(_check_clips, self.config, shards, self.warn)


@step
class Publish(beam.PTransform):
    """Commits what the shards of a plan came to, and records how the run ended.

    Args:
        run_id: of the run; a repeated commit step finds its own snapshot by it.
        shards: all finished shards, by stage.
        index: the index of the captions made.

    Input: the plan's path. Output: the summary.
    """

    config: Config
    run_id: str
    shards: Mapping[str, beam.PCollection[Done]]
    index: beam.PCollection[Done]

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[dict[str, Any]]:
        # (one side input a stage: Beam's Java fuser refuses a Flatten of which only some inputs are fused with it)
        shards = [done | f"Shards {stage}" >> beam.Map(FinishedShard.of) for stage, done in self.shards.items()]
        inputs = map(beam.pvalue.AsList, (self.index, *shards))
        return plans | "Commit" >> beam.Map(_publish, self.config, self.run_id, *inputs)


@step
class RecordRun(beam.PTransform):
    """Records what the shards of a stage that runs on its own came to, when it has done all.

    Input and output: the plan's path.
    """

    bank: str
    run_id: str
    shards: Mapping[str, beam.PCollection[Done]]

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[str]:
        own = [done | f"Finished {name}" >> beam.Map(lambda item: item.finished) for name, done in self.shards.items()]
        return plans | beam.Map(_record, self.bank, self.run_id, *map(beam.pvalue.AsIter, own))


def _record(path: str, bank: str, run_id: str, *finished: Iterable[Finished]) -> str:
    figures = stage_figures(item for shards in finished for item in shards)
    record_run(open_store(bank), run_id, {"plan": path, "stages": figures})
    return path


def _check_clips(path: str, config: Config, shards: list[FinishedShard], warn: bool) -> str:
    if not shards:
        return path
    store, plan = open_store(config.bank), plan_of(config.bank, path)
    failed = FailureCount(store, plan, _read_parent(store, plan))
    for receipt in find_receipts(store, ((shard.stage, shard.inputs) for shard in shards)):
        failed.add(receipt.failures)
    if problem := failed.find_problem(config.max_failed):
        if not warn:
            with _open_result(store, plan, shards) as result:
                _check_failures(result, config)
        _log.warning("'commit' would refuse this: %s", problem)
    return path


def _check_failures(result: BuildResult, config: Config) -> None:
    """Refuses the plan for good, and leaves the table of what failed, where too much did."""
    try:
        result.failed.check(config.max_failed)
    except JobFailed as error:
        hash = result.plan.hash
        refuse(result.store, hash, str(error), result.write_failures(f"{FOLDER}/{hash}"))
        raise


def _read_parent(store: Store, plan: Plan) -> Snapshot | None:
    try:
        return None if plan.parent is None else read_snapshot(store, plan.parent)
    except SnapshotExpired as error:
        raise SnapshotConflict(f"{error}: it was vacuumed while this build ran; run the build again") from error


def _open_result(store: Store, plan: Plan, shards: Iterable[FinishedShard]) -> BuildResult:
    return BuildResult(store, plan, _read_parent(store, plan), [(shard.stage, shard.inputs) for shard in shards])


def _publish(
    path: str, config: Config, run_id: str, index: list[Done], *groups: Iterable[FinishedShard]
) -> dict[str, Any]:
    store, plan = open_store(config.bank), plan_of(config.bank, path)
    shards = sorted(shard for group in groups for shard in group)
    with _open_result(store, plan, shards) as result:
        _check_failures(result, config)
        parent = snapshot = result.parent
        counts = plan.row_counts | {"failed": len(result.failed.nums)}
        figures = stage_figures(done.finished for done in index)
        for shard, receipt, failed in zip(shards, result.receipts, result.failure_counts, strict=True):
            add_figures(figures, receipt, shard.made, shard.seconds, failed)
        stages = dict(sorted(figures.items()))
        if not plan.is_empty:
            delta = result.delta(index[0].finished.receipt if index else None)
            info = CommitInfo(
                run_id=run_id,
                plan=plan.hash,
                fingerprints=plan.fingerprints,
                models=result.models(),
                made_with=plan.made_with,
                noise_sets=plan.noise_sets,
                sources=tuple(plan.source_names.values()),
                counts=counts,
                stages=stages,
            )
            snapshot = commit(store, parent, delta, info)
        summary = {
            "snapshot": snapshot.number if snapshot else None,
            "parent": parent.number if parent else None,
            "committed": snapshot is not None and (parent is None or snapshot.number != parent.number),
            "rows": counts | {"in_bank": snapshot.in_bank if snapshot else 0},
            "stages": stages,
            "failed_by_code": result.failed.codes,
        }
    record_run(store, run_id, summary)
    return summary
