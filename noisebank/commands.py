"""The read-side commands: what a bank holds, looking things up in it, and checking it. No Beam.

Every command is a function from parsed arguments to an :class:`Outcome`; the command line prints it as text or JSON.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisebank.describe import KINDS, describe, diff, read_failures, read_unpublished_failures, snapshot_files
from noisebank.errors import ConfigError, UnknownNoiseSet
from noisebank.format.layout import is_ours
from noisebank.format.manifest import read_snapshot
from noisebank.options import LARGEST_SEED, SMALLEST_SEED
from noisebank.outputs import check_folder, save_latents, write_whole
from noisebank.progress import show_progress
from noisebank.storage import open_store
from noisebank.upkeep.drop import drop_set
from noisebank.upkeep.repair import repair
from noisebank.upkeep.vacuum import vacuum as vacuum_bank
from noisebank.upkeep.verify import verify as verify_snapshot

if TYPE_CHECKING:
    from noisebank.reader.bank import NoiseBank


@dataclass(frozen=True)
class Outcome:
    """What a command found: the JSON document, the lines for people, and the exit code."""

    document: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    exit_code: int = 0


Command = Callable[[argparse.Namespace], Outcome]
_Argument = Callable[[argparse._ActionsContainer], object]
"""Adds an argument to a parser, or to a group of one."""
_argument = partial(methodcaller, "add_argument")
_COMMANDS: list[tuple[Command, tuple[_Argument, ...], bool]] = []


def add_read_commands(add: Callable[[str, str, Command], argparse.ArgumentParser]) -> None:
    """Declares the read-side commands; ``add(name, help, function)`` makes one parser."""
    for run, arguments, exclusive in _COMMANDS:
        description = str(run.__doc__)
        parser = add(run.__name__, description[0].lower() + description[1:].rstrip("."), run)
        parser.add_argument("bank", metavar="BANK", help="the bank: a local path or gs://, s3://, az://")
        group = parser.add_mutually_exclusive_group() if exclusive else parser
        for argument in arguments:
            argument(group)


def _command(*arguments: _Argument, exclusive: bool = False) -> Callable[[Command], Command]:
    """Makes a function the command of its name, helped by its docstring; ``exclusive``: takes one argument at most."""

    def declare(run: Command) -> Command:
        _COMMANDS.append((run, arguments, exclusive))
        return run

    return declare


def _number(kind: Callable[[str], float], smallest: int, largest: float = math.inf) -> Callable[[str], float]:
    """A type for ``add_argument``: a number of a kind, from ``smallest`` to ``largest``."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not smallest <= value <= largest:
            wanted = "a whole number" if kind is int else "a number"
            limits = f"at least {smallest}" + ("" if math.isinf(largest) else f", at most {largest}")
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; {wanted}, {limits}")
        return value

    return parse


_SEED = _number(int, SMALLEST_SEED, LARGEST_SEED)
_SNAPSHOT = _argument("--snapshot", type=int, metavar="N", help="an earlier snapshot (default: the latest)")
_MODEL = _argument("--model", metavar="FOLDER", help="the captions model, where it moved since the bank was built")


@_command(
    _argument("prompt", help="text to look for"),
    _argument("-k", type=_number(int, 1), default=5, help="how many (default: 5)"),
    _SNAPSHOT,
    _MODEL,
)
def search(arguments: argparse.Namespace) -> Outcome:
    """Nearest captions with ids and scores."""
    hits = _open(arguments).search(arguments.prompt, arguments.k)
    document = [{"id": h.id, "caption": h.caption, "score": h.score, "source": h.source} for h in hits]
    return Outcome({"hits": document}, [on_one_line(f"{h.score:.4f}  {h.id}  {h.caption}") for h in hits])


