"""How a build, one stage of it or a plan is run: models, the open plan, Beam's runner, and what came of it."""

from __future__ import annotations

import logging
import re
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import apache_beam as beam
from apache_beam.runners.runner import PipelineState

from noisebank import errors
from noisebank.commits.runs import begin_run, collect_run
from noisebank.config import config_from_mapping
from noisebank.errors import BankDamaged, ConfigError, JobFailed, NoiseBankError, SnapshotExpired
from noisebank.format.manifest import EMPTY, Snapshot, latest_snapshot
from noisebank.format.stage_names import nest
from noisebank.options import Config
from noisebank.planning.plan import (
    Plan,
    check_files,
    differences,
    open_plans,
    plan_path,
    planned_models,
    read_plan,
    removal_problems,
)
from noisebank.planning.redone import redone_problems
from noisebank.stages.configured import all_stages, identify_stages, pin_revisions, with_absolute_paths
from noisebank.storage import Store, open_store
from pipelines.graph import build_pipeline, follow_pipeline
from pipelines.progress import watch_run
from runners.engine import Engine, Needs
from runners.engines import find_engine
from runners.local import LocalEngine
from transforms.plan import MakePlan

_log = logging.getLogger(__name__)
_STEP = re.compile(r" \[while running '.*'\]$", re.DOTALL)
"""What Beam adds to a message."""
_FILE_GONE = re.compile(r"^the job failed: (\w+\.)*FileNotFoundError: ")
_CANCELLED = re.compile(r"Pipeline \S+ failed in state (CANCELLED|FAILED: [\w.]*\.JobCancellationException): ")
"""What Beam's client of a job server says of a job that somebody else cancelled; the latter of Flink's."""
_RAISED = re.compile(r"noisebank\.errors\.(\w+): (.*?)(?: \[while running .*)?$", re.MULTILINE)


def run_stages(
    config: Config, beam_arguments: Sequence[str], stage: str, follow: float | None = None
) -> dict[str, Any]:
    """Runs a build, or one stage of it as :func:`build_pipeline` names them, to its end.

    Args:
        config: of the build.
        beam_arguments: command-line words that are Beam's.
        stage: what to run.
        follow: of ``noise``: seconds between two looks for clips that somebody else finishes meanwhile; None: all of
            them are finished.

    Returns:
        The summary of ``noisebank build --json``; of a stage on its own: ``plan`` (hash), ``planned`` (when), ``rows``
        (of the plan) and ``stages`` (what this run did). Where the engine is only asked for a job's description:
        ``left``, what that left, in words.

    Raises:
        NoiseBankError: the job failed or published nothing; says why.
    """
    config = with_absolute_paths(config)
    engine = _find_engine(config, beam_arguments)
    if follow is not None and not isinstance(engine, LocalEngine):
        raise ConfigError("--follow: it runs on this machine alone; leave out --runner")
    engine.prepare(find_needs(config, stage))
    store = open_store(config.bank)
    run_id = uuid.uuid4().hex
    known: dict[str, Any] = {}
    latest = latest_snapshot(store)
    if stage in ("build", "clips"):
        config = pin_revisions(config)
        known["fingerprints"], known["models"] = identify_stages(config, _known(store, latest))
        known["try_models"] = not engine.runs_elsewhere
        if stage == "build" and not known["try_models"]:
            _log.info("workers on other machines try out their models when they load them, not before the first fetch")
    else:
        plan = _plan_to_work_on(store, latest, config, stage)
        if latest and plan.hash == latest.plan:
            return _summarise_published(plan, latest)
        if stage != "commit" and (problems := redone_problems(plan, config)):
            raise JobFailed("; ".join(problems))
        config = pin_revisions(config, config_from_mapping(dict(plan.config)))
        known["plan"] = plan.path
    if engine.runs_elsewhere and store.local_path("runs"):  # (a folder that all machines must mount)
        begin_run(store, run_id)
        known["begun"] = True
    try:
        with watch_run(store, run_id, stage):
            if follow is not None and isinstance(engine, LocalEngine):
                share = {"pause": follow, "workers": engine.count_workers()}
                run_pipeline(engine, lambda p: follow_pipeline(p, config, run_id=run_id, **known, **share))
            else:
                known["fit_machines"] = engine.fits_machines
                run_pipeline(engine, lambda p: build_pipeline(p, config, run_id=run_id, stage=stage, **known))
    except NoiseBankError as error:
        if stage != "build" or not latest or not _may_be_of_a_vacuum(error, store, latest):
            raise
        _log.warning("%s. A purge or vacuum took what this build worked on: planning again", error)
        return run_stages(config, beam_arguments, stage)
    if engine.leaves:
        return {"left": engine.leaves}
    summary = collect_run(store, run_id)
    if stage == "build":
        return summary
    plan = read_plan(store, summary.get("plan") or known["plan"])
    return {**summary, "plan": plan.hash, "planned": plan.created, "rows": summary.get("rows") or plan.row_counts}


