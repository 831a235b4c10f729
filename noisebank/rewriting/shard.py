"""A shard of rewrites: prompts in; a Parquet file of what they became, with the captions that were shown, out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.errors import RowFailure
from noisebank.format.receipts import Failure
from noisebank.format.schemas import REWRITE_ROWS
from noisebank.ids import clip_number
from noisebank.rewriting.options import RewriteOptions
from noisebank.rewriting.rewrite import Rewritten, rewrite
from noisebank.rewriting.template import Request, Rewriter
from noisebank.stages.job import Made, ShardJob
from noisebank.storage import BankWriter

REWRITES = "rewrites"
"""Name of the stage, and folder of its files."""
WORK = pa.schema([*REWRITE_ROWS, ("id", pa.string()), ("invalid", pa.string()), ("known", pa.bool_())])
"""What a shard is made of: prompts as listed, and the rows that are known already."""


class _Hit(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def caption(self) -> str: ...


class Captions(Protocol):
    """What is asked of a bank."""

    @property
    def snapshot(self) -> int:
        """Number of the snapshot that answers."""

    def nearest(self, prompts: Sequence[str], k: int) -> Sequence[Sequence[_Hit]]:
        """For each of the prompts at most ``k`` captions, nearest first."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings ``[N, D]`` of texts, each of length one."""


@dataclass(frozen=True)
class Tools:
    """What a worker keeps between shards.

    Args:
        captions: the bank.
        rewriter: the language model.
        model: what rows say of it.
    """

    captions: Captions
    rewriter: Rewriter
    model: str


@dataclass(frozen=True)
class RewriteShard:
    """One file of rewrites to make.

    Args:
        read: gives the rows of the shard (:data:`WORK`); called only when it is to be made.
        size: how many there are.
        options: of the job.
        load: gives bank and language model; called only when there is something to ask.
        refresh: whether rows whose captions are others by now are made again.
    """

    read: Callable[[], pa.Table]
    size: int
    options: RewriteOptions
    load: Callable[[], Tools]
    refresh: bool = False

    def job(self, inputs: str, fingerprint: str) -> ShardJob:
        """What makes it at most once, by the hash of what it was planned from, and the fingerprint of options and
        model."""
        return ShardJob(REWRITES, fingerprint, inputs, self.size, self.make)

    def make(self, writer: BankWriter) -> Made:
        """The file; ``info`` has ``asked``: prompts that the language model was asked about."""
        rows = self.read().to_pylist()
        messages: dict[int, RowFailure] = {}
        for i, row in enumerate(rows):
            if row["invalid"]:
                code, _, message = row["invalid"].partition(": ")
                messages[i] = RowFailure(code, message)
                row |= {"rewritten": row["prompt"], "code": code}
            elif row["code"]:
                messages[i] = RowFailure(row["code"], "as in an earlier run")
        asked = [i for i, row in enumerate(rows) if not row["invalid"] and (self.refresh or not row["known"])]
        if asked:
            made = self._rewrite({i: rows[i] for i in asked})
            asked = list(made)
            for i, (row, failure) in made.items():
                rows[i] |= row
                messages.pop(i, None)
                messages |= {i: failure} if failure else {}
        table = pa.Table.from_pylist(rows, REWRITE_ROWS)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        file = writer.data(memoryview(sink.getvalue()), REWRITES, ".parquet", len(rows))
        failures = [_failure(rows[i], failure) for i, failure in sorted(messages.items())]
        return Made((file,), len(rows) - len(failures), tuple(failures), {"asked": len(asked)})

    def _rewrite(self, rows: Mapping[int, Mapping[str, Any]]) -> dict[int, tuple[dict[str, Any], RowFailure | None]]:
        """New columns of those of the rows that have to be asked about, and why one has no rewrite."""
        tools, options = self.load(), self.options
        near = tools.captions.nearest([row["prompt"] for row in rows.values()], options.k)
        shown = {
            i: {"references": [hit.caption for hit in hits], "reference_ids": [hit.id for hit in hits]}
            for i, hits in zip(rows, near, strict=True)
            if not (rows[i]["known"] and rows[i]["references"] == [hit.caption for hit in hits])
        }
        requests = [
            Request(rows[i]["prompt"], columns["references"], options.max_words) for i, columns in shown.items()
        ]
        results = rewrite(requests, tools.rewriter, tools.captions.embed, options.min_similarity)
        fixed = {"snapshot": tools.captions.snapshot, "model": tools.model}
        return {
            i: ({**columns, **fixed, **_columns(result)}, result.failure)
            for (i, columns), result in zip(shown.items(), results, strict=True)
        }


def _columns(result: Rewritten) -> dict[str, Any]:
    code = result.failure.code if result.failure else None
    return {"rewritten": result.text, "code": code, "similarity": result.similarity}


def _failure(row: Mapping[str, Any], failure: RowFailure) -> Failure:
    known = (clip_number(row["id"]), row["id"], "prompts", "", REWRITES)
    return Failure(*known, failure.code, failure.message, failure.retryable, 1)
