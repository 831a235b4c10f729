"""What comes out of a shard of a stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from noisebank.errors import RowFailure
from noisebank.format.receipts import Failure, Receipt


@dataclass(frozen=True)
class Finished:
    """A finished shard.

    Args:
        receipt: what it was made of and what came of it.
        made: whether this call made it; False where an earlier receipt was found or another writer's adopted.
        seconds: wall time that it took here.
    """

    receipt: Receipt
    made: bool
    seconds: float


def stage_figures(finished: Iterable[Finished]) -> dict[str, dict[str, float]]:
    """What shards came to, stage by stage: rows ``done`` here, ``skipped`` (made earlier) and ``failed``; ``seconds``
    of work, over all workers."""
    stages: dict[str, dict[str, float]] = {}
    for item in finished:
        receipt = item.receipt
        figures = stages.setdefault(receipt.stage, {"done": 0, "skipped": 0, "failed": 0, "seconds": 0.0})
        figures["done" if item.made else "skipped"] += receipt.rows
        figures["failed"] += len(receipt.failures)
        figures["seconds"] = round(figures["seconds"] + item.seconds, 3)
    return dict(sorted(stages.items()))


def failure_of(row: Mapping[str, Any], stage: str, failure: RowFailure) -> Failure:
    """The record of a row that failed; ``row`` has num, id, source (its name), uri and attempt."""
    return Failure(
        num=row["num"],
        id=row["id"],
        source=row["source"],
        uri=row["uri"],
        stage=stage,
        code=failure.code,
        message=failure.message,
        retryable=failure.retryable,
        attempts=row["attempt"],
    )
