"""What arms ask of a bank: the clip nearest to a prompt, another one, one whose attributes are known; and records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from noisebank.errors import ConfigError, RowFailure, UnknownNoiseSet
from noisebank.format.manifest import read_snapshot
from noisebank.ids import clip_number
from noisebank.prompts import read_prompts
from noisebank.reader.captions_model import CaptionsModel
from noisebank.reader.pinned import PinnedSet, PinnedSnapshot
from noisebank.search.segments import Hit
from noisebank.sources import FORMATS
from noisebank.sources.block import QUOTED
from noisebank.storage import open_store

Truth = Mapping[str, str]
"""By attribute its value."""
_TRIES = 100


@dataclass(frozen=True)
class StudyPrompt:
    """A prompt and what a clip of it has to show."""

    id: str
    text: str
    truth: Truth


def read_study_prompts(path: str, attributes: Sequence[str]) -> tuple[list[StudyPrompt], list[dict[str, str]]]:
    """The prompts of a study, in the order of their list, and the rows that cannot be used.

    Args:
        path: as for :func:`noisebank.prompts.read_prompts`, with a column for every attribute.
        attributes: their names.

    Returns:
        The prompts; and ``id``, ``code`` (``no_attribute``, ``id_taken``, ``prompt_taken``, or as of the list's reader)
        and ``message`` of each row that is left out.

    Raises:
        ConfigError: as there; no row has a value of an attribute; or fewer than two rows can be used.
    """
    prompts: dict[str, StudyPrompt] = {}
    refused, taken = [], set()
    rows = read_prompts(path, also=list(attributes)).to_pylist()
    for name in attributes:
        if not any(row[name] for row in rows):
            raise ConfigError(f"prompts {path}: no row has a value of {name!r}; a column of that name is wanted")
    for row in rows:
        reason = row["invalid"]
        missing = [name for name in attributes if not row[name]]
        if missing and not reason:
            reason = f"no_attribute: no value of {missing[0]} in this row"
        if row["id"] in prompts and not reason:
            reason = f"id_taken: an earlier row has the id {row['id']!r}"
        if row["prompt"] in taken and not reason:
            reason = f"prompt_taken: an earlier row has the same prompt: {row['prompt'][:QUOTED]!r}"
        if reason:
            code, _, message = reason.partition(": ")
            refused.append({"id": row["id"], "code": code, "message": message})
        else:
            taken.add(row["prompt"])
            prompts[row["id"]] = StudyPrompt(row["id"], row["prompt"], {name: row[name] for name in attributes})
    if len(prompts) < 2:
        said = f"; {refused[0]['code']}: {refused[0]['message']}" if refused else ""
        raise ConfigError(f"prompts {path}: {len(prompts)} can be used, at least 2 are wanted{said}")
    return list(prompts.values()), refused


def read_truth(paths: Sequence[str], attributes: Sequence[str]) -> dict[str, Truth]:
    """What clips show, by id, from lists with a column ``id`` and one for every attribute.

    Raises:
        ConfigError: a list cannot be read, has no such column, or says two things of one clip.
    """
    truth: dict[str, Truth] = {}
    for path in paths:
        for row in read_rows(path, ["id", *attributes]):
            shown = {name: row[name] for name in attributes}
            if truth.setdefault(row["id"], shown) != shown:
                raise ConfigError(f"clips {path}: clip {row['id']} is there with other attributes too")
    return truth


def read_rows(path: str, columns: Sequence[str], what: str = "clips") -> list[dict[str, str]]:
    """Columns of a list (csv, jsonl or parquet) as text, without rows that lack a value; ``what`` it is, for errors."""
    import json

    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    suffix = path.rpartition(".")[2].lower()
    if suffix not in FORMATS:
        raise ConfigError(f"{what} {path}: a name that ends in .csv, .jsonl or .parquet is wanted")
    try:
        if suffix == "csv":
            types = csv.ConvertOptions(column_types=dict.fromkeys(columns, "string"))
            rows = csv.read_csv(path, convert_options=types).to_pylist()
        elif suffix == "parquet":
            rows = pq.read_table(path).to_pylist()
        else:
            with open(path, encoding="utf-8") as file:
                rows = [dict(json.loads(line)) for line in file if line.strip()]
    except FileNotFoundError as error:
        raise ConfigError(f"{what} {path}: no such file") from error
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{what} {path}: cannot be read: {error}") from error
    there = {name for row in rows for name in row}
    if absent := [name for name in columns if rows and name not in there]:
        raise ConfigError(f"{what} {path}: column {absent[0]!r} is missing; found: {', '.join(sorted(there))}")
    whole = [row for row in rows if all(row.get(name) not in (None, "") for name in columns)]
    found = [{name: str(row[name]) for name in columns} for row in whole]
    if rows and not found:
        raise ConfigError(f"{what} {path}: no row has values of {', '.join(columns)}")
    return found


class Pool:
    """One noise set of a bank, pinned to its latest snapshot.

    Args:
        uri: of the bank.
        noise_set: its name; None where the bank has one alone.
        truth: what clips show, by id; those of other banks too.

    Raises:
        BankNotFound, SnapshotExpired, UnsupportedFormat: as of :meth:`noisebank.NoiseBank.open`.
        UnknownNoiseSet: there is no such set, or several and none was named.
    """

    def __init__(self, uri: str, noise_set: str | None, truth: Mapping[str, Truth]) -> None:
        self.store = open_store(uri)
        self.snapshot = read_snapshot(self.store)
        self.truth = truth
        known = sorted(self.snapshot.models["noise"])
        if noise_set not in known and (noise_set is not None or len(known) != 1):
            problem = "name a set" if noise_set is None else f"no noise set {noise_set!r}"
            raise UnknownNoiseSet(f"{self.store.url}: {problem}; it has {', '.join(known) or 'none'}")
        self.name = noise_set or known[0]
        self.pinned = PinnedSnapshot(self.store, self.snapshot)
        self._captions = CaptionsModel(self.store.url, None)

    def records(self, noise_set: str | None = None) -> PinnedSet:
        """The records of its set, or of another of the bank's."""
        if noise_set is not None and noise_set not in self.snapshot.models["noise"]:
            known = ", ".join(sorted(self.snapshot.models["noise"]))
            raise UnknownNoiseSet(f"{self.store.url}: no noise set {noise_set!r}; it has {known}")
        return self.pinned.noise_set(noise_set or self.name)

    def nearest(self, texts: Sequence[str]) -> list[Hit]:
        """The clip whose caption is nearest to each of some prompts, among those with a record."""
        with self.pinned.reading():
            return self.records().nearest(texts, partial(self._captions.embed, self.snapshot))

    def at_random(self, rng: np.random.Generator, but: Hit) -> Hit:
        """A clip with a record, which is not ``but``; RowFailure ``no_record`` where there is no other."""
        for _ in range(_TRIES):
            if (found := self.pinned.find(int(rng.choice(self._nums)))) is not None and found.num != but.num:
                return found
        raise RowFailure("no_record", f"there is no record but that of {but.id}")

    def matching(self, rng: np.random.Generator, truth: Truth, differs: str | None = None) -> Hit:
        """A clip that shows all of ``truth``, but for one attribute that is another.

        Raises:
            RowFailure: ``no_record``: there is none with a record.
        """
        wanted = [values for values in self._by_truth if _agrees(dict(values), truth, differs)]
        ids = sorted(id for values in wanted for id in self._by_truth[values])
        if not ids:
            asked = ", ".join(f"{name} {value}" for name, value in truth.items())
            but = f", but for the {differs}" if differs else ""
            raise RowFailure("no_record", f"no clip of {asked}{but} has a record")
        return self.pinned.clip(ids[int(rng.integers(len(ids)))])

    def record(self, hit: Hit, noise_set: str | None) -> torch.Tensor:
        """The record of a clip ``[C, F, H, W]``; ClipNotFound where it has none in the set."""
        with self.pinned.reading():
            return self.records(noise_set).noise(hit)

    @cached_property
    def _nums(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        nums: np.ndarray[tuple[int], np.dtype[np.int64]] = self.records().nums()
        return nums

    @cached_property
    def known_ids(self) -> list[str]:
        """The clips with a record of which it is known what they show, sorted."""
        nums = set(self._nums.tolist())
        return sorted(id for id in self.truth if clip_number(id) in nums)

    @cached_property
    def _by_truth(self) -> dict[tuple[tuple[str, str], ...], list[str]]:
        ids = defaultdict(list)
        for id in self.known_ids:
            ids[tuple(self.truth[id].items())].append(id)
        return ids


def _agrees(shown: Truth, truth: Truth, differs: str | None) -> bool:
    return all((shown[name] != value) if name == differs else (shown[name] == value) for name, value in truth.items())
