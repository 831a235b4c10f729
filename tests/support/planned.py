"""Builds without Beam, models or videos: real plans, shards of made-up content, real commits; for tests of planning."""

from __future__ import annotations

import csv
import hashlib
import itertools
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo
from noisebank.commits.publishing import BuildResult
from noisebank.config import config_from_mapping
from noisebank.format.manifest import Snapshot, latest_snapshot
from noisebank.format.receipts import Failure, Receipt, finish, inputs_hash
from noisebank.format.schemas import CLIPS, LISTED, ROWS
from noisebank.format.tables import OverlayTable
from noisebank.options import Config
from noisebank.planning.assemble import ReadRange, assemble, scanned, write_partition
from noisebank.planning.claims import CLAIMS, read_claims
from noisebank.planning.cut import Task
from noisebank.planning.diff import Rules
from noisebank.planning.listing import rows_digest
from noisebank.planning.parent import Parent
from noisebank.planning.plan import Plan, plan_path, read_plan, read_task, write_plan
from noisebank.planning.reduce import reduce_partition
from noisebank.planning.spill import SpilledBatch, partition_range, read_batch, spill
from noisebank.planning.survey import survey
from noisebank.sources import cut_ranges, read_range
from noisebank.storage import BankWriter, FileEntry, open_store

FINGERPRINTS = {"clips": "c1", "captions": "t1", "noise/toy": "n1"}
HEADER = ["videoid", "contentUrl", "duration", "page_dir", "name"]
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


@dataclass
class Broken:
    """What fails in a build: failures by id, ``(code, retryable)``."""

    clips: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    noise: Mapping[str, tuple[str, bool]] = field(default_factory=dict)


