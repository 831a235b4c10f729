"""From a list of prompts to shards: what is rewritten already is kept, the rest is cut and asked about.

Shards are cut from the list alone. So a run that was killed finds the receipts of its own shards, and of a list that
changed only shards with new prompts are made again, in which the rows that are known are taken over unasked.
"""

from __future__ import annotations

import json
import logging
import tempfile
import uuid
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from noisebank.errors import BankDamaged, JobFailed, SnapshotConflict
from noisebank.format.reading import BUILD_AGAIN, read_table, reading
from noisebank.format.receipts import Receipt, find_receipt, find_receipts, inputs_hash, list_receipts
from noisebank.rewriting.options import RewriteOptions
from noisebank.rewriting.published import Manifest, Shard, latest_manifest
from noisebank.rewriting.shard import REWRITES, WORK
from noisebank.storage import FileEntry, Store
from noisebank.storage.files import is_intact

_RETRIED = "endpoint"
"""Code of what the next run asks about again: it was none of the prompt's fault."""
_FOLDER = "plans"
_JOBS = b"inputs"
_RUN_AGAIN = "run the same command again, which plans anew"
_log = logging.getLogger(__name__)
_Row = dict[str, Any]


class _Known(NamedTuple):
    """A row of rewrites, and the place where it stands."""

    place: str
    row: _Row


@dataclass(frozen=True)
class Piece:
    """A shard of the list.

    Args:
        prompts: hash of its prompts.
        size: rows in it.
        published: what a manifest has of it, if that is still to hold.
        inputs: otherwise, of the job that makes it.
        batch: of the plan's file, if the job is still to do.
    """

    prompts: str
    size: int
    published: Shard | None = None
    inputs: str = ""
    batch: int | None = None


@dataclass(frozen=True)
class RewritePlan:
    """What a run sets out to do.

    Args:
        parent: the newest manifest, refused or not.
        pieces: of the list, in its order.
        others: published shards with prompts that are not in the list, which stay.
        fingerprint: of options and model.
        path: of the file with the rows of what is to do, which no other run has.
        counts: rows ``read``, and ``duplicate`` ones.
    """

    parent: Manifest
    pieces: tuple[Piece, ...]
    others: tuple[Shard, ...]
    fingerprint: str
    path: str
    counts: Mapping[str, int]

    @property
    def todo(self) -> list[Piece]:
        """The pieces to make."""
        return [piece for piece in self.pieces if piece.batch is not None]


def plan_rewrites(
    out: Store, prompts: pa.Table, options: RewriteOptions, fingerprint: str, refresh: int | None = None
) -> RewritePlan:
    """Compares a list with what is published, and writes down what is to do.

    Args:
        out: folder of the rewrites.
        prompts: the list (:func:`noisebank.prompts.read_prompts`).
        options: of the job.
        fingerprint: of options and model.
        refresh: number of the bank's snapshot by whose captions published rows are made again; None: they stay.
    """
    parent, holds = latest_manifest(out, refused=True) or Manifest(), latest_manifest(out) or Manifest()
    named = {shard.file.path: shard for shard in (*holds.shards, *parent.shards)}
    rows = _distinct(prompts.to_pylist())
    groups = [rows[i : i + options.maxcount] for i in range(0, len(rows), options.maxcount)]
    intact = [shard for shard in named.values() if shard.fingerprint == fingerprint and is_intact(out, shard.file)]
    usable = {shard.prompts: shard for shard in intact if refresh is None and _RETRIED not in shard.failed}
    pieces = [Piece(key := _hash(group), len(group), usable.get(key)) for group in groups]
    missing = [i for i, piece in enumerate(pieces) if piece.published is None]
    wanted = {row["prompt"] for i in missing for row in groups[i] if not row["invalid"]}
    published = _read_known(out, [shard.file for shard in intact], wanted)
    mode = fingerprint if refresh is None else f"{fingerprint} refreshed by snapshot {refresh}"
    tried = {*list_receipts(out, REWRITES)} if missing else set()
    todo: list[int] = []
    for i in missing:
        inputs, is_finished = _newest_try(out, mode, groups[i], published, tried)
        pieces[i] = replace(pieces[i], inputs=inputs, batch=None if is_finished else len(todo))
        todo += [] if is_finished else [i]
    jobs = [pieces[i].inputs for i in todo]
    path = f"{_FOLDER}/{inputs_hash(mode, pa.array(jobs, pa.string()))}-{uuid.uuid4().hex}.arrow"
    if todo:
        unpublished = _read_known(out, _unpublished_files(out, fingerprint, named), wanted)
        _write_work(out, path, jobs, [groups[i] for i in todo], unpublished | published)
    others = _others(out, holds, pieces, {row["prompt"] for row in rows})
    counts = {"read": len(prompts), "duplicate": len(prompts) - len(rows)}
    return RewritePlan(parent, tuple(pieces), others, fingerprint, path, counts)


