"""From a list of prompts to shards: what is rewritten already is kept, the rest is cut and asked about.

Shards are cut from the list alone. So a run that was killed finds the receipts of its own shards, and of a list that
changed only shards with new prompts are made again, in which the rows that are known are taken over unasked.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisebank.errors import JobFailed, SnapshotConflict
from noisebank.format.reading import BUILD_AGAIN, PARQUET, read_table, reading
from noisebank.format.receipts import Receipt, find_receipt, find_receipts, inputs_hash, list_receipts
from noisebank.rewriting.options import RewriteOptions
from noisebank.rewriting.published import Manifest, Shard, latest_manifest
from noisebank.rewriting.shard import REWRITES, WORK
from noisebank.storage import FileEntry, Store
from noisebank.storage.files import is_intact

_RETRIED = "endpoint"
"""Code of what the next run asks about again: it was none of the prompt's fault."""
_FOLDER = "plans"
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
        published: what the newest manifest has of it, if that is still to hold.
        inputs: otherwise, of the job that makes it.
        row_group: of the plan's file, if the job is still to do.
    """

    prompts: str
    published: Shard | None = None
    inputs: str = ""
    row_group: int | None = None


@dataclass(frozen=True)
class RewritePlan:
    """What a run sets out to do.

    Args:
        parent: the newest manifest, refused or not.
        pieces: of the list, in its order.
        others: published shards with prompts that are not in the list, which stay.
        fingerprint: of options and model.
        path: of the file with the rows of what is to do; after a kill it is there even if nothing is.
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
        return [piece for piece in self.pieces if piece.row_group is not None]


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
    parent = latest_manifest(out, refused=True) or Manifest()
    rows = _distinct(prompts.to_pylist())
    groups = [rows[i : i + options.maxcount] for i in range(0, len(rows), options.maxcount)]
    intact = [shard for shard in parent.shards if shard.fingerprint == fingerprint and is_intact(out, shard.file)]
    usable = {shard.prompts: shard for shard in intact if refresh is None and _RETRIED not in shard.failed}
    pieces = [Piece(key, usable.get(key)) for key in map(_hash, groups)]
    missing = [i for i, piece in enumerate(pieces) if piece.published is None]
    wanted = pa.array({row["prompt"] for i in missing for row in groups[i] if not row["invalid"]}, pa.string())
    published = _read_known(out, [shard.file for shard in intact], wanted)
    mode = fingerprint if refresh is None else f"{fingerprint} refreshed by snapshot {refresh}"
    for i in missing:
        pieces[i] = replace(pieces[i], inputs=_inputs(mode, groups[i], published))
    todo = [i for i in missing if not _is_finished(out, pieces[i].inputs, parent)]
    path = f"{_FOLDER}/{inputs_hash(mode, pa.array([pieces[i].inputs for i in missing], pa.string()))}{PARQUET}"
    if todo:
        unpublished = _read_known(out, _unpublished_files(out, fingerprint, parent), wanted)
        _write_work(out, path, [groups[i] for i in todo], unpublished | published)
        for row_group, i in enumerate(todo):
            pieces[i] = replace(pieces[i], row_group=row_group)
    others = _others(out, parent, pieces, pa.array({row["prompt"] for row in rows}, pa.string()))
    counts = {"read": len(prompts), "duplicate": len(prompts) - len(rows)}
    return RewritePlan(parent, tuple(pieces), others, fingerprint, path, counts)


def read_work(out: Store, path: str, row_group: int) -> pa.Table:
    """The rows of one shard of a plan (:data:`.shard.WORK`); BankDamaged if its file is gone or damaged."""
    with reading(path, BUILD_AGAIN), out.open(path) as file:
        return pq.ParquetFile(file).read_row_group(row_group)


