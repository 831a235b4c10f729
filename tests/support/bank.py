"""Banks made without Beam, videos or models: real plans, jobs and commits of made-up content (:mod:`.made_up`).

There are three ways in. :class:`Bank` takes lists, as tests of planning have them. :func:`build` takes captions by id
and updates a bank, as readers find one. :func:`make` and :func:`publish` are an update in two halves that knows of no
other clips, for tests of commits and of what happens between the halves.
"""

from __future__ import annotations

import csv
import itertools
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo, Delta
from noisebank.commits.gates import read_changes
from noisebank.commits.publishing import BuildResult
from noisebank.config import config_from_mapping
from noisebank.format.index_deletions import read_deleted
from noisebank.format.manifest import EMPTY, Snapshot, latest_snapshot, read_snapshot
from noisebank.format.reading import read_table
from noisebank.format.receipts import Receipt
from noisebank.format.schemas import FAILURES, LISTED, RECORDS, ROWS, captions_schema
from noisebank.format.stage_names import CAPTIONS, StageName, over_clips
from noisebank.format.status import Status
from noisebank.format.tables import FAILURE_KEY, OverlayTable
from noisebank.ids import clip_number, xxh64
from noisebank.options import CaptionOptions, Config, IndexOptions
from noisebank.planning.assemble import assemble, scan_lists, summarise_range, write_partition
from noisebank.planning.claims import CLAIMS, read_claims
from noisebank.planning.parent import Parent
from noisebank.planning.plan import FOLDER, Plan, drop_damaged, plan_path, read_plan, read_task
from noisebank.planning.reduce import reduce_partition
from noisebank.planning.spill import SpilledBatch, partition_range, read_batch, spill
from noisebank.planning.survey import survey
from noisebank.sources import cut_ranges, read_range
from noisebank.stages import index
from noisebank.stages.captions import CaptionsStage
from noisebank.stages.job import ShardJob, run_job
from noisebank.stages.stage import LazyModel, ShardWork
from noisebank.storage import BankWriter, Store, open_store
from tests.support.made_up import SHAPE, Broken, ToyEmbedder, embedder, made_up_stages
from tests.support.minilm import MINILM

SET = "toy"
FINGERPRINTS = {"clips": "c1", "captions": "t1", f"noise/{SET}": "n1"}
DESCRIPTION = {"layout": "BCFHW", "shape": list(SHAPE), "spatial_ratio": 8, "temporal_ratio": 1, "call": {}}
"""What a snapshot says of the model of a noise set."""
NOISE_MODEL = {**DESCRIPTION, "dtype": "float16", "model": "toy"}
MODELS = {CAPTIONS: {"model": "toy", "digest": ToyEmbedder.digest}, f"noise/{SET}": NOISE_MODEL}
HEADER = ["videoid", "contentUrl", "duration", "page_dir", "name"]
COLUMNS = ("id", "uri", "caption")
_runs = itertools.count()


def webvid_row(video: int, caption: str = "", *, url: str = "", seconds: int = 5) -> list[str]:
    """A row of a WebVid list."""
    url = url or f"https://example.org/{video}.mp4"
    return [str(video), url, f"PT00H00M{seconds:02d}S", "d", caption or f"caption of {video}"]