def read_work(out: Store, path: str, piece: Piece) -> pa.Table:
    """The rows of one shard of a plan (:data:`.shard.WORK`); BankDamaged if its file is gone or damaged, or has other
    prompts there."""
    with reading(path, _RUN_AGAIN), out.open(path) as file:
        rows = pa.Table.from_batches([pa.ipc.open_file(file).get_batch(piece.batch or 0)])
    if _hash(rows.select(["prompt", "invalid"]).to_pylist()) != piece.prompts:
        raise BankDamaged(f"{path}: batch {piece.batch} has other prompts than were planned; {_RUN_AGAIN}")
    return rows


def remove_finished_work(out: Store) -> None:
    """Removes the files of plans, of this run and of killed ones, whose shards are all finished."""
    finished = {*list_receipts(out, REWRITES)}
    for path in out.list(_FOLDER):
        try:
            with reading(path, _RUN_AGAIN), out.open(path) as file:
                jobs = json.loads((pa.ipc.open_file(file).schema.metadata or {}).get(_JOBS, b"[]"))
        except BankDamaged as error:
            _log.warning("left alone: %s", error)
            continue
        if finished.issuperset(jobs):
            out.delete(path)


def publish_rewrites(out: Store, plan: RewritePlan, max_failed: float) -> Manifest:
    """Publishes what the finished shards of a plan came to; the newest manifest stays where nothing is another.

    Raises:
        JobFailed: more than ``max_failed`` of the prompts have no rewrite; what is made is kept for the next run.
        SnapshotConflict: another run has published meanwhile.
        BankDamaged: a finished shard is gone.
    """
    receipts = find_receipts(out, [(REWRITES, piece.inputs) for piece in plan.pieces if not piece.published])
    own = [piece.published or _shard(piece.prompts, next(receipts)) for piece in plan.pieces]
    failed = count_failed(own)
    rows, problem = plan.counts["read"] - plan.counts["duplicate"], ""
    if failed.total() > max_failed * rows:
        codes = ", ".join(f"{count} {code}" for code, count in failed.most_common())
        problem = (
            f"{failed.total()} of {rows} prompts have no rewrite ({codes}), max_failed is {max_failed:g}: nothing is "
            f"published. Raise it and run the same command again, which asks about rows of code {_RETRIED!r} alone; "
            "with another model, or into another folder, all are asked about"
        )
    manifest = replace(plan.parent, shards=(*plan.others, *own), refused=problem)
    if manifest != plan.parent:
        manifest = replace(manifest, number=plan.parent.number + 1)
        if not out.create(manifest.path, manifest.to_bytes()):
            raise SnapshotConflict(f"{out.url}: another run published {manifest.path} meanwhile; run it again")
    if problem:
        raise JobFailed(problem)
    return manifest


def count_failed(shards: Iterable[Shard]) -> Counter[str]:
    """Rows without a rewrite in some shards, by code."""
    return sum((Counter(shard.failed) for shard in shards), Counter())


def _shard(prompts: str, receipt: Receipt) -> Shard:
    codes = Counter(failure.code for failure in receipt.failures)
    return Shard(prompts, receipt.fingerprint, receipt.files[0], dict(sorted(codes.items())))


