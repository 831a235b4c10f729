"""The job that rewrites a list of prompts in the words of a bank's captions: its plan, Beam's runner, and what came of
it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import apache_beam as beam

from noisebank.commands import Outcome
from noisebank.errors import ConfigError
from noisebank.format.manifest import read_snapshot
from noisebank.format.receipts import find_receipts, receipt_path
from noisebank.models.config import absolute_path
from noisebank.progress import show_progress
from noisebank.prompts import read_prompts
from noisebank.rewriting.local_model import language_model_digest
from noisebank.rewriting.options import LanguageModel, RewriteOptions
from noisebank.rewriting.planning import (
    RewritePlan,
    count_failed,
    plan_rewrites,
    publish_rewrites,
    remove_finished_work,
)
from noisebank.rewriting.published import Manifest, open_rewrites_store
from noisebank.rewriting.shard import REWRITES
from noisebank.storage import Store, open_store
from pipelines.jobs import run_pipeline
from pipelines.progress import watching
from runners.engine import Needs
from runners.engines import find_engine
from transforms.rewriting import RewritePrompts, load_rewriter


def run_rewriting(arguments: argparse.Namespace, options: RewriteOptions) -> Outcome:
    """Rewrites a list of prompts and publishes the rewrites in a folder."""
    model = _language_model(arguments)
    engine = find_engine(arguments.rest)
    bank, out = open_store(arguments.bank).url, open_rewrites_store(arguments.out)
    engine.prepare(Needs([arguments.bank, arguments.out], [model.model]))
    if model.endpoint:
        load_rewriter(model, options, "")  # (refuses an address or a key that cannot be one)
    prompts = read_prompts(arguments.prompts)
    snapshot = read_snapshot(open_store(bank), arguments.snapshot).number
    fingerprint = options.fingerprint(model.identity)
    plan = plan_rewrites(out, prompts, options, fingerprint, snapshot if arguments.refresh else None)
    make = RewritePrompts(
        bank=bank,
        snapshot=snapshot,
        embedder=arguments.captions_model and absolute_path(arguments.captions_model),
        out=out.url,
        plan=plan.path,
        model=model,
        options=options,
        fingerprint=fingerprint,
        refresh=arguments.refresh,
    )
    try:
        if plan.todo:
            with _watch(out, plan):
                run_pipeline(engine, lambda pipeline: pipeline | beam.Create(plan.todo) | make)
    finally:
        out.delete(plan.path)
    remove_finished_work(out)
    manifest = publish_rewrites(out, plan, options.max_failed)
    return _summarise(out, plan, manifest, snapshot)


def _language_model(arguments: argparse.Namespace) -> LanguageModel:
    if arguments.endpoint:
        if not arguments.endpoint_model:
            raise ConfigError("--endpoint: also give --endpoint_model, what the endpoint calls the model")
        return LanguageModel(arguments.endpoint_model, arguments.endpoint, arguments.api_key_env)
    named = next((name for name in ("endpoint_model", "api_key_env") if getattr(arguments, name)), None)
    if named:
        raise ConfigError(f"--{named}: only an endpoint has one; give --endpoint in place of --model, or leave it out")
    model = absolute_path(arguments.model)  # (workers start elsewhere)
    return LanguageModel(model, digest=language_model_digest(model))


@contextmanager
def _watch(out: Store, plan: RewritePlan) -> Iterator[None]:
    """Shows how many of the shards to make have their receipt while the block runs."""
    wanted = {receipt_path(REWRITES, piece.inputs) for piece in plan.todo}

    def look() -> None:
        progress.report(len(wanted.intersection(out.list(REWRITES))), len(wanted))

    with show_progress("rewrite", "shards") as progress, watching(out, look):
        yield


def _summarise(out: Store, plan: RewritePlan, manifest: Manifest, snapshot: int) -> Outcome:
    """What the job came to."""
    failed = count_failed(manifest.shards[len(plan.others) :])
    rows = plan.counts["read"] - plan.counts["duplicate"]
    made = find_receipts(out, [(REWRITES, piece.inputs) for piece in plan.todo])
    asked = sum(receipt.info["asked"] for receipt in made)
    counts = {**plan.counts, "asked": asked, "rewritten": rows - failed.total(), "failed": failed.total()}
    document = {
        "out": out.url,
        "manifest": manifest.number,
        "published": manifest.number != plan.parent.number,
        "snapshot": snapshot,
        "rows": counts,
        "failed_by_code": dict(sorted(failed.items())),
    }
    headline = f"{out.url}: rewrites published" if document["published"] else f"{out.url}: up to date"
    lines = [headline, "prompts: " + ", ".join(f"{count} {name}" for name, count in counts.items())]
    return Outcome(document, lines + [f"failed {code}: {count}" for code, count in sorted(failed.items())])