def write_csv(path: Path, rows: Iterable[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
    """Writes a list."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return path


def write_lists(folder: Path, captions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Lists of the clips with these captions by id, and the sources that they are; ids begin with their source."""
    rows: dict[str, list[list[str]]] = defaultdict(list)
    for id, caption in captions.items():
        source, _, own = id.partition("-")
        rows[source].append([own, address_of(id, caption), caption])
    lists = {source: str(write_csv(folder / f"{source}.csv", rows[source], COLUMNS)) for source in rows}
    columns = {name: name for name in COLUMNS}
    return [{"kind": "table", "name": source, "path": path, **columns} for source, path in lists.items()]


def address_of(id: str, caption: str) -> str:
    """Where :func:`write_lists` says that the video of a clip is: with another caption it is another video."""
    return f"https://example.org/{id}/{xxh64(caption):x}.mp4"


class Bank:
    """A bank that is built from lists.

    Args:
        folder: for what is not in the bank.
        store: the bank; by default the folder ``bank`` in ``folder``.
    """

    def __init__(self, folder: Path, store: Store | None = None) -> None:
        self.folder = folder
        self.store = store or open_store(folder / "bank")
        self.fingerprints: dict[str, str] = FINGERPRINTS
        self.models: dict[str, Any] = MODELS
        self.embedder: Any = ToyEmbedder()
        self.now = 0.0
        self.vacuum: int | None = None

    def config(self, sources: Any, **options: Any) -> Config:
        """A configuration: ``sources`` is a path of a WebVid list, or the list of sources."""
        if not isinstance(sources, list):
            sources = [{"kind": "webvid", "path": str(sources)}]
        return config_from_mapping({"bank": str(self.store.url), "sources": sources, **options})

    def plan(
        self,
        sources: Any,
        range_bytes: int = 1 << 24,
        bits: int | None = None,
        known: Store | None = None,
        **options: Any,
    ) -> Plan:
        """The plan of a build of ``sources``; all steps of ``transforms/plan.py`` one after the other.

        Args:
            sources: as for :meth:`config`, as are ``options``.
            range_bytes: about how much of a list is read at once.
            bits: rows are handled in ``2 ** bits`` partitions.
            known: the bank that is updated, if not this one.
        """
        config, store, known = self.config(sources, **options), self.store, known or self.store
        found = survey(config, self.fingerprints, known, store, self.now)
        found = found if bits is None else replace(found, bits=bits)
        batches: dict[int, list[SpilledBatch]] = defaultdict(list)
        ranges = []
        for number, file in enumerate(found.lists):
            for part in cut_ranges(file, number, range_bytes):
                for table in read_range(file, part, list(found.headers[number]), found.base(number)):
                    rows = table.cast(LISTED)
                    for partition, batch in spill(store, f"{found.spill}/{len(ranges)}", rows, found.bits):
                        batches[partition].append(batch)
                    ranges.append(summarise_range(rows, file.source.limit))
        scan = scan_lists(ranges, config, found)
        drop_damaged(store, scan.hash)
        if not store.exists(plan_path(scan.hash)):
            claims = read_claims(known, list(enumerate(found.receipts)), found.stages, self.fingerprints)
            nums = claims.column("num").to_numpy()
            parent = Parent(known, found.parent, self.fingerprints)
            files = []
            models = dict.fromkeys((stage.name for stage in over_clips(self.fingerprints)), NOISE_MODEL) | self.models
            for partition in range(1 << found.bits):
                lo, hi = partition_range(partition, found.bits)
                listed = pa.Table.from_batches([read_batch(store, b, LISTED) for b in batches[partition]], LISTED)
                ours = claims.filter((nums >= lo) & (nums < hi)).cast(CLAIMS)
                reduced = reduce_partition(listed, ours, parent, partition, config, found, scan.limits)
                files.append(write_partition(store, partition, reduced, scan, found, models))
            plan = assemble(known, store, files, scan, found, config, models)
            store.create(plan.path, plan.to_bytes())
        _remove(store, found.spill)
        return read_plan(store, plan_path(scan.hash))

    def make(
        self, plan: Plan, broken: Broken | None = None, stages: Collection[str] = ("clips", "captions", "noise")
    ) -> list[Receipt]:
        """Carries out the tasks of a plan, as far as ``stages``, as ``pipelines/graph.py`` does."""
        clips: list[ShardWork] = []
        receipts: list[Receipt] = []
        for stage in made_up_stages(plan, broken or {}):
            if stage.name.kind not in stages:
                continue
            tasks = [ShardWork(plan.path, task) for task in plan.tasks[stage.name.name]]
            for work in itertools.chain.from_iterable(stage.split(plan, work) for work in [*tasks, *clips]):
                job = stage.job(self.store, plan, work, LazyModel(lambda digest: self.embedder))
                if job is not None:
                    receipts.append(run_job(job, self._writer(plan)).receipt)
            if stage.name.kind == "clips":
                clips = [replace(work, clips=receipt) for work, receipt in zip(tasks, receipts, strict=True)]
        return receipts

    def _writer(self, plan: Plan) -> BankWriter:
        vacuum = 0 if plan.parent is None else read_snapshot(self.store, plan.parent).vacuum
        return BankWriter(self.store, vacuum if self.vacuum is None else self.vacuum)

    @contextmanager
    def result(self, plan: Plan, receipts: Sequence[Receipt]) -> Iterator[tuple[BuildResult, Delta]]:
        """What the shards of a plan came to, their index included, and what the commit changes."""
        captions = [entry for receipt in receipts if receipt.stage == CAPTIONS for entry in receipt.files]
        job = index.index_job(self.store, plan, captions, IndexOptions())
        indexed = run_job(job, self._writer(plan)).receipt if job else None
        parent = None if plan.parent is None else read_snapshot(self.store, plan.parent)
        shards = [(receipt.stage, receipt.inputs) for receipt in receipts]
        with BuildResult(self.store, plan, parent, shards) as result:
            yield result, result.delta(indexed)

    def commit(self, plan: Plan, receipts: Sequence[Receipt]) -> Snapshot | None:
        """Publishes what was made of a plan."""
        with self.result(plan, receipts) as (result, delta):
            info = CommitInfo(
                f"run{next(_runs)}",
                plan=plan.hash,
                fingerprints=plan.fingerprints,
                models=result.models(),
                made_with=plan.made_with,
                noise_sets=plan.noise_sets,
                sources=tuple(plan.source_names.values()),
            )
            return commit(self.store, result.parent, delta, info)

    def build(self, sources: Any, broken: Broken | None = None, **options: Any) -> Plan:
        """A whole build; returns its plan."""
        plan = self.plan(sources, **options)
        self.commit(plan, self.make(plan, broken))
        return plan

    def rows(self) -> dict[int, dict[str, Any]]:
        """The rows of the newest snapshot by number."""
        snapshot = latest_snapshot(self.store)
        table = OverlayTable(self.store, snapshot.rows if snapshot else (), schema=ROWS).read()
        return {row["num"]: row for row in table.to_pylist()}

    def failures(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The failures that hold, by id and stage."""
        snapshot = latest_snapshot(self.store)
        table = OverlayTable(self.store, snapshot.failures if snapshot else (), FAILURE_KEY, FAILURES).read()
        return {(row["id"], row["stage"]): row for row in table.to_pylist() if row["code"]}

    def delta(self, plan: Plan, name: str = "rows") -> list[dict[str, Any]]:
        """The rows of a delta of a plan: ``rows``, ``failures``, or ``records/<set>``."""
        return [row for table in read_changes(self.store, plan, name) for row in table.to_pylist()]

    def todo(self, plan: Plan, stage: str) -> list[dict[str, Any]]:
        """The rows of all tasks of a stage."""
        return [row for task in plan.tasks[stage] for row in read_task(self.store, task).to_pylist()]

    def todo_ids(self, plan: Plan) -> dict[str, list[str]]:
        """Sorted ids to do by stage; stages with nothing to do are left out."""
        ids = {stage: sorted(row["id"] for row in self.todo(plan, stage)) for stage in plan.tasks}
        return {stage: found for stage, found in ids.items() if found}


def build(
    store: Store,
    captions: Mapping[str, str],
    *,
    removed: Collection[str] = (),
    sets: Mapping[str, Collection[str]] | None = None,
    dtype: str = "float16",
    description: Mapping[str, Any] = DESCRIPTION,
    model: str = MINILM,
) -> Snapshot:
    """Updates a bank whose captions a real model embeds.

    Args:
        store: the bank.
        captions: new and changed clips by id.
        removed: ids of the clips that are not listed any more.
        sets: the noise sets, and the new clips that get a record in each; by default all in ``toy``.
        dtype, description: of the records.
        model: what the snapshot says of where the captions model is.
    """
    sets = {SET: captions} if sets is None else sets
    listed = {id: caption for id, caption in _listed(store).items() if id not in removed} | captions
    with tempfile.TemporaryDirectory() as folder:
        bank = Bank(Path(folder), store)
        bank.embedder = embedder()
        bank.fingerprints = {"clips": "c1", "captions": "t1", **{f"noise/{name}": "n1" for name in sets}}
        bank.models = {CAPTIONS: {"model": model, "digest": bank.embedder.digest}}
        bank.models |= {f"noise/{name}": {**NOISE_MODEL, **description, "dtype": dtype} for name in sets}
        broken = {
            f"noise/{name}": {id: ("left_out", False) for id in listed if id not in ids} for name, ids in sets.items()
        }
        bank.build(write_lists(bank.folder, listed), broken)
    return read_snapshot(store)


def _listed(store: Store) -> dict[str, str]:
    """The captions of the clips that can be found in a bank, by id."""
    snapshot = latest_snapshot(store)
    listed = {}
    for segment in snapshot.index if snapshot else ():
        entries = read_table(store, segment.entries.path).filter(~read_deleted(store, segment))
        listed |= dict(zip(*(entries.column(name).to_pylist() for name in ("id", "caption")), strict=True))
    return listed


@dataclass
class Made:
    """What became of some clips, ready to commit; the receipts by their kind of stage."""

    delta: Delta
    receipts: dict[str, Receipt]


def make(store: Store, captions: Mapping[str, str], *, failed: Iterable[str] = (), vacuum: int = 0) -> Made:
    """A clip, a caption, a record of noise and an index entry for each id of ``captions``; ``failed`` ids fail.

    It is planned as for an empty bank, whatever is in this one; the plan leaves no trace in it.
    """
    broken = {"clips": dict.fromkeys(failed, ("http_404", False))}
    with tempfile.TemporaryDirectory() as folder:
        bank = Bank(Path(folder), store)
        bank.vacuum = vacuum
        lists = write_lists(bank.folder, {**captions, **{id: f"of {id}" for id in broken["clips"]}})
        plan = bank.plan(lists, known=open_store(bank.folder / "empty"))
        with bank.result(plan, bank.make(plan, broken)) as (_, delta):
            records = {key: list(tables) for key, tables in delta.records.items()}
            delta = replace(delta, rows=list(delta.rows), records=records, failures=list(delta.failures))
        _remove(store, f"{FOLDER}/{plan.hash}")
    return Made(delta, {StageName.parse(receipt.stage).kind: receipt for receipt in delta.receipts})


def remove(ids: Iterable[str]) -> Delta:
    """Tombstones of ``ids``."""

    def tombstones(schema: pa.Schema) -> pa.Table:
        fixed = dict.fromkeys(schema.names, 0) | {"status": int(Status.REMOVED)}
        return pa.Table.from_pylist([{**fixed, "num": num} for num in sorted(map(clip_number, ids))], schema)

    ids = list(ids)
    return Delta(rows=[tombstones(ROWS)], records={SET: [tombstones(RECORDS)]})


def failure(id: str, code: str = "http_404", **values: Any) -> pa.Table:
    """One failure at the clips; an empty code heals it."""
    row = {"num": clip_number(id), "id": id, "source": id.partition("-")[0], "uri": f"{id}.mp4", "stage": "clips"}
    row |= {"code": code, "message": "gone", "retryable": False, "attempts": 1, "first_snapshot": 0, "last_snapshot": 0}
    return pa.Table.from_pylist([row | values], FAILURES)


def publish(
    store: Store, delta: Delta, parent: Snapshot | None = None, *, newest: bool = True, **info: Any
) -> Snapshot:
    """Commits ``delta``, planned on the newest snapshot or (``newest=False``) on ``parent``."""
    values = {"run_id": f"run{next(_runs)}", "fingerprints": FINGERPRINTS, "models": MODELS}
    values |= {"noise_sets": (SET,), "sources": ("a", "b")}
    return commit(store, latest_snapshot(store) if newest else parent, delta, CommitInfo(**{**values, **info}))


def caption_rows(captions: Mapping[str, str]) -> pa.Table:
    """Rows of a captions shard, sorted by num."""
    rows = [
        {"num": clip_number(id), "id": id, "source": id.partition("-")[0], "caption": text, "caption_hash": xxh64(text)}
        for id, text in captions.items()
    ]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["num"]), captions_schema(1).remove(5))


def embed(store: Store, captions: Mapping[str, str], fingerprint: str = FINGERPRINTS[CAPTIONS]) -> Receipt:
    """The receipt of a captions shard that a real model made."""
    job = CaptionsStage(CaptionOptions()).shard(caption_rows(captions), fingerprint, embedder)
    return run_job(job, BankWriter(store)).receipt


def index_job(store: Store, receipts: Sequence[Receipt], parent: Snapshot | None, **options: Any) -> ShardJob:
    """The index job of a build that made these captions shards."""
    files = tuple(file for receipt in receipts for file in receipt.files)
    fixed = {"fingerprint": FINGERPRINTS[CAPTIONS], "options": IndexOptions(), "gone": np.zeros(0, np.int64)}
    return index.IndexJob(store, files, parent or EMPTY, **{**fixed, **options}).shard()


def decoded_files(store: Store) -> dict[str, bytes]:
    """Every file of a bank by its key, the columns of Parquet files decoded."""
    files = {}
    for key in store.list(""):
        files[key] = store.read(key)
        if key.endswith(".parquet"):
            for column in pq.read_table(pa.BufferReader(files[key])).columns:
                buffers = [buffer for chunk in column.chunks for buffer in chunk.buffers()]
                files[key] += b"".join(buffer.to_pybytes() for buffer in buffers if buffer)
    return files


def _remove(store: Store, folder: str) -> None:
    for key in store.list(folder):
        store.delete(key)
