"""Mixed noise for a list of prompts: a safetensors file a row, and a manifest that says what each was made of.

A row has a seed of its own, so that its noise is that of a call for it alone. What is complete already is kept: a run
that was killed goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisebank.errors import ConfigError, NoiseBankError
from noisebank.options import LARGEST_SEED, SMALLEST_SEED
from noisebank.outputs import lock_folder, remove_parts, save_latents, write_whole
from noisebank.progress import ReportProgress, silent
from noisebank.prompts import read_prompts

if TYPE_CHECKING:
    from noisebank.reader.bank import NoiseBank
    from noisebank.reader.noise_sample import NoiseSample

MANIFEST = "manifest.jsonl"
_BATCH_ROWS = 64
_BATCH_BYTES = 256 << 20


@dataclass(frozen=True)
class Row:
    """A row of a list.

    Args:
        number: its place, from 0.
        prompt, id: as :func:`noisebank.prompts.read_prompts` gives them.
        seed: of its fresh noise.
        problem: ``"code: message"`` of a row that cannot be used; empty where it can.
    """

    number: int
    prompt: str
    id: str
    seed: int
    problem: str = ""

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.number:06}.safetensors"


@dataclass(frozen=True)
class Sampled:
    """What a run came to: files ``made`` now and ``kept`` from earlier runs, and the rows that cannot be used."""

    made: int
    kept: int
    invalid: tuple[Row, ...]


def read_rows(path: str, first_seed: int = 0) -> list[Row]:
    """The rows of a list of prompts with their seeds: of the column ``seed``, where that is empty or the list has none
    ``first_seed`` plus the row's number, counted from 0.

    Raises:
        ConfigError: as :func:`noisebank.prompts.read_prompts`; or no row can be used.
    """
    rows = []
    for number, listed in enumerate(read_prompts(path, also=["seed"]).to_pylist()):
        text, seed, problem = (listed["seed"] or "").strip(), first_seed + number, listed["invalid"] or ""
        try:
            seed = int(text) if text else seed
        except ValueError:
            problem = problem or f"bad_seed: a whole number is wanted, not {text[:80]!r}"
        if not SMALLEST_SEED <= seed <= LARGEST_SEED:
            problem = problem or f"bad_seed: {seed} is no seed; {SMALLEST_SEED} to {LARGEST_SEED}"
        rows.append(Row(number, listed["prompt"], listed["id"], seed, problem))
    if all(row.problem for row in rows):
        raise ConfigError(f"prompts {path}: no row can be used; row 0 is {rows[0].problem}")
    return rows


def mix_options(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``bank.sample`` takes of the options of a mix, and how those that are no defaults are said in JSON."""
    from noisebank.reader.frequencies import LowPass
    from noisebank.reader.priors import FramePrior, find_prior

    prior, low_pass = find_prior(arguments.prior, arguments.alpha), None
    said = {"prior": arguments.prior, "alpha": prior.alpha} if isinstance(prior, FramePrior) else {}
    cutoffs = {name: getattr(arguments, name) for name in ("spatial", "temporal")}
    cutoffs = {name: cutoff for name, cutoff in cutoffs.items() if cutoff is not None}
    if arguments.lowpass is not None:
        low_pass = LowPass(arguments.lowpass, **cutoffs)
        said |= {"lowpass": low_pass.kind, "spatial": low_pass.spatial, "temporal": low_pass.temporal}
    elif cutoffs:
        raise ConfigError(f"--{next(iter(cutoffs))} is a cut-off of a filter; name one with --lowpass")
    return {"prior": prior, "lowpass": low_pass}, said


def metadata_of(mixed: NoiseSample, bank: NoiseBank, asked: Mapping[str, Any], row: int = 0) -> dict[str, str]:
    """What a file of latents says of itself: the clip that was mixed in, what was ``asked`` for (``eta``, ``seed``,
    prior and low-pass), set, snapshot, and whether it is fresh noise alone."""
    said = {"id": mixed.hits[row].id} | {name: str(value) for name, value in asked.items()}
    return said | {"set": bank.noise_set, "snapshot": str(bank.snapshot), "fresh": json.dumps(mixed.fresh[row])}


