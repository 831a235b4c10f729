"""The graph of a build: from lists to a committed snapshot, or one stage of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import apache_beam as beam

from noisebank.commits.runs import record_plan
from noisebank.options import Config
from noisebank.stages.noise import noise_stage
from noisebank.storage import open_store
from transforms.captions import EmbedCaptions
from transforms.clips import MakeClips
from transforms.index import BuildIndex
from transforms.noise import InvertClips
from transforms.plan import MakePlan
from transforms.publish import CheckClips, CheckPlan, Publish
from transforms.report import Report
from transforms.work import Done, ReadTasks, Work


def build_pipeline(
    pipeline: beam.Pipeline,
    config: Config,
    *,
    run_id: str,
    stage: str = "build",
    plan: str | None = None,
    fingerprints: dict[str, Any] | None = None,
    models: dict[str, Any] | None = None,
) -> None:
    """Adds a build, or one stage of it, to a pipeline; each step waits for those before it, and commit is the last.

    Args:
        pipeline: to add to.
        config: of the build.
        run_id: unique to this run.
        stage: ``build``, or ``clips``, ``captions``, ``index``, ``noise`` or ``commit``, which find the shards of the
            stages before them finished.
        plan: hash of the open plan to work on; None to make one.
        fingerprints, models: of the stages, for a new plan (:func:`pipelines.models.prepare`).
    """
    bank = config.bank
    makes = {name: stage in ("build", name) for name in ("clips", "captions", "index", "noise")}
    if plan is None:
        plans = pipeline | "Plan" >> MakePlan(config, fingerprints or {}, models or {})
        plans |= "CheckPlan" >> CheckPlan(config)
    else:
        plans = pipeline | "Plan" >> beam.Create([plan])
    plans |= "Announce" >> beam.Map(_announced, bank, run_id)

    clips = (
        plans
        | "ClipTasks" >> ReadTasks(bank, "clips")
        | "Clips" >> MakeClips(bank, config.clips, config.fetch, make=makes["clips"])
    )
    if makes["clips"]:
        plans |= "CheckClips" >> CheckClips(config, clips, warn=stage != "build")
    follow = clips | "Follow" >> beam.Map(_follow, beam.pvalue.AsSingleton(plans)) | "SpreadShards" >> beam.Reshuffle()
    shards: dict[str, list[beam.PCollection[Done]]] = {"clips": [clips], "captions": [], "noise": []}
    if stage not in ("clips", "noise"):
        captions = (
            (follow, plans | "CaptionTasks" >> ReadTasks(bank, "captions"))
            | "CaptionShards" >> beam.Flatten()
            | "Captions" >> EmbedCaptions(bank, config.captions, make=makes["captions"])
        )
        shards["captions"].append(captions)
    if stage in ("build", "noise", "commit"):
        for noise in config.noise:
            name = noise_stage(noise.name)
            inverted = (
                (follow, plans | f"Tasks {name}" >> ReadTasks(bank, name))
                | f"Tars {name}" >> beam.Flatten()
                | f"Invert {name}" >> InvertClips(bank, noise, make=makes["noise"])
            )
            shards["noise"].append(inverted)
    if stage in ("build", "index", "commit"):
        index = plans | "Index" >> BuildIndex(bank, config.index, captions, make=makes["index"])
    if stage in ("build", "commit"):
        finished = [done for group in shards.values() for done in group] | "Done" >> beam.Flatten()
        _ = plans | "Publish" >> Publish(config, run_id, finished, index)
    else:
        own = [index] if stage == "index" else shards[stage]
        finished = own | "Made" >> beam.Flatten(pipeline=pipeline) | "Finished" >> beam.Map(lambda made: made.finished)
        _ = plans | "Report" >> Report(bank, run_id, finished)


def _announced(hash: str, bank: str, run_id: str) -> str:
    record_plan(open_store(bank), run_id, hash)
    return hash


def _follow(done: Done, _checked: str) -> Work:
    """What the next stages do with finished clips, once these were checked; the failures, which may be many, go to the
    commit alone."""
    return Work(done.work.plan, done.work.task, replace(done.finished.receipt, failures=()))
