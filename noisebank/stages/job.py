"""A shard of a stage, made at most once: whoever made it left a receipt, which is looked for first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from noisebank.errors import JobFailed, RowFailure
from noisebank.format.receipts import Failure, Receipt, find_receipt, finish
from noisebank.format.stage_names import StageName
from noisebank.storage import BankWriter, FileEntry

UPSCALED, TRUNCATED = "upscaled", "truncated"
NOTED = (UPSCALED, TRUNCATED)
"""What the ``info`` of a receipt counts of its good rows, where there are any: clips whose video was smaller than they
are, captions longer than the model reads."""


@dataclass(frozen=True)
class Made:
    """What came of a shard.

    Args:
        files: the data files written, none where every row failed.
        rows: good rows.
        failures: all rows that failed.
        info: what else the next stages or the manifest need, in plain JSON.
        note: what else the log is to say of it.
    """

    files: tuple[FileEntry, ...]
    rows: int
    failures: tuple[Failure, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class ShardJob:
    """One shard of a stage to make.

    Args:
        stage: name of the stage.
        fingerprint: of the stage's options and model.
        inputs: hash of everything that the shard is made of (:func:`noisebank.format.receipts.inputs_hash`).
        size: rows that it is made of.
        make: makes the shard and stores its files.
    """

    stage: str
    fingerprint: str
    inputs: str
    size: int
    make: Callable[[BankWriter], Made]


@dataclass(frozen=True)
class Finished:
    """A finished shard.

    Args:
        receipt: what it was made of and what came of it.
        made: whether this call made it; False where an earlier receipt, or another writer's, was found.
        seconds: wall time that it took here.
        note: as of :class:`Made`, where this call made it.
    """

    receipt: Receipt
    made: bool
    seconds: float
    note: str = ""


def run_job(job: ShardJob, writer: BankWriter, make: bool = True, verify: bool = True) -> Finished:
    """Finds the receipt of a shard, or makes the shard.

    Args:
        job: the shard.
        writer: of the bank.
        make: whether a missing shard is made.
        verify: whether what is found is read again and compared, and damaged work counts as missing. Not where it is
            the work of an earlier stage, whose readers notice damage.

    Raises:
        JobFailed: the shard is missing and not to be made.
    """
    began = time.perf_counter()
    receipt = find_receipt(writer.store, job.stage, job.inputs, verify=verify)
    is_made, note = False, ""
    if receipt is None:
        if not make:
            kind = StageName.parse(job.stage).kind
            raise JobFailed(
                f"{job.stage}: a shard of {job.size} rows is not finished; run 'noisebank {kind}' or 'build' with the "
                "same configuration first"
            )
        made = job.make(writer)
        own = Receipt(job.stage, job.inputs, job.fingerprint, made.files, made.rows, made.failures, made.info)
        receipt = finish(writer.store, own)
        is_made, note = receipt == own, made.note
    return Finished(receipt, is_made, time.perf_counter() - began, note)


def stage_figures(finished: Iterable[Finished]) -> dict[str, dict[str, float]]:
    """What shards came to, stage by stage: rows ``done`` here, ``skipped`` (made earlier) and ``failed``; ``seconds``
    of work, over all workers; and of :data:`NOTED` what there was."""
    stages: dict[str, dict[str, float]] = {}
    for item in finished:
        add_figures(stages, item.receipt, item.made, item.seconds, len(item.receipt.failures))
    return dict(sorted(stages.items()))


def add_figures(stages: dict[str, dict[str, float]], receipt: Receipt, made: bool, seconds: float, failed: int) -> None:
    """Counts one shard in the figures of :func:`stage_figures`."""
    figures = stages.setdefault(receipt.stage, {"done": 0, "skipped": 0, "failed": 0, "seconds": 0.0})
    figures["done" if made else "skipped"] += receipt.rows
    for what in NOTED:
        if what in receipt.info:
            figures[what] = figures.get(what, 0) + receipt.info[what]
    figures["failed"] += failed
    figures["seconds"] = round(figures["seconds"] + seconds, 3)


def failure_of(row: Mapping[str, Any], stage: str, failure: RowFailure) -> Failure:
    """The record of a row that failed; ``row`` has num, id, source (its name), uri and attempt."""
    known = (row["num"], row["id"], row["source"], row["uri"], stage)
    return Failure(*known, failure.code, failure.message, failure.retryable, row["attempt"])