def _known(store: Store, latest: Snapshot | None) -> Snapshot | None:
    """What a bank knows of its models. One without a snapshot knows those of its plans, so that what earlier versions
    finished is taken up: their digests of models were others."""
    models = planned_models(store) if latest is None else None
    return replace(EMPTY, models=nest(models)) if models else latest


def _may_be_of_a_vacuum(error: NoiseBankError, store: Store, before: Snapshot) -> bool:
    """Whether files are said to be gone or damaged, and a vacuum was committed since the snapshot ``before``."""
    if not isinstance(error, BankDamaged | SnapshotExpired) and not _FILE_GONE.search(str(error)):
        return False
    now = latest_snapshot(store)
    return now is not None and now.vacuum != before.vacuum


def _find_engine(config: Config, beam_arguments: Sequence[str]) -> Engine:
    return find_engine([*beam_arguments, *(f"--beam_plugin={module}" for module in config.modules)])


def find_needs(config: Config, stage: str) -> Needs:
    """What a stage, a whole build or a plan asks of its engine."""
    noise = config.noise if stage in ("build", "noise") else ()
    captions = [config.captions.model] if stage in ("build", "captions") else []
    return Needs(
        addresses=[config.bank, *(path for source in config.sources for path in source.addresses)],
        models=captions + [path for options in noise for path in (options.model, options.motion_adapter) if path],
        on_gpu={one.name: one.accelerator or "" for one in noise if one.device in ("auto", "cuda")},
        only_gpu=[one.name for one in noise if one.device.startswith("cuda")],
        modules=config.modules,
        may_wait=True,
    )


def _plan_to_work_on(store: Store, latest: Snapshot | None, config: Config, stage: str) -> Plan:
    """The newest open plan of this configuration, for a stage that runs on its own; where there is none, the one that
    the latest snapshot published, in which nothing is left to do. ``commit`` also takes one that was refused, for its
    limit may have been raised since.

    Raises:
        ConfigError: there is no open plan, or all are of other configurations; says what differs.
        BankDamaged: a file of the plan that is to be committed is missing or damaged.
    """
    plans = open_plans(store, latest.uuid if latest else "", refused=stage == "commit")
    if latest and latest.operation == "build" and not (plans and stage != "commit"):
        with suppress(FileNotFoundError, BankDamaged):  # (vacuumed, or of an older version)
            plans.append(read_plan(store, plan_path(latest.plan)))
    if not plans:
        raise ConfigError(
            f"{config.bank}: no open plan; run 'noisebank clips' or 'build' with this configuration first"
        )
    for plan in plans:
        if not differences(plan, config):
            if stage == "commit":
                check_files(store, plan)
            return plan
    raise ConfigError(
        f"{'; '.join(differences(plans[0], config))} of {plans[0].created}; give the configuration and flags that it "
        "was made with, or run 'noisebank clips' or 'build' with these, which plans anew"
    )