def _distinct(rows: Iterable[_Row]) -> list[_Row]:
    """The rows without those whose prompt was there before; of rows that cannot be used, all."""
    seen: set[str] = set()
    distinct = []
    for row in rows:
        if row["invalid"] or row["prompt"] not in seen:
            distinct.append(row)
        if not row["invalid"]:
            seen.add(row["prompt"])
    return distinct


def _hash(group: list[_Row]) -> str:
    return inputs_hash("", *(pa.array([row[name] for row in group], pa.string()) for name in ("prompt", "invalid")))


def _newest_try(
    out: Store, mode: str, group: list[_Row], published: Mapping[str, _Known], tried: Set[str]
) -> tuple[str, bool]:
    """The inputs of a job's newest try, and whether that is finished.

    A job follows from its prompts, what is published of them, and how often it was tried: receipts stay, and after one
    with rows to be asked about again there is another try. What an unpublished shard has of the prompts saves
    questions, but a run that was never killed would not have found it.
    """
    known = [published.get(row["prompt"]) for row in group]
    places = pa.array([one and one.place for one in known], pa.string())
    content = mode, pa.array([_hash(group)]), places
    tries = takewhile(tried.__contains__, (inputs_hash(*content, pa.array([number])) for number in count()))
    number = max(sum(1 for _ in tries) - 1, 0)
    inputs = inputs_hash(*content, pa.array([number]))
    receipt = find_receipt(out, REWRITES, inputs, verify=True)
    if receipt and any(failure.code == _RETRIED for failure in receipt.failures):
        return inputs_hash(*content, pa.array([number + 1])), False
    return inputs, receipt is not None


def _read_known(out: Store, files: Iterable[FileEntry], wanted: Set[str]) -> dict[str, _Known]:
    """What files have of the prompts that are wanted, but for what is to be asked again; the last one holds."""
    known: dict[str, _Known] = {}
    for file in files if wanted else ():
        for i, row in enumerate(read_table(out, file.path, remedy=BUILD_AGAIN).to_pylist()):
            if row["prompt"] in wanted and row["code"] != _RETRIED:
                known[row["prompt"]] = _Known(f"{file.path} {i}", row)
    return known


def _unpublished_files(out: Store, fingerprint: str, named: Container[str]) -> Iterator[FileEntry]:
    """The files of finished shards of this model and these options but for those that are ``named``."""
    for inputs in list_receipts(out, REWRITES):
        receipt = find_receipt(out, REWRITES, inputs, verify=True)
        if receipt and receipt.fingerprint == fingerprint:
            yield from (file for file in receipt.files if file.path not in named)


def _write_work(
    out: Store, path: str, jobs: list[str], groups: Iterable[list[_Row]], known: Mapping[str, _Known]
) -> None:
    """Stores the rows of jobs to do, each a batch, with the jobs' inputs."""
    schema = WORK.with_metadata({_JOBS: json.dumps(jobs)})
    with tempfile.TemporaryDirectory(prefix="noisebank-rewrite-") as scratch:
        file = Path(scratch, "work.arrow")
        with pa.ipc.new_file(file, schema) as writer:
            for group in groups:
                rows = []
                for row in group:
                    found = None if row["invalid"] else known.get(row["prompt"])
                    rows.append({**(found.row if found else {}), **row, "known": found is not None})
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
        out.upload(file, path)


def _others(out: Store, holds: Manifest, pieces: Iterable[Piece], listed: Set[str]) -> tuple[Shard, ...]:
    """The published shards in which there are prompts that the list does not have."""
    own = {piece.prompts for piece in pieces}
    others = []
    for shard in holds.shards:
        if shard.prompts in own:
            continue
        if not is_intact(out, shard.file):
            _log.warning("%s: missing or damaged; prompts in it that are not in this list are lost", shard.file.path)
            continue
        prompts = read_table(out, shard.file.path, ["prompt"], remedy=BUILD_AGAIN).column("prompt").to_pylist()
        if not listed >= {*prompts}:
            others.append(shard)
    return tuple(others)