class Bank:
    """A bank in a local folder, built from lists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = open_store(folder / "bank")
        self.fingerprints: dict[str, str] = FINGERPRINTS
        self.now = 0.0

    def config(self, sources: Any, **options: Any) -> Config:
        """A configuration: ``sources`` is a path of a WebVid list, or the list of sources."""
        if not isinstance(sources, list):
            sources = [{"kind": "webvid", "path": str(sources)}]
        return config_from_mapping({"bank": str(self.folder / "bank"), "sources": sources, **options})

    def plan(self, sources: Any, range_bytes: int = 1 << 24, bits: int | None = None, **options: Any) -> Plan:
        """The plan of a build of ``sources``; all steps of ``transforms/plan.py`` one after the other."""
        config, store = self.config(sources, **options), self.store
        fingerprints = self.fingerprints
        found = survey(config, fingerprints, store, store, self.now)
        if bits is not None:
            object.__setattr__(found, "bits", bits)
        pieces: dict[int, list[SpilledBatch]] = {}
        ranges = []
        for number, file in enumerate(found.lists):
            for part in cut_ranges(file, number, range_bytes):
                for table in read_range(file, part, list(found.headers[number]), found.base(number)):
                    rows = table.cast(LISTED)
                    key = f"{found.spill}/{len(ranges)}"
                    for partition, piece in spill(store, key, rows, found.bits):
                        pieces.setdefault(partition, []).append(piece)
                    ranges.append(ReadRange(rows.column("position")[0].as_py(), rows.num_rows, rows_digest(rows)))
        scan = scanned(ranges, config, found)
        if store.exists(plan_path(scan.hash)):
            return read_plan(store, plan_path(scan.hash))
        claims = read_claims(store, list(enumerate(found.receipts)), found.stages, fingerprints)
        parent = Parent(store, found.parent, fingerprints)
        rules = Rules(found.due, config.retry_failures, list(found.sources), config.prune)
        files = []
        for partition in range(1 << found.bits):
            lo, hi = partition_range(partition, found.bits)
            listed = pa.Table.from_batches([read_batch(store, p, LISTED) for p in pieces.get(partition, [])], LISTED)
            nums = claims.column("num").to_numpy()
            ours = claims.filter((nums >= lo) & (nums < hi)).cast(CLAIMS)
            reduced = reduce_partition(listed, ours, parent, lo, hi, rules, found.stages, found.sources)
            files.append(write_partition(store, partition, reduced, scan, found))
        plan = assemble(store, store, files, scan, found, config, {})
        write_plan(store, plan)
        return read_plan(store, plan.path)

    def make(
        self, plan: Plan, broken: Broken | None = None, stages: Collection[str] = ("clips", "captions", "noise")
    ) -> list[Receipt]:
        """Carries out the tasks of a plan, as far as ``stages``; content is made up from ids."""
        broken = broken or Broken()
        receipts: list[Receipt] = []
        made: list[tuple[Task, Receipt]] = []
        with tempfile.TemporaryDirectory() as scratch:
            work = _Work(self, plan, Path(scratch), broken)
            if "clips" in stages:
                made = [(task, work.clips(task)) for task in plan.tasks["clips"]]
                receipts += [receipt for _, receipt in made]
            if "captions" in stages:
                receipts += [work.captions(task) for task in plan.tasks["captions"]]
                receipts += [work.captions(task, clips) for task, clips in made]
            if "noise" in stages:
                for name in plan.noise_sets:
                    receipts += [
                        work.noise(name, task.tar, read_task(self.store, task)) for task in plan.tasks[f"noise/{name}"]
                    ]
                    receipts += [work.noise(name, clips.files[0].path) for _, clips in made if clips.rows]
        return receipts

    def commit(self, plan: Plan, receipts: list[Receipt]) -> Snapshot | None:
        """Publishes what was made of a plan."""
        parent = latest_snapshot(self.store)
        names = tuple(plan.source_names.values())
        info = CommitInfo(
            f"run{next(_runs)}",
            fingerprints=plan.fingerprints,
            sources=names,
            noise_sets=plan.noise_sets,
        )
        shards = [(receipt.stage, receipt.inputs) for receipt in receipts]
        with BuildResult(self.store, plan, parent, shards) as result:
            return commit(self.store, parent, result.delta(), info)

    def build(self, sources: Any, broken: Broken | None = None, **options: Any) -> Plan:
        """A whole build; returns its plan."""
        plan = self.plan(sources, **options)
        self.commit(plan, self.make(plan, broken))
        return plan

    def rows(self) -> dict[int, dict[str, Any]]:
        """The rows of the newest snapshot by number."""
        snapshot = latest_snapshot(self.store)
        table = OverlayTable(self.store, snapshot.rows).read() if snapshot else ROWS.empty_table()
        return {row["num"]: row for row in table.to_pylist()}

    def failures(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The failures that hold, by id and stage."""
        snapshot = latest_snapshot(self.store)
        if snapshot is None or not snapshot.failures:
            return {}
        table = OverlayTable(self.store, snapshot.failures, ("num", "stage")).read()
        return {(row["id"], row["stage"]): row for row in table.to_pylist() if row["code"]}

    def delta(self, plan: Plan, name: str = "rows") -> list[dict[str, Any]]:
        """The rows of a delta of a plan: ``rows``, ``failures``, or ``records/<set>``."""
        entries = plan.changes.get(name, ())
        tables = [OverlayTable(self.store, [entry]).read() for entry in entries]
        return [row for table in tables for row in table.to_pylist()]

    def todo(self, plan: Plan, stage: str) -> list[dict[str, Any]]:
        """The rows of all tasks of a stage."""
        return [row for task in plan.tasks[stage] for row in read_task(self.store, task).to_pylist()]

    def todo_ids(self, plan: Plan) -> dict[str, list[str]]:
        """Sorted ids to do by stage; stages with nothing to do are left out."""
        ids = {stage: sorted(row["id"] for row in self.todo(plan, stage)) for stage in plan.tasks}
        return {stage: found for stage, found in ids.items() if found}