def _summarise_published(plan: Plan, latest: Snapshot) -> dict[str, Any]:
    """The summary of a commit that finds its plan published already."""
    return {
        "plan": plan.hash,
        "planned": plan.created,
        "snapshot": latest.number,
        "parent": latest.number,
        "committed": False,
        "rows": {**latest.counts, "in_bank": latest.in_bank},
        "stages": {},
        "failed_by_code": {},
    }


def plan_only(config: Config, beam_arguments: Sequence[str], probe: bool = False) -> dict[str, Any]:
    """What a build would do, in counts, and why it would refuse to, if so; nothing is written to the bank.

    Args:
        config: of the build.
        beam_arguments: command-line words that are Beam's.
        probe: also try out the models of the stages over clips here; ``probe`` of the result says what was found.

    Raises:
        ConfigError: the workers would run on other machines; also as :func:`run_stages`.
    """
    config = with_absolute_paths(config)
    engine = _find_engine(config, beam_arguments)
    if engine.runs_elsewhere:
        raise ConfigError(
            "plan: it leaves nothing where other machines could read it, so it runs here alone; leave out --runner"
        )
    engine.prepare(find_needs(config, "plan"))
    store = open_store(config.bank)
    latest = latest_snapshot(store)
    config = pin_revisions(config)
    fingerprints, models = identify_stages(config, _known(store, latest))
    with tempfile.TemporaryDirectory(prefix="noisebank-plan-") as scratch:
        run_pipeline(engine, lambda p: p | MakePlan(config, fingerprints, models, out=scratch))
        (plan,) = open_plans(open_store(scratch), latest.uuid if latest else "")
        rows = plan.row_counts | {"failed": 0, "in_bank": latest.in_bank if latest else 0}
        refused = [*removal_problems(plan, config), *redone_problems(plan, config)]
        redone = {stage: counts for stage, counts in plan.redone.items() if counts["redone"]}
        summary = {"parent": plan.parent, "rows": rows, "stages": plan.todo(), "redone": redone, "refused": refused}
        return summary | ({"probe": _try_models(config, plan)} if probe else {})


def _try_models(config: Config, plan: Plan) -> dict[str, Any]:
    """What trying out the models of the stages over clips found, by stage."""
    found = {}
    for stage in all_stages(config):
        if stage.name.is_over_clips and stage.has_model:
            model = stage.load_model(plan.models[stage.name.name]["digest"])
            found[stage.name.name] = stage.try_out(model, plan)
    return found


def run_pipeline(engine: Engine, build: Callable[[beam.Pipeline], Any]) -> None:
    """Runs a pipeline.

    Raises:
        NoiseBankError: the error raised on a worker; ConfigError if the runner refuses its options; JobFailed if the
            job was cancelled, or with Beam's own error.
    """
    try:
        pipeline = beam.Pipeline(engine.runner(), engine.options)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"Beam options: {error}") from error
    build(pipeline)
    try:
        state = pipeline.run().wait_until_finish()
    except Exception as error:  # (runners raise what they like)
        if not _CANCELLED.match(str(error)):
            raise _unwrap(error) from error
        state = PipelineState.CANCELLED
    if problem := engine.conclude(state):
        raise JobFailed(f"{problem}; run the same command again to go on from what is finished")


def _unwrap(error: Exception) -> NoiseBankError:
    """An error of noisebank's as it was raised on a worker, without Beam's wrapping; any other as JobFailed, with its
    kind and what it says (of a worker's traceback the last line, which is just that)."""
    text = str(error).strip()
    if isinstance(error, NoiseBankError):
        return type(error)(_STEP.sub("", text))
    if raised := _RAISED.findall(text):
        name, message = raised[-1]
        kind = getattr(errors, name, JobFailed)
        return (kind if issubclass(kind, NoiseBankError) else JobFailed)(message)
    is_traceback = "Traceback (most recent call last)" in text
    last = text.splitlines()[-1].strip() if is_traceback else f"{type(error).__name__}: {text}"
    return JobFailed(f"the job failed: {_STEP.sub('', last)}")
