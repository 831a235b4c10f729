"""A package such as a user writes: a kind of source, an inverter and a stage over clips, each with its own option.

It is no part of noisebank: the tests put its folder on PYTHONPATH and name it in ``modules``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from noisebank.errors import RowFailure
from noisebank.format.shards import ShardSample
from noisebank.inversion import Inversion, Levels, Network, register_inverter
from noisebank.options import NoiseOptions, SourceOptions, StageOptions, option
from noisebank.sources import Block, Fields, read_fields, register_layout
from noisebank.stages.job import failure_of
from noisebank.stages.over_clips import StageOverClips, Written, register_stage
from noisebank.video.frames import decode_mp4

__version__ = "1.0"


@dataclass(frozen=True)
class DubbedOptions(SourceOptions):
    """A list with a caption a language."""

    language: str = option("en", "which of the captions")


@register_layout("dubbed", columns=lambda source: ["file", f"text_{source.language}"], options=DubbedOptions)
def read_dubbed(block: Block, source: DubbedOptions) -> Fields:
    """The rows of a list."""
    return read_fields(block, id="file", uri="file", caption=f"text_{source.language}")


@dataclass(frozen=True)
class DampedOptions(NoiseOptions):
    """Options of the inverter ``damped``."""

    damping: float = option(1.0, "share of the noise that is kept", minimum=0, maximum=1)


@register_inverter("damped", DampedOptions)
def damped(
    network: Network,
    latents: torch.Tensor,
    levels: Levels,
    options: DampedOptions,
    generators: Sequence[torch.Generator] | None,
) -> Inversion:
    """The clean latents, damped: nothing that anybody would use, but easy to recognise."""
    calls = torch.zeros(len(latents), dtype=torch.int64)
    return Inversion(options.damping * latents, 0, calls, torch.zeros(len(levels), len(latents)), calls)


@dataclass(frozen=True)
class FlowOptions(StageOptions):
    """Options of the stage ``flow``."""

    step: int = option(1, "frames between which motion is measured", minimum=1, maximum=100)


@register_stage("flow", FlowOptions)
class Flow(StageOverClips):
    """How much the pixels of a clip change from frame to frame: a stand-in for a score of optical flow."""

    def write(
        self,
        path: Path,
        samples: Iterator[ShardSample],
        clips: pa.Table,
        plan: Mapping[str, Any],
        model: Callable[[], Any],
    ) -> Written:
        rows, failures = [], []
        for sample, clip in zip(samples, clips.to_pylist(), strict=True):
            frames = decode_mp4(sample.mp4).astype(np.float64)
            if len(frames) <= self.options.step:
                short = RowFailure("too_short", f"{len(frames)} frames, more than {self.options.step} are wanted")
                failures.append(failure_of(clip, self.name.name, short))
                continue
            score = float(np.abs(frames[self.options.step :] - frames[: -self.options.step]).mean())
            rows.append({name: clip[name] for name in ("num", "id", "sha256")} | {"flow": score})
        pq.write_table(pa.Table.from_pylist(rows), path)
        return Written(len(rows), failures)