@dataclass
class _Work:
    bank: Bank
    plan: Plan
    scratch: Path
    broken: Broken

    def clips(self, task: Task) -> Receipt:
        rows = read_task(self.bank.store, task)
        entries, failures = [], []
        for row in rows.to_pylist():
            entry = {name: row[name] for name in ("num", "id", "uri", "caption", "video", "caption_hash", "attempt")}
            entry |= {"source": self.plan.source_names[row["source"]], "clip_row": -1}
            if row["id"] in self.broken.clips:
                code, retryable = self.broken.clips[row["id"]]
                entry |= {"code": code, "message": f"{code} of {row['id']}", "retryable": retryable}
                failures.append(_failure(entry, "clips"))
            else:
                entry["clip_row"] = sum(e["clip_row"] >= 0 for e in entries)
                entry["sha256"] = hashlib.sha256(f"{row['video']}".encode()).hexdigest()
            entries.append(entry)
        good = len(entries) - len(failures)
        sidecar, tar = self.scratch / "x.parquet", self.scratch / "x.tar"
        pq.write_table(pa.Table.from_pylist(entries, CLIPS), sidecar)
        tar.write_text("".join(entry["sha256"] for entry in entries if entry["clip_row"] >= 0))
        paths = [(tar, good)] if good else []
        files = self._store([*paths, (sidecar, len(entries))], "clips")
        columns = [rows.column(name) for name in ("id", "uri", "start_ms", "end_ms", "caption", "attempt")]
        fingerprint = self.plan.fingerprints["clips"]
        inputs = inputs_hash(fingerprint, *columns)
        return finish(self.bank.store, Receipt("clips", inputs, fingerprint, files, good, tuple(failures)))

    def captions(self, task: Task, clips: Receipt | None = None) -> Receipt:
        rows = read_task(self.bank.store, task).to_pylist()
        if clips is not None:
            with self.bank.store.open(clips.files[-1].path) as file:
                sidecar = pq.read_table(file).to_pylist()
            good = {row["num"] for row in sidecar if row["clip_row"] >= 0}
            rows = [row for row in rows if row["embed"] and row["num"] in good]
        path = self.scratch / "captions.parquet"
        names = ("num", "id", "caption", "caption_hash")
        schema = pa.schema(
            [("num", pa.int64()), ("id", pa.string()), ("caption", pa.string()), ("caption_hash", pa.uint64())]
        )
        table = pa.Table.from_pylist([{name: row[name] for name in names} for row in rows], schema)
        pq.write_table(table, path)
        files = self._store([(path, len(rows))], "captions") if rows else ()
        fingerprint = self.plan.fingerprints["captions"]
        inputs = inputs_hash(fingerprint, table.column("id"), table.column("caption"))
        return finish(self.bank.store, Receipt("captions", inputs, fingerprint, files, len(rows)))

    def noise(self, name: str, tar: str, wanted: pa.Table | None = None) -> Receipt:
        with self.bank.store.open(tar.replace(".tar", ".parquet")) as file:
            clips = [row for row in pq.read_table(file).to_pylist() if row["clip_row"] >= 0]
        attempts = dict.fromkeys((row["num"] for row in clips), 1)
        if wanted is not None:
            attempts = dict(zip(wanted.column("num").to_pylist(), wanted.column("attempt").to_pylist(), strict=True))
            clips = [row for row in clips if row["num"] in attempts]
        failures, good = [], []
        for row in clips:
            if row["id"] in self.broken.noise:
                code, retryable = self.broken.noise[row["id"]]
                known = row | {"code": code, "message": "", "retryable": retryable, "attempt": attempts[row["num"]]}
                failures.append(_failure(known, f"noise/{name}"))
            else:
                good.append(row)
        files: tuple[FileEntry, ...] = ()
        if good:
            path = self.scratch / "noise.arrow"
            nums = [row["num"] for row in good]
            checksums = pa.array([int(row["sha256"][:15], 16) for row in good], pa.uint64())
            table = pa.table({"num": pa.array(nums, pa.int64()), "checksum": checksums})
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
            files = self._store([(path, len(good))], f"noise/{name}")
        fingerprint = self.plan.fingerprints[f"noise/{name}"]
        identity = pa.array([f"{row['id']} {row['sha256']} {attempts[row['num']]}" for row in clips])
        receipt = Receipt(
            f"noise/{name}",
            inputs_hash(fingerprint, identity),
            fingerprint,
            files,
            len(good),
            tuple(failures),
            {"tar": tar},
        )
        return finish(self.bank.store, receipt)

    def _store(self, paths: list[tuple[Path, int]], folder: str) -> tuple[FileEntry, ...]:
        return BankWriter(self.bank.store).group([(path, path.suffix, rows) for path, rows in paths], folder)


def _failure(row: Mapping[str, Any], stage: str) -> Failure:
    values = (row[name] for name in ("code", "message", "retryable", "attempt"))
    return Failure(row["num"], row["id"], row["source"], row["uri"], stage, *values)