def on_one_line(text: str) -> str:
    """Text from outside for a terminal: no line breaks or control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


@_command(
    _argument("prompt", nargs="?", help="text to generate from"),
    _argument(
        "-f", "--file", metavar="PROMPTS", help="a list in its place: .txt, or .csv, .jsonl, .parquet with 'prompt'"
    ),
    _argument("--set", dest="noise_set", metavar="NAME", help="noise set, where a bank has several"),
    _argument(
        "--eta", type=_number(float, 0), default=0.2, help="weight of the inverted noise, 0 to inf (default: 0.2)"
    ),
    _argument(
        "--seed",
        type=_SEED,
        default=0,
        help="of the fresh noise; of a list without 'seed' the first row's, the next has one more",
    ),
    _argument("--prior", default="iid", help="of the fresh noise: iid, mixed or progressive (default: iid)"),
    _argument("--alpha", type=_number(float, 0), help="what frames have in common (default: mixed 1, progressive 2)"),
    _argument("--lowpass", help="mix the record's low frequencies alone: gaussian, butterworth, ideal or box"),
    _argument("--spatial", type=float, metavar="D", help="with --lowpass: spatial cut-off, up to 1 (default: 0.25)"),
    _argument("--temporal", type=float, metavar="D", help="with --lowpass: temporal cut-off, up to 1 (default: 0.25)"),
    _argument("-o", "--output", required=True, metavar="FILE", help="where to write key 'latents'; with -f a folder"),
    _SNAPSHOT,
    _MODEL,
)
def sample(arguments: argparse.Namespace) -> Outcome:
    """Mixed noise for a prompt, or for each of a list, as a safetensors file."""
    if (arguments.prompt is None) == (arguments.file is None):
        raise ConfigError("give either a prompt or a list of them (-f PROMPTS)")
    try:
        return _sample_one(arguments) if arguments.file is None else _sample_list(arguments)
    except UnknownNoiseSet as error:
        raise UnknownNoiseSet(f"{error} (--set NAME)") from error


def _sample_list(arguments: argparse.Namespace) -> Outcome:
    from noisebank.sampling import describe_sampled, mix_options, read_rows, sample_list

    options, said = mix_options(arguments)
    rows, folder = read_rows(arguments.file, arguments.seed), Path(arguments.output)
    bank = _open(arguments, noise_set=arguments.noise_set)
    asked = {"eta": _shown(arguments.eta), **said}
    with show_progress("sample", "prompts") as progress:
        done = sample_list(bank, rows, folder, {"eta": arguments.eta, **options}, asked, progress.report)
    document, lines = describe_sampled(done, bank, folder, asked)
    return Outcome(document, [*map(on_one_line, lines)])


def _shown(eta: float) -> float | str:
    return eta if math.isfinite(eta) else "inf"  # (JSON has no infinity)


def _sample_one(arguments: argparse.Namespace) -> Outcome:
    import torch

    from noisebank.sampling import metadata_of, mix_options

    options, said = mix_options(arguments)
    check_folder(arguments.output)
    bank = _open(arguments, noise_set=arguments.noise_set)
    generator = torch.Generator().manual_seed(arguments.seed)
    mixed = bank.sample(arguments.prompt, eta=arguments.eta, generator=generator, digest=True, **options)
    hit, asked = mixed.hits[0], {"eta": _shown(arguments.eta), "seed": arguments.seed, **said}
    document = {
        "output": arguments.output,
        "shape": list(mixed.latents.shape),
        "id": hit.id,
        "caption": hit.caption,
        "score": hit.score,
        **asked,
        "marginal_variance": mixed.marginal_variance,
        "drawn_digest": mixed.drawn_digest,
    }
    save_latents(Path(arguments.output), mixed.latents, metadata_of(mixed, bank, asked))
    shape = "x".join(map(str, mixed.latents.shape))
    mixed_with = on_one_line(f"{hit.id} ({hit.score:.4f})")
    return Outcome(document, [f"{arguments.output}: latents {shape} float32, mixed with {mixed_with}"])


@_command(
    _argument("prompts", metavar="PROMPTS", help="a .txt, one a line, or .csv, .jsonl, .parquet with 'prompt'"),
    _argument("--set", dest="noise_set", metavar="NAME", help="only clips with a record in it (default: all captions)"),
    _argument(
        "--below",
        type=_number(float, -1, 1),
        metavar="X",
        help="prompts whose best similarity is lower are far (default: 5th percentile of the captions' own)",
    ),
    _argument("-o", "--output", metavar="FILE", help="where to write the far prompts, for synthesize: .txt or .jsonl"),
    _SNAPSHOT,
    _MODEL,
)
def coverage(arguments: argparse.Namespace) -> Outcome:
    """How near the captions are to a list of prompts."""
    from noisebank.describe_coverage import coverage_lines, describe_coverage
    from noisebank.prompts import list_bytes, read_usable

    rows, invalid = read_usable(arguments.prompts)
    if arguments.output:
        check_folder(arguments.output)
        list_bytes(arguments.output, rows)  # (refuses now what it could not write in the end)
    bank = _open(arguments, noise_set=arguments.noise_set)
    with show_progress("coverage", "prompts and captions") as progress:
        found = bank.coverage([row["prompt"] for row in rows], below=arguments.below, progress=progress.report)
    document = describe_coverage(found, invalid)
    lines = [*coverage_lines(document)]
    if arguments.output:
        far = [row for row, is_far in zip(rows, found.is_far.tolist(), strict=True) if is_far]
        write_whole(Path(arguments.output), list_bytes(arguments.output, far))
        says = f"the far prompts, {len(far)}, for 'noisebank synthesize'" if far else "empty, for no prompt is far"
        lines.append(f"{arguments.output}: {says}")
    return Outcome(document, [*map(on_one_line, lines)])


@_command(
    _SNAPSHOT,
    _argument("--diff", nargs=2, type=int, metavar=("A", "B"), help="what changed between two snapshots"),
    exclusive=True,
)
def show(arguments: argparse.Namespace) -> Outcome:
    """What is in a bank."""
    store = open_store(arguments.bank)
    snapshots = [read_snapshot(store, number) for number in arguments.diff or [arguments.snapshot]]
    document = diff(store, *snapshots) if arguments.diff else describe(store, *snapshots)
    return Outcome(document, [on_one_line(line) for line in _indent(document)])


@_command(
    _argument("-o", "--output", required=True, metavar="FILE", help="where to write the page, one file of HTML"),
    _SNAPSHOT,
    _argument("--compare", type=int, metavar="N", help="also say what changed since snapshot N"),
    _argument("--clips", type=_number(int, 0), default=12, metavar="N", help="clips to show at most (default: 12)"),
    _argument("--replays", metavar="FOLDER", help="{id}.mp4 files that a generator gave back from stored records"),
)
def report(arguments: argparse.Namespace) -> Outcome:
    """One page to look at: clips, failures, errors, sizes and times."""
    from noisebank.report.page import make_report

    check_folder(arguments.output)
    folder = Path(arguments.replays) if arguments.replays else None
    options = {"compare": arguments.compare, "clips": arguments.clips, "replays": folder}
    made = make_report(open_store(arguments.bank), arguments.snapshot, **options)
    page = made.html.encode()
    write_whole(Path(arguments.output), page)
    lines = [f"{arguments.output}: {len(made.document['clips'])} clips, {len(page)} bytes; open it in a browser"]
    lines += [on_one_line(f"--replays: {id}: not in snapshot {made.document['snapshot']}") for id in made.unknown]
    return Outcome({"output": arguments.output, **made.document, "unknown_replays": [*made.unknown]}, lines)


def _indent(document: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:" + ("" if value else " none")
            yield from _indent(value, indent + "  ")
        else:
            yield f"{indent}{name}: {'none' if value is None else value}"


@_command(
    _SNAPSHOT,
    _argument("--unpublished", action="store_true", help="what failed in the last build, if it published nothing"),
    exclusive=True,
)
def failures(arguments: argparse.Namespace) -> Outcome:
    """Every row that is not in the bank, and why."""
    store = open_store(arguments.bank)
    if arguments.unpublished:
        rows = read_unpublished_failures(store)
    else:
        rows = read_failures(store, read_snapshot(store, arguments.snapshot))
    said = ("id", "stage", "code", "uri", "message")
    lines = [on_one_line("  ".join(row[name] for name in said)) for row in rows]
    return Outcome({"failures": rows}, lines or ["none"])


@_command(_argument("--kind", help=f"{', '.join(KINDS)}, noise/NAME or records/NAME (default: all)"), _SNAPSHOT)
def files(arguments: argparse.Namespace) -> Outcome:
    """The files of a snapshot, one a line."""
    store = open_store(arguments.bank)
    snapshot = read_snapshot(store, arguments.snapshot)
    paths = [entry.path for entry in snapshot_files(store, snapshot, arguments.kind)]
    lines = [f"{store.url}/{on_one_line(path)}" for path in paths]
    return Outcome({"files": [f"{store.url}/{path}" for path in paths]}, lines)


@_command(
    _SNAPSHOT,
    _argument("--repair", action="store_true", help="drop damaged files in a new snapshot; build remakes them"),
)
def verify(arguments: argparse.Namespace) -> Outcome:
    """Re-read every file of a snapshot against its checksum."""
    store = open_store(arguments.bank)
    with show_progress("verify", "bytes") as progress:
        report = verify_snapshot(store, arguments.snapshot, progress.report)
    document: dict[str, Any] = {"ok": report.ok, "files": report.files, "bytes": report.bytes}
    document["damaged"] = [asdict(damage) for damage in report.damaged]
    lines = [on_one_line(f"{damage.path}: {damage.reason}") for damage in report.damaged]
    if report.ok:
        lines.append(f"ok: {report.files} files, {report.bytes} bytes")
    if report.ok or not arguments.repair:
        return Outcome(document, lines, exit_code=0 if report.ok else 1)
    repaired = repair(store, report)
    if report.snapshot is None or repaired.number != report.snapshot.number:
        document["repaired_in"] = repaired.number
        lines.append(f"snapshot {repaired.number} leaves out what was damaged; the next build makes it again")
    foreign = sum(not is_ours(damage.path) for damage in report.damaged)
    if foreign:
        lines.append(f"{foreign} foreign files stay; move them elsewhere and verify again")
    return Outcome(document, lines, exit_code=1 if foreign else 0)


@_command(
    _argument(
        "--keep",
        type=int,
        default=1,
        metavar="N",
        help="newest snapshots to keep; a vacuum's own repeats the one before it and does not count (default: 1)",
    ),
    _argument("--dry-run", action="store_true", help="say what would go; remove nothing"),
)
def vacuum(arguments: argparse.Namespace) -> Outcome:
    """Remove what no kept snapshot refers to."""
    store = open_store(arguments.bank)
    with show_progress("vacuum", "files") as progress:
        removed = vacuum_bank(store, arguments.keep, dry_run=arguments.dry_run, progress=progress.report)
    document = {
        "snapshot": removed.snapshot.number,
        "expired": list(removed.expired),
        "removed": list(removed.files),
        "bytes": removed.bytes,
        "held": list(removed.held),
        "dry_run": arguments.dry_run,
    }
    would = "would remove" if arguments.dry_run else "removed"
    expired = f"snapshots {', '.join(map(str, removed.expired)) or 'none'} expired"
    lines = [*map(on_one_line, removed.files), f"{would} {len(removed.files)} files, {removed.bytes} bytes; {expired}"]
    if removed.held:
        numbers = ", ".join(map(str, removed.held))
        lines.append(f"snapshots {numbers} stay for a week at most: builds that started from them have not ended")
    return Outcome(document, lines)


@_command(
    _argument(
        "--maxcount", type=_number(int, 1), default=512, metavar="N", help="clips in a full shard (default: 512)"
    ),
    _argument(
        "--purge",
        action="store_true",
        help="also remove the bytes of rows that were taken down, and all older snapshots",
    ),
)
def compact(arguments: argparse.Namespace) -> Outcome:
    """Merge small shards and renew the captions in tars, by copying alone."""
    from noisebank.upkeep.compact import compact as compact_bank

    store = open_store(arguments.bank)
    before = read_snapshot(store)
    with show_progress("compact", "shards") as progress:
        after = compact_bank(store, maxcount=arguments.maxcount, purge=arguments.purge, progress=progress.report)
    committed = after.number != before.number
    if not committed:
        line = f"nothing to compact; snapshot {before.number} stays"
    elif arguments.purge:
        line = f"snapshot {after.number}, older snapshots removed"
    else:
        tars = [len(snapshot_files(store, snapshot, "clips")) for snapshot in (before, after)]
        line = f"snapshot {after.number}: {tars[0]} tars before, {tars[1]} now"
    return Outcome({"snapshot": after.number, "parent": before.number, "committed": committed}, [line])


@_command(_argument("--set", dest="noise_set", metavar="NAME", required=True, help="the noise set to take out"))
def drop(arguments: argparse.Namespace) -> Outcome:
    """Commit a snapshot without a noise set; vacuum removes its files later."""
    snapshot = drop_set(open_store(arguments.bank), arguments.noise_set)
    document = {"snapshot": snapshot.number, "parent": snapshot.parent, "dropped": arguments.noise_set}
    line = f"snapshot {snapshot.number} is without {arguments.noise_set}; 'noisebank vacuum' removes its files"
    return Outcome(document, [on_one_line(line)])


def _open(arguments: argparse.Namespace, **options: Any) -> NoiseBank:
    from noisebank.reader.bank import NoiseBank

    return NoiseBank.open(arguments.bank, arguments.snapshot, embedder=arguments.model, **options)