def publish_rewrites(out: Store, plan: RewritePlan, max_failed: float) -> Manifest:
    """Publishes what the finished shards of a plan came to; the newest manifest stays where nothing is another.

    Raises:
        JobFailed: more than ``max_failed`` of the prompts have no rewrite; what is made is kept for the next run.
        SnapshotConflict: another run has published meanwhile.
        BankDamaged: a finished shard is gone.
    """
    receipts = find_receipts(out, [(REWRITES, piece.inputs) for piece in plan.pieces if not piece.published])
    own = [piece.published or _shard(piece.prompts, next(receipts)) for piece in plan.pieces]
    failed: Counter[str] = sum((Counter(shard.failed) for shard in own), Counter())
    rows, problem = plan.counts["read"] - plan.counts["duplicate"], ""
    if failed.total() > max_failed * rows:
        codes = ", ".join(f"{count} {code}" for code, count in failed.most_common())
        problem = (
            f"{failed.total()} of {rows} prompts have no rewrite ({codes}), max_failed is {max_failed:g}: nothing is "
            "published. Raise it, or mend the cause, and run the same command again; what is done is kept"
        )
    manifest = replace(plan.parent, shards=(*plan.others, *own), refused=problem)
    if manifest != plan.parent:
        manifest = replace(manifest, number=plan.parent.number + 1)
        if not out.create(manifest.path, manifest.to_bytes()):
            raise SnapshotConflict(f"{out.url}: another run published {manifest.path} meanwhile; run it again")
    if problem:
        raise JobFailed(problem)
    return manifest


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


def _inputs(mode: str, group: list[_Row], published: Mapping[str, _Known]) -> str:
    """What a job follows from: its prompts, and what is published of them. What an unpublished shard has of them saves
    questions, but a run that was never killed would not have found it."""
    known = [published.get(row["prompt"]) for row in group]
    places = pa.array([one and one.place for one in known], pa.string())
    return inputs_hash(mode, pa.array([_hash(group)]), places)


def _is_finished(out: Store, inputs: str, parent: Manifest) -> bool:
    """Whether a shard has a receipt. One that says what is published, and to be tried again, is of an earlier try: it
    is removed."""
    receipt = find_receipt(out, REWRITES, inputs, verify=True)
    if receipt is None:
        return False
    if {*receipt.files} & {shard.file for shard in parent.shards if _RETRIED in shard.failed}:
        out.delete(receipt.path)
        return False
    return True


def _read_known(out: Store, files: Iterable[FileEntry], wanted: pa.Array) -> dict[str, _Known]:
    """What files have of the prompts that are wanted; the last one holds."""
    known: dict[str, _Known] = {}
    for file in files if len(wanted) else ():
        table = read_table(out, file.path, remedy=BUILD_AGAIN)
        table = table.append_column("place", pa.array([f"{file.path} {i}" for i in range(len(table))]))
        found = table.filter(pc.is_in(table.column("prompt"), value_set=wanted))
        known |= {row["prompt"]: _Known(row.pop("place"), row) for row in found.to_pylist()}
    return known


def _unpublished_files(out: Store, fingerprint: str, parent: Manifest) -> Iterator[FileEntry]:
    """The files of finished shards of this model and these options that no manifest names yet."""
    named = {shard.file.path for shard in parent.shards}
    for inputs in list_receipts(out, REWRITES):
        receipt = find_receipt(out, REWRITES, inputs, verify=True)
        if receipt and receipt.fingerprint == fingerprint:
            yield from (file for file in receipt.files if file.path not in named)


def _write_work(out: Store, path: str, groups: Iterable[list[_Row]], known: Mapping[str, _Known]) -> None:
    """Stores the rows of shards to make, each a row group."""
    with tempfile.TemporaryDirectory(prefix="noisebank-rewrite-") as scratch:
        file = Path(scratch, "work.parquet")
        with pq.ParquetWriter(file, WORK) as writer:
            for group in groups:
                rows = []
                for row in group:
                    found = None if row["invalid"] else known.get(row["prompt"])
                    usable = found is not None and found.row["code"] != _RETRIED
                    rows.append({**(found.row if found and usable else {}), **row, "known": usable})
                writer.write_table(pa.Table.from_pylist(rows, WORK))
        out.upload(file, path)


def _others(out: Store, parent: Manifest, pieces: Iterable[Piece], listed: pa.Array) -> tuple[Shard, ...]:
    """The published shards in which there are prompts that the list does not have."""
    own = {piece.prompts for piece in pieces}
    others = []
    for shard in parent.shards:
        if shard.prompts in own:
            continue
        if not is_intact(out, shard.file):
            _log.warning("%s: missing or damaged; prompts in it that are not in this list are lost", shard.file.path)
        else:
            prompts = read_table(out, shard.file.path, ["prompt"], remedy=BUILD_AGAIN).column("prompt")
            if not pc.all(pc.is_in(prompts, value_set=listed)).as_py():
                others.append(shard)
    return tuple(others)
