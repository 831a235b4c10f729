"""What comes out of a shard of a stage."""

from __future__ import annotations

from dataclasses import dataclass

from noisebank.receipts import Receipt


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
