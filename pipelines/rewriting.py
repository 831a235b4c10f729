"""The command ``rewrite``: a list of prompts, rewritten in the words of a bank's captions, as a Beam job."""

from __future__ import annotations

import argparse
import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from noisebank.commands import Outcome
from noisebank.config import options_from_flags
from noisebank.errors import ConfigError
from noisebank.format.manifest import read_snapshot
from noisebank.format.receipts import find_receipts, receipt_path
from noisebank.progress import show_progress
from noisebank.prompts import read_prompts
from noisebank.rewriting.options import LanguageModel, RewriteOptions
from noisebank.rewriting.planning import RewritePlan, plan_rewrites, publish_rewrites, remove_finished_work
from noisebank.rewriting.published import open_rewrites_store
from noisebank.rewriting.shard import REWRITES
from noisebank.storage import Store, open_store

HELP = "rewrite a list of prompts in the words of a bank's captions, by a language model"
EPILOG = """\
A model on this machine:   noisebank rewrite BANK prompts.txt -o rewrites --model Qwen/Qwen2.5-1.5B-Instruct
Behind an endpoint:        noisebank rewrite BANK prompts.txt -o rewrites --endpoint http://localhost:8000/v1 \\
                               --endpoint_model qwen --api_key_env MY_KEY
Looking rewrites up:       Rewrites.open("rewrites")["a dog on the beach"]

Each prompt is shown to the model with the captions nearest to it; an answer that cannot be used (empty, refusal,
too_long, several_lines, copied, drifted) is asked for once more, then the prompt is used as it is and its row says why.
Run the same command again to go on after a kill, after the list grew (new prompts alone are asked about), or to try
again what an endpoint did not answer. The key of an endpoint stays in the environment variable that you name.
Beam's own options (--runner, --direct_num_workers, --flink_master, --project, ...) go to Beam.
"""
_FLAG = "rewrite:"
_SECONDS = 1.0


def add_rewrite_command(
    add: Callable[..., argparse.ArgumentParser], describe: Callable[[dataclasses.Field[Any]], str]
) -> None:
    """Declares the command; ``describe`` gives the help of an option."""
    parser = add("rewrite", HELP, rewrite, takes_rest=True)
    parser.epilog = EPILOG
    parser.add_argument("bank", metavar="BANK", help="the bank: a local path or gs://, s3://, az://")
    parser.add_argument(
        "prompts", metavar="PROMPTS", help="a .txt, one a line, or .csv, .jsonl, .parquet with 'prompt'"
    )
    parser.add_argument(
        "-o", "--out", required=True, metavar="DIR", help="folder for the rewrites, of any such address"
    )
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--model", metavar="MODEL", help="hub id or folder of a language model that runs here")
    group.add_argument("--endpoint", metavar="URL", help="address of an OpenAI-compatible API, such as http://host/v1")
    parser.add_argument(
        "--endpoint_model", "--endpoint-model", metavar="NAME", help="what the endpoint calls the model"
    )
    parser.add_argument("--api_key_env", "--api-key-env", metavar="NAME", help="environment variable with its key")
    parser.add_argument("--refresh", action="store_true", help="ask again where a prompt's captions are others by now")
    parser.add_argument(
        "--snapshot", type=int, metavar="N", help="an earlier snapshot of the bank (default: the latest)"
    )
    parser.add_argument("--captions_model", "--captions-model", metavar="FOLDER", help="the bank's, where it moved")
    for field in dataclasses.fields(RewriteOptions):
        names = dict.fromkeys([f"--{field.name}", f"--{field.name.replace('_', '-')}"])
        metavar = field.name.upper()
        parser.add_argument(*names, dest=_FLAG + field.name, metavar=metavar, help=describe(field))


