"""What a study generates: a clip for each arm, prompt and seed. Prompts are cut into pieces, each of which is known by
everything that goes into it, so that it is made once.

Fresh noise is drawn from the study's seed, the prompt's id and the clip's number alone: it is the same in all arms.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from noisebank.errors import ClipNotFound, ConfigError, RowFailure
from noisebank.evaluation.arms import ARMS, Arm
from noisebank.evaluation.options import ArmOptions, EvaluationOptions
from noisebank.evaluation.pool import Pool, StudyPrompt, read_rows
from noisebank.ids import xxh64
from noisebank.options import fingerprint
from noisebank.reader.frequencies import LowPass
from noisebank.reader.mixing import noise_digest, normalise
from noisebank.reader.noise_sample import mix_records
from noisebank.reader.priors import find_prior
from noisebank.rewriting.published import Rewrites
from noisebank.search.segments import Hit
from noisebank.sources import FORMATS


@dataclass(frozen=True)
class Cell:
    """One prompt in one arm, all seeds together.

    Args:
        prompt: what is asked for.
        hit: the clip whose record is mixed in; None for fresh noise alone.
        record: of that clip ``[C, F, H, W]``, normalised as the arm wants it; None for fresh noise alone.
        nearest: the clip nearest to the prompt in the study's pool, whichever the arm takes.
        rewritten: the prompt of the first steps; None where the arm has none.
        failure: ``code`` and ``message`` of a cell that cannot be generated.
    """

    prompt: StudyPrompt
    hit: Hit | None
    record: torch.Tensor | None
    nearest: Hit
    rewritten: str | None = None
    failure: Mapping[str, str] | None = None

    def identity(self) -> list[Any]:
        """What goes into its clips, beside what the whole arm has in common."""
        record = None if self.record is None else noise_digest(self.record)
        hit = self.hit.id if self.hit else None
        return [self.prompt.id, self.prompt.text, hit, record, self.nearest.id, self.rewritten]


class ArmPlan:
    """One arm, ready to be cut into pieces.

    Args:
        options: of the arm.
        study: of the whole study.
        pool: that the study looks up in.
        own: the pool of the arm, which is ``pool`` unless it names another bank.

    Raises:
        ConfigError: its kind, prior or filter is not known.
        UnknownNoiseSet: its bank has no such noise set.
        BankNotFound: there are no rewrites in its folder.
    """

    def __init__(self, options: ArmOptions, study: EvaluationOptions, pool: Pool, own: Pool) -> None:
        if options.kind not in ARMS:
            raise ConfigError(f"arms.{options.label}.kind: {options.kind!r} is not known; one of {', '.join(ARMS)}")
        self.options, self.name, self._study, self._pool, self._own = options, options.label, study, pool, own
        self.arm: Arm = ARMS[options.kind]
        self.model = own.records(options.set_).model
        self._prior = find_prior(options.prior, options.alpha)
        low = options.lowpass
        self._low_pass = None if low is None else LowPass(low, options.spatial, options.temporal)
        self._rewrites = _open_rewrites(options.rewrites) if options.rewrites and options.gamma else None

    @property
    def records(self) -> Any:
        """The noise set that it takes records of."""
        return self._own.records(self.options.set_)

    def cells(self, prompts: Sequence[StudyPrompt]) -> list[Cell]:
        """The cells of some prompts, in their order."""
        nearest = self._pool.nearest([prompt.text for prompt in prompts])
        return [self._cell(prompt, hit) for prompt, hit in zip(prompts, nearest, strict=True)]

    def _cell(self, prompt: StudyPrompt, nearest: Hit) -> Cell:
        rng = np.random.default_rng(seed_of(self._study.seed, prompt.id, f"record {self.options.kind}"))
        try:
            rewritten = None if self._rewrites is None else self._rewrites.get(prompt.text)
            if self._rewrites is not None and rewritten is None:
                return _failed(prompt, nearest, "no_rewrite", f"{self.options.rewrites}: this prompt is not in it")
            hit = self.arm.choose(self._own, prompt, rng, self.options)
            record = None
            if hit is not None:
                record = normalise(self._own.record(hit, self.options.set_), self.options.normalize)
        except RowFailure as failure:
            return _failed(prompt, nearest, failure.code, failure.message)
        except ClipNotFound as error:
            return _failed(prompt, nearest, "no_record", str(error))
        return Cell(prompt, hit, record, nearest, rewritten)

    def key(self, cells: Sequence[Cell], study: str, judge: str) -> str:
        """What names a piece: a hash of all that its rows depend on.

        Args:
            cells: of the piece.
            study: fingerprint of the study's options and model.
            judge: fingerprint of the judge.
        """
        what = [fingerprint(self.options), study, judge, self._study.seeds, [cell.identity() for cell in cells]]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]

    def noise(self, cell: Cell, seed: int) -> tuple[torch.Tensor, str]:
        """The latents of one clip of a cell, a batch of one in the pipeline's layout, and the digest of its fresh
        noise (empty where nothing is drawn)."""
        fresh = torch.Generator().manual_seed(seed_of(self._study.seed, cell.prompt.id, f"fresh {seed}"))
        eta, hits, record = self.options.eta, [cell.hit] if cell.hit else [], cell.record
        if record is None:
            eta, record = 0.0, torch.zeros(tuple(self.model["shape"]))
        else:
            own = torch.Generator().manual_seed(seed_of(self._study.seed, cell.prompt.id, f"change {seed}"))
            record = self.arm.change(record, own)
        mixed = mix_records([record], hits, [False], eta, self.model, self._prior, fresh, self._low_pass, digest=True)
        return mixed.latents, mixed.drawn_digest


def _open_rewrites(path: str) -> Mapping[str, str]:
    """Rewritten prompts by prompt, from a folder of ``noisebank rewrite`` or a list."""
    if path.rpartition(".")[2].lower() not in FORMATS:
        return Rewrites.open(path)
    return {row["prompt"]: row["rewritten"] for row in read_rows(path, ["prompt", "rewritten"], "rewrites")}


def _failed(prompt: StudyPrompt, nearest: Hit, code: str, message: str) -> Cell:
    return Cell(prompt, None, None, nearest, failure={"code": code, "message": message})


def seed_of(seed: int, id: str, what: str) -> int:
    """The seed of something that is drawn for a prompt: XXH64 of the study's seed, the prompt's id and what it is."""
    return xxh64(f"{seed}\0{id}\0{what}") >> 1


def cut(cells: Sequence[StudyPrompt], seeds: int, batch_size: int) -> list[Sequence[StudyPrompt]]:
    """Prompts in pieces of one batch of clips each, all seeds of a prompt in one piece."""
    size = max(1, batch_size // seeds)
    return [cells[first : first + size] for first in range(0, len(cells), size)]
