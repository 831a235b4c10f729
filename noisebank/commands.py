"""The read-side commands: what a bank holds, looking things up in it, and checking it. No Beam.

Every command is a function from parsed arguments to an :class:`Outcome`; the command line prints it as text or JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a command found: the JSON document, the lines for people, and the exit code."""

    document: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    exit_code: int = 0


Command = Callable[[argparse.Namespace], Outcome]


def add_read_commands(add: Callable[[str, str, Command], argparse.ArgumentParser]) -> None:
    """Declares the read-side commands; ``add(name, help, function)`` makes one parser."""
    parser = add("search", "nearest captions with ids and scores", search)
    _bank(parser)
    parser.add_argument("prompt", help="text to look for")
    parser.add_argument("-k", type=int, default=5, help="how many (default: 5)")
    _snapshot(parser)
    _embedder(parser)

    parser = add("sample", "mixed noise for a prompt, as a safetensors file", sample)
    _bank(parser)
    parser.add_argument("prompt", help="text to generate from")
    parser.add_argument("--set", dest="noise_set", metavar="NAME", help="noise set, where a bank has several")
    parser.add_argument("--eta", type=float, default=0.2, help="weight of the inverted noise, 0 to inf (default: 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the fresh noise (default: 0)")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="where to write key 'latents'")
    _snapshot(parser)
    _embedder(parser)

    parser = add("show", "what is in a bank", show)
    _bank(parser)
    _snapshot(parser)
    parser.add_argument("--diff", nargs=2, type=int, metavar=("A", "B"), help="what changed between two snapshots")

    parser = add("failures", "every row that is not in the bank, and why", failures)
    _bank(parser)
    _snapshot(parser)

    parser = add("files", "the files of a snapshot, one a line", files)
    _bank(parser)
    parser.add_argument("--kind", help="clips, captions, noise, index, rows, records or failures (default: all)")
    _snapshot(parser)

    parser = add("verify", "re-read every file of a snapshot against its checksum", verify)
    _bank(parser)
    _snapshot(parser)
    parser.add_argument(
        "--repair", action="store_true", help="drop damaged files in a new snapshot; build remakes them"
    )

    parser = add("vacuum", "remove what no kept snapshot refers to", vacuum)
    _bank(parser)
    parser.add_argument("--keep", type=int, default=1, metavar="N", help="newest snapshots to keep (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="say what would go; remove nothing")


def _bank(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bank", metavar="BANK", help="the bank: a local path or gs://, s3://, az://")


def _snapshot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--snapshot", type=int, metavar="N", help="an earlier snapshot (default: the latest)")


def _embedder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="FOLDER", help="the captions model, where it moved since the bank was built")
