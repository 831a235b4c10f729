"""What a plan makes again because options or a model changed, and why: the gate ``max_redone``.

A snapshot says what each stage was made with, so that a difference can be named. New rows, new sets and changed rows
are made for the first time and do not count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from noisebank.config import config_from_mapping
from noisebank.errors import BankDamaged, ConfigError
from noisebank.format.manifest import Snapshot
from noisebank.format.stage_names import CAPTIONS, CLIPS, StageName
from noisebank.format.status import Status
from noisebank.options import FORMAT_VERSION, MODEL_PATHS, Config, module_of, output_options
from noisebank.planning.diff import Difference
from noisebank.planning.parent import look_up
from noisebank.planning.plan import Plan, plan_path, read_plan
from noisebank.storage import Store

MadeWith = Mapping[str, Mapping[str, Any]]
"""By stage, what its output depends on: hashed options by name, and what is no option in angle brackets."""

_MODEL, _FORMAT, _PACKAGE = "<the model's files>", "<the version of what stages write>", "<the package of its kind>"


def count_redone(difference: Difference) -> dict[str, dict[str, int]]:
    """Of each stage, how many ``records`` the snapshot has, and how many are ``redone`` because of what they were made
    with."""
    known, old = difference.known, difference.old
    present = known["status"] != Status.REMOVED
    outdated = ~difference.new & (old["caption_file"] != 0) & ~difference.has_caption
    masks = {
        CLIPS: (present & (known["clip_file"] != 0), difference.drops_clip & difference.clips.todo),
        CAPTIONS: (
            present & (known["caption_file"] != 0),
            outdated & (difference.captions_todo | difference.embed),
        ),
    }
    for stage, to_do in difference.over_clips.items():
        records = difference.records[stage]
        listed, found = look_up(records, difference.nums)
        stale = found & (listed["status"] == Status.OK) & ~difference.parent.is_current(stage, listed["file"])
        masks[stage] = records["status"] == Status.OK, stale & to_do.todo
    return {
        stage: {"records": int(np.count_nonzero(has)), "redone": int(np.count_nonzero(again))}
        for stage, (has, again) in masks.items()
    }


def made_with(config: Config, models: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each stage's output depends on, as plain values.

    Args:
        config: of the build.
        models: what the snapshot is to say of the models, by stage.
    """
    stages: dict[str, Any] = {CLIPS: config.clips, CAPTIONS: config.captions}
    stages |= {StageName("noise", options.name).name: options for options in config.noise}
    stages |= {StageName(options.kind, options.name).name: options for options in config.stages}
    known: dict[str, dict[str, Any]] = {}
    for stage, options in stages.items():
        named = {name: value for name, value in output_options(options).items() if name not in MODEL_PATHS}
        digest, package = models.get(stage, {}).get("digest"), module_of(options)
        also = {_MODEL: digest, _PACKAGE: package, _FORMAT: FORMAT_VERSION}
        if stage not in (CLIPS, CAPTIONS):
            also["threads"] = config.threads
        known[stage] = named | {name: value for name, value in also.items() if value is not None}
    plain: dict[str, dict[str, Any]] = json.loads(json.dumps(known))
    return plain


def name_changes(store: Store, snapshot: Snapshot, now: MadeWith, models: Mapping[str, Any]) -> dict[str, list[str]]:
    """By stage, what changed since a snapshot, as texts; an older one may not know all.

    Args:
        store: the bank.
        snapshot: that is updated.
        now: what the stages are made with from now on.
        models: as for :func:`made_with`.
    """
    before = _read_made_with(store, snapshot)
    texts: dict[str, list[str]] = {}
    for stage, wanted in now.items():
        known = before.get(stage, {})
        changed = [name for name in wanted if name in known and known[name] != wanted[name]]
        texts[stage] = [_say(stage, name, known[name], wanted[name]) for name in changed]
        if _MODEL in changed:
            old, new = ((StageName.parse(stage).find(snapshot.models) or {}).get("model"), models[stage].get("model"))
            texts[stage].append(f"the model was {old!r}, is {new!r}" if old != new else f"the model is {new!r}")
    return texts


def redone_problems(plan: Plan, config: Config) -> list[str]:
    """Why a plan should not be carried out: it makes more of a stage's records again than ``max_redone`` allows; [] if
    none does."""
    refused = {
        stage: counts
        for stage, counts in sorted(plan.redone.items())
        if counts["redone"] > config.max_redone * counts["records"]
    }
    also = "".join(
        f" Also changed, for {stage}: {'; '.join(said)}."  # (it would be made again with the clips, or after them)
        for stage, said in sorted(plan.made_otherwise.items())
        if said and stage not in refused
    )
    return [
        f"{stage}: {counts['redone']} of {counts['records']} records would be made again"
        f"{', and what follows from them' if stage == CLIPS else ''}, more than max_redone {config.max_redone:g}. "
        f"What changed: {'; '.join(plan.made_otherwise.get(stage, ())) or 'nothing that is on record'}.{also} Take "
        "that back, give a noise set another name to have both, or let it through with --max-redone 1"
        for stage, counts in refused.items()
    ]


def _say(stage: str, name: str, before: Any, now: Any) -> str:
    where = f"{stage.replace('/', '.')}.{name}" if not name.startswith("<") else name.strip("<>")
    return f"{where} was {before!r}, is {now!r}"


def _read_made_with(store: Store, snapshot: Snapshot) -> MadeWith:
    """What a snapshot says; one of an older version: what its plan and its models say."""
    if snapshot.made_with:
        return snapshot.made_with
    models = flatten_models(snapshot.models)
    try:
        return made_with(config_from_mapping(dict(read_plan(store, plan_path(snapshot.plan)).config)), models)
    except (FileNotFoundError, BankDamaged, ConfigError):  # (vacuumed, or of another version)
        digests = {stage: {_MODEL: model["digest"]} for stage, model in models.items() if "digest" in model}
        return {stage: {**models[stage], **digests[stage]} for stage in digests}


def flatten_models(models: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The models of a snapshot by stage name."""
    flat: dict[str, Mapping[str, Any]] = {}
    for kind, value in models.items():
        if kind == CAPTIONS:
            flat[kind] = value
        else:
            flat |= {f"{kind}/{set}": model for set, model in value.items()}
    return flat
