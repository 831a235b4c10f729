"""The shards of a list of prompts, rewritten or found, by Beam's RunInference, which keeps one language model and one
open bank in a process."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from noisebank.reader.bank import NoiseBank
from noisebank.rewriting.endpoint import EndpointRewriter
from noisebank.rewriting.local_model import TransformersRewriter
from noisebank.rewriting.options import LanguageModel, RewriteOptions
from noisebank.rewriting.planning import Piece, read_work
from noisebank.rewriting.shard import RewriteShard, Tools
from noisebank.stages.stage import LazyModel
from noisebank.storage import BankWriter, open_store
from transforms.shards import ShardHandler, run_and_count
from transforms.work import step


@step
class RewritePrompts(beam.PTransform):
    """Makes the shards of a plan of rewrites, each with a receipt.

    Args:
        bank: address of the bank whose captions are shown.
        snapshot: of it.
        embedder: the bank's captions model, if that has moved.
        out: folder of the rewrites.
        plan: path of the file with the rows of the shards.
        model: the language model.
        options: of the job.
        fingerprint: of options and model.
        refresh: whether rows whose captions are others by now are made again.

    Input: :class:`~noisebank.rewriting.planning.Piece`. Output: the inputs hash of each finished shard.
    """

    bank: str
    snapshot: int
    embedder: str | None
    out: str
    plan: str
    model: LanguageModel
    options: RewriteOptions
    fingerprint: str
    refresh: bool

    def expand(self, pieces: beam.PCollection[Piece]) -> beam.PCollection[str]:
        handler = ShardHandler(self._load, self._finish, "rewrites")
        return pieces | beam.Reshuffle() | RunInference(handler) | beam.FlatMap(lambda inputs: inputs)

    def _load(self, digest: str) -> Tools:
        bank = NoiseBank.open(self.bank, self.snapshot, embedder=self.embedder)
        return Tools(bank, load_rewriter(self.model, self.options, digest), self.model.shown)

    def _finish(self, piece: Piece, model: LazyModel) -> list[str]:
        out = open_store(self.out)
        digest = self.model.digest
        shard = RewriteShard(
            lambda: read_work(out, self.plan, piece),
            piece.size,
            self.options,
            lambda: model.get(digest),
            self.refresh,
        )
        job = shard.job(piece.inputs, self.fingerprint)
        return [run_and_count(job, BankWriter(out), make=True, verify=True).receipt.inputs]


def load_rewriter(
    model: LanguageModel, options: RewriteOptions, digest: str
) -> TransformersRewriter | EndpointRewriter:
    """The rewriter of a job; a local model must have the digest that was planned with."""
    if not model.endpoint:
        return TransformersRewriter(model.model, batch_size=options.batch_size, digest=digest)
    limits: dict[str, Any] = {name: getattr(options, name) for name in ("concurrency", "timeout", "retries")}
    return EndpointRewriter(model.endpoint, model.model, api_key_env=model.api_key_env, **limits)