def rewrite(arguments: argparse.Namespace) -> Outcome:
    """Rewrites a list of prompts and publishes the rewrites in a folder."""
    import apache_beam as beam

    from pipelines.jobs import run_pipeline
    from runners.options import beam_options, check_addresses, check_models
    from transforms.rewriting import RewritePrompts, load_rewriter

    given = {name: text for name, text in vars(arguments).items() if name.startswith(_FLAG) and text is not None}
    options = options_from_flags(RewriteOptions, {name.removeprefix(_FLAG): text for name, text in given.items()})
    model = _language_model(arguments)
    runner = beam_options(arguments.rest)
    bank, out = open_store(arguments.bank).url, open_rewrites_store(arguments.out)
    check_addresses(runner, [arguments.bank, arguments.out])
    check_models(runner, [model.model])
    if model.endpoint:
        load_rewriter(model, options, "")  # (refuses an address or a key that cannot be one)
    prompts = read_prompts(arguments.prompts)
    snapshot = read_snapshot(open_store(bank), arguments.snapshot).number
    fingerprint = options.fingerprint(model.identity)
    plan = plan_rewrites(out, prompts, options, fingerprint, snapshot if arguments.refresh else None)
    make = RewritePrompts(
        bank=bank,
        snapshot=snapshot,
        embedder=arguments.captions_model,
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
                run_pipeline(runner, lambda pipeline: pipeline | beam.Create(plan.todo) | make)
    finally:
        out.delete(plan.path)
    remove_finished_work(out)
    manifest = publish_rewrites(out, plan, options.max_failed)
    return _summarise(out, plan, manifest.number, snapshot)


def _language_model(arguments: argparse.Namespace) -> LanguageModel:
    from noisebank.rewriting.local_model import language_model_digest

    if arguments.endpoint:
        if not arguments.endpoint_model:
            raise ConfigError("--endpoint: also give --endpoint_model, what the endpoint calls the model")
        return LanguageModel(arguments.endpoint_model, arguments.endpoint, arguments.api_key_env)
    named = next((name for name in ("endpoint_model", "api_key_env") if getattr(arguments, name)), None)
    if named:
        raise ConfigError(f"--{named}: only an endpoint has one; give --endpoint in place of --model, or leave it out")
    return LanguageModel(arguments.model, digest=language_model_digest(arguments.model))


@contextmanager
def _watch(out: Store, plan: RewritePlan) -> Iterator[None]:
    """Shows how many of the shards to make have their receipt while the block runs."""
    ended, wanted = threading.Event(), {receipt_path(REWRITES, piece.inputs) for piece in plan.todo}

    def watch() -> None:
        while not ended.wait(_SECONDS):
            progress.report(len(wanted.intersection(out.list(REWRITES))), len(wanted))

    with show_progress("rewrite", "shards") as progress:
        progress.report(0, len(wanted))
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
            progress.report(len(wanted), len(wanted))
        finally:
            ended.set()
            thread.join()


def _summarise(out: Store, plan: RewritePlan, number: int, snapshot: int) -> Outcome:
    """What the job came to."""
    failed: Counter[str] = Counter()
    asked = 0
    rows = plan.counts["read"] - plan.counts["duplicate"]
    made = [(REWRITES, piece.inputs) for piece in plan.todo]
    for piece in plan.pieces:
        failed.update(piece.published.failed if piece.published else {})
    for receipt in find_receipts(out, [(REWRITES, piece.inputs) for piece in plan.pieces if not piece.published]):
        failed.update(failure.code for failure in receipt.failures)
        asked += receipt.info["asked"] if (REWRITES, receipt.inputs) in made else 0
    counts = {**plan.counts, "asked": asked, "rewritten": rows - failed.total(), "failed": failed.total()}
    document = {
        "out": out.url,
        "manifest": number,
        "published": number != plan.parent.number,
        "snapshot": snapshot,
        "rows": counts,
        "failed_by_code": dict(sorted(failed.items())),
    }
    headline = f"{out.url}: rewrites published" if document["published"] else f"{out.url}: up to date"
    lines = [headline, "prompts: " + ", ".join(f"{count} {name}" for name, count in counts.items())]
    return Outcome(document, lines + [f"failed {code}: {count}" for code, count in sorted(failed.items())])
