"""The graph of a build: from lists to a committed snapshot, or one stage of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import apache_beam as beam

from noisebank.commits.runs import check_begun, passing_plan_path, record_plan
from noisebank.format.stage_names import CAPTIONS, CLIPS, INDEX, NOISE
from noisebank.options import Config
from noisebank.stages.configured import all_stages
from noisebank.stages.stage import ShardWork, Stage
from noisebank.storage import open_store
from transforms.following import FollowClips
from transforms.plan import MakePlan
from transforms.publish import CheckClips, CheckPlan, Publish, RecordRun
from transforms.shards import BuildIndex, MakeShards, SplitWork
from transforms.trial import TryModels
from transforms.work import Done, ReadTasks

BUILD, COMMIT = "build", "commit"
_FOLLOWS = {CLIPS: (), CAPTIONS: (CAPTIONS,), INDEX: (CAPTIONS, INDEX), NOISE: (NOISE,)}
"""What each command that is one stage looks at, beside the clips; ``noise`` stands for all stages over clips."""


def build_pipeline(
    pipeline: beam.Pipeline,
    config: Config,
    *,
    run_id: str,
    stage: str = BUILD,
    plan: str | None = None,
    fingerprints: Mapping[str, str] | None = None,
    models: Mapping[str, Any] | None = None,
    try_models: bool = False,
    fit_machines: bool = False,
    begun: bool = False,
) -> None:
    """Adds a build, or one stage of it, to a pipeline; each step waits for those before it, and commit is the last.

    Args:
        run_id: unique to this run.
        stage: ``build``, or ``clips``, ``captions``, ``index``, ``noise`` (all stages over clips) or ``commit``, which
            find the shards of the stages before them finished.
        plan: path of the open plan to work on; None to make one.
        fingerprints, models: of the stages, for a new plan (:func:`noisebank.stages.configured.identify_stages`).
        try_models: whether a build tries out the models of the stages over clips before it fetches anything.
        fit_machines: whether each stage says how much memory its machines need. To an engine that has no choice of
            machines this means worker processes of its own for each stage, and nothing else.
        begun: whether the run has left its mark in the bank, which workers must find before they work.
    """
    bank = config.bank
    first, *following = all_stages(config)
    kinds = _FOLLOWS.get(stage, (CAPTIONS, INDEX, NOISE))
    if plan is None:
        passing = passing_plan_path(run_id) if stage == BUILD else ""
        plans = pipeline | "Plan" >> MakePlan(config, fingerprints or {}, models or {}, passing=passing)
        plans |= "CheckPlan" >> CheckPlan(config)
        if try_models and stage == BUILD:
            tried = tuple(one for one in following if one.name.is_over_clips and one.has_model)
            plans |= "TryModels" >> TryModels(bank, tried, run_id, config.threads)
    else:
        plans = pipeline | "Plan" >> beam.Create([plan])
    plans |= "Announce" >> beam.Map(_announce, bank, run_id, begun)

    def shards(of: Stage, work: beam.PCollection[ShardWork]) -> beam.PCollection[Done]:
        make = stage in (BUILD, NOISE if of.name.is_over_clips else of.name.kind)
        hints = _hints(of.min_ram if fit_machines else 0, of.accelerator) if make else {}
        return work | f"Make {of.name.name}" >> MakeShards(
            bank, of, make, make or stage == COMMIT, run_id, hints=hints, threads=config.threads
        )

    made = {CLIPS: shards(first, plans | f"Tasks {CLIPS}" >> ReadTasks(bank, CLIPS))}
    if stage in (BUILD, CLIPS):
        plans |= "CheckClips" >> CheckClips(config, made[CLIPS], warn=stage != BUILD)
    checked = beam.pvalue.AsSingleton(plans)
    follow = made[CLIPS] | "Follow" >> beam.Map(_follow, checked)
    for one in following:
        name = one.name.name
        if (NOISE if one.name.is_over_clips else name) in kinds:
            tasks = plans | f"Tasks {name}" >> ReadTasks(bank, name)
            new = follow | f"Split {name}" >> SplitWork(bank, one)
            made[name] = shards(one, (new, tasks) | f"Shards {name}" >> beam.Flatten())
    index = None
    if INDEX in kinds:
        make = stage in (BUILD, INDEX)
        hints = _hints(config.index.min_ram if make and fit_machines else 0)
        index = plans | "Index" >> BuildIndex(
            bank, config.index, made[CAPTIONS], make, make or stage == COMMIT, hints=hints
        )
    if stage in (BUILD, COMMIT):
        _ = plans | "Publish" >> Publish(config, run_id, made, index)
    else:
        own = {INDEX: index} if index is not None else {name: made[name] for name in made if name != CLIPS} or made
        _ = plans | "Record" >> RecordRun(bank, run_id, own)


def follow_pipeline(
    pipeline: beam.Pipeline, config: Config, *, run_id: str, plan: str, pause: float, workers: int
) -> None:
    """Adds the stages over clips, of clips that are being made meanwhile, to a pipeline.

    Args:
        run_id: unique to this run.
        plan: path of the open plan.
        pause: seconds between two looks for finished clips.
        workers: among how many the shards are shared out.
    """
    bank = config.bank
    plans = pipeline | "Plan" >> beam.Create([plan]) | "Announce" >> beam.Map(_announce, bank, run_id)
    made = {}
    for stage in all_stages(config):
        if stage.name.is_over_clips:
            name = stage.name.name
            work = plans | f"Follow {name}" >> FollowClips(config, stage, pause, workers)
            made[name] = work | f"Make {name}" >> MakeShards(
                bank, stage, job=run_id, at_once=True, threads=config.threads
            )
    _ = plans | "Record" >> RecordRun(bank, run_id, made)


def _hints(min_ram: int, accelerator: str | None = None) -> dict[str, Any]:
    """Beam's resource hints, without those that say nothing."""
    return {name: hint for name, hint in (("min_ram", min_ram), ("accelerator", accelerator)) if hint}


def _announce(path: str, bank: str, run_id: str, begun: bool = False) -> str:
    store = open_store(bank)
    if begun:
        check_begun(store, run_id)
    record_plan(store, run_id, path)
    return path


def _follow(done: Done, _checked: str) -> ShardWork:
    """What the next stages do with finished clips, once these were checked; the failures, which may be many, go to the
    commit alone."""
    return ShardWork(done.work.plan, done.work.task, replace(done.finished.receipt, failures=()))
