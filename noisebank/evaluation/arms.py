"""The arms of a study by name: which record goes into the fresh noise, and what is done to it first.

An arm is an entry of :data:`ARMS`; a module of a user's own adds one with :func:`register_arm`. Weight, filter, prior,
noise set, bank and rewritten prompts are options that every arm has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from noisebank.evaluation.options import ArmOptions, ContradictingOptions
from noisebank.evaluation.pool import Pool, StudyPrompt
from noisebank.options import register_options
from noisebank.search.segments import Hit

Choose = Callable[[Pool, StudyPrompt, np.random.Generator, Any], Hit | None]
"""From pool, prompt, what draws for this prompt, and the arm's options to the clip whose record is taken; None: no
record at all. RowFailure where there is no such clip."""

Change = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""From a record ``[C, F, H, W]`` and what draws for this clip to what is mixed in."""


def _none(pool: Pool, prompt: StudyPrompt, rng: np.random.Generator, options: ArmOptions) -> None:
    return None


def _nearest(pool: Pool, prompt: StudyPrompt, rng: np.random.Generator, options: ArmOptions) -> Hit:
    return pool.nearest([prompt.text])[0]


def _random(pool: Pool, prompt: StudyPrompt, rng: np.random.Generator, options: ArmOptions) -> Hit:
    return pool.at_random(rng, but=pool.nearest([prompt.text])[0])


def _oracle(pool: Pool, prompt: StudyPrompt, rng: np.random.Generator, options: ArmOptions) -> Hit:
    return pool.matching(rng, prompt.truth)


def _contradicting(pool: Pool, prompt: StudyPrompt, rng: np.random.Generator, options: ContradictingOptions) -> Hit:
    return pool.matching(rng, prompt.truth, options.differs)


def keep(record: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The record as it is."""
    return record


def shuffle_frames(record: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The record with its frames in another order: all that is left of it is what each frame shows."""
    frames = record.shape[1]
    order = torch.arange(frames)
    while frames > 1 and torch.equal(order, torch.arange(frames)):
        order = torch.randperm(frames, generator=generator)
    return record[:, order]


def keep_spectrum(record: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """White noise with the record's power spectrum over frames, height and width, in every channel: its amplitudes, and
    the phases of the white noise (surrogate data of Theiler et al., 1992)."""
    white = torch.randn(record.shape, generator=generator, dtype=torch.float64)
    phases = torch.fft.fftn(white, dim=(1, 2, 3))
    amplitudes = torch.fft.fftn(record.double(), dim=(1, 2, 3)).abs()
    surrogate: torch.Tensor = torch.fft.ifftn(amplitudes * phases / phases.abs(), dim=(1, 2, 3)).real.float()
    return surrogate


def keep_moments(record: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """White noise with the record's mean and variance in every channel, to the last bit of both, and nothing else."""
    white = torch.randn(record.shape, generator=generator)
    own_std, own_mean = torch.std_mean(white, dim=(1, 2, 3), correction=0, keepdim=True)
    std, mean = torch.std_mean(record, dim=(1, 2, 3), correction=0, keepdim=True)
    return (white - own_mean) / own_std * std + mean


@dataclass(frozen=True)
class Arm:
    """A kind of arm.

    Args:
        choose: the clip whose record is taken.
        change: what is done to the record.
    """

    choose: Choose
    change: Change = keep


ARMS: dict[str, Arm] = {
    "gaussian": Arm(_none),
    "nearest": Arm(_nearest),
    "random": Arm(_random),
    "oracle": Arm(_oracle),
    "contradicting": Arm(_contradicting),
    "shuffled": Arm(_nearest, shuffle_frames),
    "spectrum": Arm(_nearest, keep_spectrum),
    "moments": Arm(_nearest, keep_moments),
}
"""Arms by kind. ONA, ``diffuse`` in place of inversion, and exact against paper inversion are ``nearest`` with records
of different noise sets."""


def register_arm(kind: str, arm: Arm, options: type[ArmOptions] = ArmOptions) -> None:
    """Makes an arm selectable as ``{kind: <kind>}``, with the options of its class."""
    register_options("arms", kind, options, arm.choose.__module__)
    ARMS[kind] = arm
