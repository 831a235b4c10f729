"""The command ``rewrite``, as it is declared; :mod:`pipelines.rewriting`, which it runs, is imported only then."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from noisebank.commands import Outcome
from noisebank.config import decode_options
from noisebank.rewriting.options import RewriteOptions

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
    group.add_argument("--model", metavar="MODEL", help="hub id, id@revision or folder of a language model to run")
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
    from pipelines.rewriting import run_rewriting

    given = {name: text for name, text in vars(arguments).items() if name.startswith(_FLAG) and text is not None}
    flags = {name.removeprefix(_FLAG): text for name, text in given.items()}
    return run_rewriting(arguments, decode_options(RewriteOptions, {}, flags))