def sample_list(
    bank: NoiseBank,
    rows: Sequence[Row],
    folder: Path,
    options: Mapping[str, Any],
    asked: Mapping[str, Any],
    progress: ReportProgress = silent,
) -> Sampled:
    """Writes the noise of every row to ``folder``, which is made if need be; a second run there is refused.

    A file is kept if it is whole and says that it was made of the same prompt, seed, snapshot and options.

    Args:
        bank: with its noise set.
        rows: of :func:`read_rows`.
        folder: for ``<row, 6 digits>.safetensors`` (key ``latents``, float32, a batch of one) and ``manifest.jsonl``,
            which is written last, a JSON object a row: ``row``, ``id``, ``prompt``, ``seed``, ``file``, and what was
            mixed in: ``clip``, ``caption``, ``score``, ``fresh``; or ``code`` and ``message``.
        options: of :meth:`noisebank.NoiseBank.sample`.
        asked: the same as files say it.
        progress: called with the rows done and the rows there are.

    Raises:
        ConfigError: ``folder`` is a file, or has something else where a file is to be.
        NoiseBankError: another run writes there; or as :meth:`noisebank.NoiseBank.sample`.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output: {folder} is a file; with a list of prompts name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):
        usable = [row for row in rows if not row.problem]
        for path in (folder / MANIFEST, *(folder / row.file for row in usable)):
            if path.exists() and not path.is_file():
                raise ConfigError(f"--output: {path} is no file, where one is to be; move it, or name another folder")
        (folder / MANIFEST).unlink(missing_ok=True)  # (it would tell of the run before)
        remove_parts(folder)
        made = _make_missing(bank, usable, folder, options, asked, progress)
        write_whole(folder / MANIFEST, b"".join(_manifest_line(folder, row) for row in rows))
    return Sampled(made, len(usable) - made, tuple(row for row in rows if row.problem))


def _make_missing(
    bank: NoiseBank,
    usable: Sequence[Row],
    folder: Path,
    options: Mapping[str, Any],
    asked: Mapping[str, Any],
    progress: ReportProgress,
) -> int:
    """Writes the files that are not there as they are wanted; how many they were."""
    wanted = {row.number: _wanted(bank, asked, row) for row in usable}
    missing = [row for row in usable if not _said(folder / row.file).items() >= wanted[row.number].items()]
    for done, (row, mixed, at) in enumerate(_mix(bank, missing, options), 1):
        hit = mixed.hits[at]
        said = metadata_of(mixed, bank, {**asked, "seed": row.seed}, at) | wanted[row.number]
        save_latents(
            folder / row.file, mixed.latents[at : at + 1], said | {"caption": hit.caption, "score": repr(hit.score)}
        )
        progress(len(usable) - len(missing) + done, len(usable))
    return len(missing)


def _mix(bank: NoiseBank, rows: Iterable[Row], options: Mapping[str, Any]) -> Iterator[tuple[Row, NoiseSample, int]]:
    """Each row with the batch that it was mixed in and its place there."""
    import torch

    waiting, count = iter(rows), 1
    while batch := [*islice(waiting, count)]:
        generators = [torch.Generator().manual_seed(row.seed) for row in batch]
        mixed = bank.sample([row.prompt for row in batch], generator=generators, **options)
        for at, row in enumerate(batch):
            yield row, mixed, at
        count = min(_BATCH_ROWS, max(1, _BATCH_BYTES // mixed.latents[0].nbytes))


def _wanted(bank: NoiseBank, asked: Mapping[str, Any], row: Row) -> dict[str, str]:
    """What a file that need not be made again says."""
    said = {name: str(value) for name, value in {**asked, "seed": row.seed}.items()}
    return said | {"prompt": row.prompt, "bank": bank.snapshot_uuid, "set": bank.noise_set}


def _said(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; none if there is no whole file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def _manifest_line(folder: Path, row: Row) -> bytes:
    line: dict[str, Any] = {"row": row.number, "id": row.id, "prompt": row.prompt}
    if row.problem:
        code, _, message = row.problem.partition(": ")
        line |= {"code": code, "message": message}
    else:
        said = _said(folder / row.file)
        if not said:
            raise NoiseBankError(
                f"{folder / row.file}: it was written, and is not there any more; run the command again"
            )
        line |= {"seed": row.seed, "file": row.file, "clip": said["id"], "caption": said["caption"]}
        line |= {"score": float(said["score"]), "fresh": json.loads(said["fresh"])}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def describe_sampled(
    done: Sampled, bank: NoiseBank, folder: Path, asked: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """What ``noisebank sample -f`` prints, as a JSON object and as lines."""
    invalid = []
    for row in done.invalid:
        code, _, message = row.problem.partition(": ")
        invalid.append({"row": row.number, "id": row.id, "code": code, "message": message})
    manifest = folder / MANIFEST
    document = {
        "output": str(folder),
        "manifest": str(manifest),
        "prompts": done.made + done.kept + len(invalid),
        "made": done.made,
        "kept": done.kept,
        "invalid": invalid,
        "set": bank.noise_set,
        "snapshot": bank.snapshot,
        **asked,
    }
    lines = [f"row {row.number}: {row.problem}" for row in done.invalid]
    return document, [*lines, f"{manifest}: {done.made} made, {done.kept} kept, {len(lines)} cannot be used"]
