"""A plan: what a build sets out to do, written once into ``plans/<hash>/`` before anything is done.

The hash is of everything that the plan follows from, so that a build that was killed finds its own plan again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from noisebank.config import config_from_mapping
from noisebank.decode import decode
from noisebank.errors import BankDamaged, ConfigError, remedy_of
from noisebank.format.reading import reading
from noisebank.format.receipts import find_receipts
from noisebank.format.sealed import seal, unseal
from noisebank.format.stage_names import CAPTIONS, CLIPS, NOISE, over_clips
from noisebank.options import MODEL_PATHS, Config, output_options
from noisebank.planning.cut import Task, records_a_file
from noisebank.storage import FileEntry, Store
from noisebank.storage.files import fits_name

_log = logging.getLogger(__name__)

FOLDER = "plans"
FORMAT = 3
"""Version of plans; one of another version is made again."""
BATCH_ROWS = 512
"""Rows of a record batch of a task file: what a shard reads at least."""
_ROW_COUNTS = ("read", "new", "changed", "unchanged", "removed", "duplicate", "invalid", "filtered", "retried")
_PLAN, _REFUSED = "plan.json", "refused.json"


@dataclass(frozen=True)
class Plan:
    """What a build sets out to do.

    Args:
        hash: of what the plan follows from; its folder's name.
        created: UTC, ISO 8601; tells which of several open plans is the newest.
        parent: number of the snapshot that it updates; None for an empty bank.
        parent_uuid: its uuid, or empty.
        config: the configuration as plain values.
        fingerprints: of the stages, by name.
        models: what the snapshot is to say of the models, by stage.
        folders: what relative uris start from; rows refer to them by number.
        source_names: of the configured sources, by their numbers in tables.
        counts: ``read``, ``new``, ``changed``, ``unchanged``, ``removed``, ``duplicate``, ``invalid``, ``filtered``,
            ``newly_invalid``, ``retried``, ``to_embed`` (rows of clips tasks whose caption is to be embedded too).
        sources: for each source ``before`` (rows in the snapshot), ``changed``, ``removed`` (``filtered`` of them by
            ``where`` and ``limit``), ``rows`` (listed, usable).
        tasks: shards to make, by stage.
        changes: deltas of the snapshot's tables, files in ascending order: ``rows``, ``records/<key>``, ``failures``.
        locations: Parquet files that tell file and row of every duplicate, invalid and filtered row.
        claimed: ``(stage, inputs)`` of the finished shards that it claims.
        redone: of each stage the ``records`` of the snapshot, and how many are ``redone`` because options or a model
            changed.
        made_with: what each stage's output depends on (:func:`.redone.made_with`).
        made_otherwise: by stage, what of it changed since the snapshot, in words.
    """

    hash: str
    created: str
    parent: int | None
    parent_uuid: str
    config: Mapping[str, Any]
    fingerprints: Mapping[str, Any]
    models: Mapping[str, Any]
    folders: tuple[str, ...]
    source_names: Mapping[int, str]
    counts: Mapping[str, int]
    sources: Mapping[str, Mapping[str, int]]
    tasks: Mapping[str, tuple[Task, ...]]
    changes: Mapping[str, tuple[FileEntry, ...]]
    locations: tuple[FileEntry, ...]
    claimed: tuple[tuple[str, str], ...]
    redone: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    made_with: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    made_otherwise: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where it is stored."""
        return plan_path(self.hash)

    @property
    def noise_sets(self) -> tuple[str, ...]:
        """The noise sets of its configuration."""
        return tuple(stage.set for stage in over_clips(self.fingerprints) if stage.kind == NOISE)

    @property
    def files(self) -> set[str]:
        """The paths of its files."""
        entries = [*self.locations, *(entry for group in self.changes.values() for entry in group)]
        pieces = [piece for tasks in self.tasks.values() for task in tasks for piece in task.pieces]
        return {entry.path for entry in entries} | {path for path, _, _ in pieces}

    @property
    def row_counts(self) -> dict[str, int]:
        """Those of its counts that summaries show."""
        return {name: self.counts.get(name, 0) for name in _ROW_COUNTS}

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is to be done or committed."""
        return not (any(self.tasks.values()) or any(self.changes.values()))

    def todo(self) -> dict[str, dict[str, int]]:
        """Rows and shards to do, stage by stage, those that follow from new clips included."""
        own = {stage: (sum(task.rows for task in tasks), len(tasks)) for stage, tasks in self.tasks.items()}
        rows, shards = own.get(CLIPS, (0, 0))
        embed = self.counts.get("to_embed", 0)
        follow = {stage: (rows, self._count_files(stage)) for stage in own}
        follow |= {CLIPS: (0, 0), CAPTIONS: (embed, min(embed, shards))}
        return {
            stage: {"rows": rows + follow[stage][0], "shards": shards + follow[stage][1]}
            for stage, (rows, shards) in own.items()
        }

    def _count_files(self, stage: str) -> int:
        """How many files a stage over clips makes of the clips to do, if none of these fails."""
        size = records_a_file(self.models.get(stage, {}))
        return sum(-(-task.rows // size) for task in self.tasks.get(CLIPS, ()))

    def resolve(self, uri: str, base: int) -> str:
        """The address to fetch: ``uri`` itself, or joined to the folder of the list that it was read from."""
        if "://" in uri or uri.startswith(("/", "youtube:")) or not self.folders[base]:
            return uri
        return f"{self.folders[base]}/{uri}"

    def to_bytes(self) -> bytes:
        """As a sealed JSON document."""
        return seal(json.loads(json.dumps({**asdict(self), "format": FORMAT})))


def plan_path(hash: str) -> str:
    """Where the plan of a hash is stored."""
    return f"{FOLDER}/{hash}/{_PLAN}"


def read_plan(store: Store, path: str) -> Plan:
    """The plan stored at ``path``.

    Raises:
        FileNotFoundError: there is none.
        BankDamaged: it differs from its digest, or is no plan, or another.
    """
    document = unseal(store.read(path), path)
    if document.pop("format", None) != FORMAT:
        raise BankDamaged(f"{path}: a plan of another version of noisebank")
    plan: Plan = decode(document, Plan, path)
    if path.startswith(f"{FOLDER}/") and path != plan.path:
        raise BankDamaged(f"{path}: says that it is {plan.hash}; files were swapped")
    return plan


def check_files(store: Store, plan: Plan) -> None:
    """Compares the files of a plan with the digests in their names.

    Raises:
        BankDamaged: one is missing or differs.
    """
    for file in sorted(plan.files):
        if not fits_name(store, file):
            raise BankDamaged(f"{file}: missing, or differs from the digest in its name; {remedy_of(file)}")


def drop_damaged(store: Store, hash: str) -> None:
    """Removes the plan of this hash, if it, a file of it or a finished shard that it claims is damaged or missing, so
    that it is made again."""
    path = plan_path(hash)
    try:
        plan = read_plan(store, path)
        for _ in find_receipts(store, plan.claimed, verify=True):
            pass
        check_files(store, plan)
    except FileNotFoundError:
        return
    except BankDamaged as error:
        _log.warning("%s: planning again", error)
        store.delete(path)


def open_plans(store: Store, parent_uuid: str, *, refused: bool = False) -> list[Plan]:
    """The plans that update the snapshot of this uuid and have not been refused, newest first.

    A stage that runs on its own works on one; the caller passes the uuid of the latest snapshot (empty: an empty bank).
    A damaged plan is passed over: nobody can carry it out. ``refused``: those that have been refused are among them,
    for their finished work can still be published.
    """
    passed_over = set() if refused else set(refused_plans(store))
    found = []
    for hash in _hashes(store, _PLAN):
        try:
            plan = None if hash in passed_over else read_plan(store, plan_path(hash))
        except BankDamaged as error:
            _log.warning("%s; passing over this plan", error)
            continue
        if plan is not None and plan.parent_uuid == parent_uuid:
            found.append(plan)
    return sorted(found, key=lambda plan: (plan.created, plan.hash), reverse=True)


@dataclass(frozen=True)
class _Planned:
    """What a plan of any version says of its models."""

    parent_uuid: str
    created: str
    models: Mapping[str, Any]


def planned_models(store: Store) -> dict[str, Any]:
    """What the newest plan for a bank without a snapshot says of the models, by stage; of any version of noisebank,
    whose finished work is still good."""
    plans = [_Planned("", "", {})]
    for hash in _hashes(store, _PLAN):
        with suppress(BankDamaged):
            document = unseal(store.read(plan_path(hash)), hash)
            wanted = {name: document.get(name) for name in ("parent_uuid", "created", "models")}
            plans.append(decode(wanted, _Planned, hash))
    return dict(max((plan for plan in plans if not plan.parent_uuid), key=lambda plan: plan.created).models)


@dataclass(frozen=True)
class _Refusal:
    """What stands beside a plan whose result was not published."""

    reason: str
    failures: tuple[FileEntry, ...]


def refuse(store: Store, hash: str, reason: str, failures: Sequence[FileEntry] = ()) -> None:
    """Records that a plan was carried out and its result not published, and the files of the table of what failed; the
    next build makes a new plan."""
    store.create(f"{FOLDER}/{hash}/{_REFUSED}", seal(asdict(_Refusal(reason, tuple(failures)))))


def find_refused_plan(store: Store, parent_uuid: str) -> tuple[Plan, tuple[FileEntry, ...]] | None:
    """The newest refused plan that updates the snapshot of this uuid (as for :func:`open_plans`), and the files of
    the table of what failed; None if there is none."""
    refused = set(refused_plans(store))
    for plan in open_plans(store, parent_uuid, refused=True):
        if plan.hash not in refused:
            continue
        return plan, _read_refusal(store, plan.hash).failures
    return None


def find_refusal(store: Store, hash: str) -> str | None:
    """Why the result of a plan was not published; None if it was not refused."""
    try:
        return _read_refusal(store, hash).reason
    except FileNotFoundError:
        return None


def _read_refusal(store: Store, hash: str) -> _Refusal:
    path = f"{FOLDER}/{hash}/{_REFUSED}"
    refusal: _Refusal = decode(unseal(store.read(path), path), _Refusal, path)
    return refusal


def refused_plans(store: Store) -> list[str]:
    """Hashes of the plans that were refused, sorted."""
    return _hashes(store, _REFUSED)


def _hashes(store: Store, name: str) -> list[str]:
    """The plans that have a file of this name, sorted."""
    return [path.split("/")[1] for path in store.list(FOLDER) if path.endswith(f"/{name}")]


def read_task(store: Store, task: Task) -> pa.Table:
    """The rows of a task.

    Raises:
        BankDamaged: a task file is missing or cannot be read.
    """
    tables = []
    for path, start, stop in task.pieces:
        with reading(path), store.open(path) as file:
            reader = pa.ipc.open_file(file)
            first = start // BATCH_ROWS
            batches = [reader.get_batch(i) for i in range(first, -(-stop // BATCH_ROWS))]
            table = pa.Table.from_batches(batches, reader.schema)
        tables.append(table.slice(start - first * BATCH_ROWS, stop - start))
    return pa.concat_tables(tables).combine_chunks()


def removal_problems(plan: Plan, config: Config) -> list[str]:
    """Why a plan should not be carried out: a source lost or changed more rows than is allowed; [] if none did."""
    problems = []
    filters = {source.label: source.filter for source in config.sources}
    for name, source in sorted(plan.sources.items()):
        for what in ("removed", "changed"):
            limit = getattr(config, f"max_{what}")
            if source[what] > limit * source["before"]:
                filtered = source.get("filtered", 0) if what == "removed" else 0
                by = f" ({filtered} of them by its filter: {filters.get(name) or 'none'})" if filtered else ""
                problems.append(
                    f"source {name}: {source[what]} of {source['before']} rows {what}{by}, more than max_{what} "
                    f"{limit}; check its lists{' and its filter' if by else ''}, or raise max_{what}"
                )
    return problems


def differences(plan: Plan, config: Config) -> list[str]:
    """What a configuration wants otherwise than a plan does, of all that decides the output; [] if the plan fits.

    Models count by their content, which shows when they are loaded.
    """
    try:
        wanted, planned = _decisions(config), _decisions(config_from_mapping(dict(plan.config)))
    except ConfigError as error:  # (of a module that this configuration does not name)
        return [f"the configuration of the plan: {error}"]
    return [
        f"{key}: {wanted[key]!r} in the configuration, {planned[key]!r} in the plan"
        for key in sorted(wanted.keys() & planned.keys())
        if wanted[key] != planned[key]
    ]


def _decisions(config: Config) -> dict[str, Any]:
    """Names of sources and noise sets, and the options that change what is made of them, by key."""
    lists: dict[str, Sequence[Any]] = {"noise": config.noise, "stages": config.stages}
    stages: dict[str, Any] = {"clips": config.clips}
    stages |= {f"{section}.{own.name}": own for section, members in lists.items() for own in members}
    return {
        "sources": sorted(" ".join(filter(None, (s.label, s.rhythm, s.filter))) for s in config.sources),
        **{section: sorted(own.name for own in members) for section, members in lists.items()},
        **{
            f"{stage}.{name}": tuple(value) if isinstance(value, tuple) else value  # (a Size shows as its numbers)
            for stage, options in stages.items()
            for name, value in output_options(options).items()
            if name not in MODEL_PATHS
        },
    }
