"""Stages that need no videos and no models: what clips, embeddings and records hold is made up from addresses, captions
and ids. All else of them is as in a build."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from noisebank.errors import RowFailure
from noisebank.format.noise_file import NoiseWriter
from noisebank.format.schemas import noise_schema
from noisebank.format.shards import ShardSample
from noisebank.format.stage_names import StageName, over_clips
from noisebank.ids import xxh64
from noisebank.options import CaptionOptions, ClipOptions, FetchOptions, NoiseOptions
from noisebank.planning.plan import Plan
from noisebank.search.embed import Embedder, load_embedder
from noisebank.stages.captions import CaptionsStage
from noisebank.stages.clips import ClipsStage
from noisebank.stages.job import failure_of
from noisebank.stages.noise import NoiseStage
from noisebank.stages.over_clips import Written
from noisebank.stages.stage import Stage
from noisebank.video.clips import Clip
from tests.support.minilm import MINILM

SHAPE = (4, 2, 4, 6)
"""Of a record of noise."""
Failing = Mapping[str, tuple[str, bool]]
"""``(code, retryable)`` of what fails at a stage, by id."""
Broken = Mapping[str, Failing]
"""What fails in a build, by the name of the stage, or by its kind for all of its sets."""
_loaded: list[Embedder] = []


def mp4_of(address: str) -> bytes:
    """The clip made of a video."""
    return f"clip of {address} ".encode() * 50


def record_of(id: str, shape: Sequence[int] = SHAPE) -> torch.Tensor:
    """The noise of a clip before it is stored: with a mean and a spread of its own."""
    noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(xxh64(id) >> 1))
    return 0.1 + 1.2 * noise


def vector_of(caption: str) -> npt.NDArray[np.float32]:
    """The embedding of a caption by :class:`ToyEmbedder`, [D], of length one."""
    vector = np.random.default_rng(xxh64(caption)).normal(size=ToyEmbedder.dim).astype(np.float32)
    return vector / np.linalg.norm(vector)


class ToyEmbedder:
    """Embeds captions without a model."""

    digest, dim = "toy", 4

    def embed(self, captions: Sequence[str], batch_size: int = 64) -> npt.NDArray[np.float32]:
        return np.stack([vector_of(caption) for caption in captions])

    def count_truncated(self, captions: Sequence[str]) -> int:
        return 0


def embedder() -> Embedder:
    """A real captions model, loaded once."""
    if not _loaded:
        _loaded.append(load_embedder(MINILM))
    return _loaded[0]


def made_up_stages(plan: Plan, broken: Broken) -> list[Stage]:
    """All stages of a plan, in the order in which they follow each other."""

    def failing(stage: StageName) -> Failing:
        return broken.get(stage.name, broken.get(stage.kind, {}))

    return [
        _Clips(ClipOptions(), FetchOptions(), failing=failing(StageName("clips"))),
        CaptionsStage(CaptionOptions()),
        *(_Noise(NoiseOptions(stage.set), failing(stage)) for stage in over_clips(plan.fingerprints)),
    ]


@dataclass(frozen=True)
class _Clips(ClipsStage):
    failing: Failing = field(default_factory=dict)

    def clips(self, rows: pa.Table, addresses: Sequence[str], scratch: Path) -> Iterator[Clip | RowFailure]:
        for row in rows.to_pylist():
            mp4 = mp4_of(row["uri"])
            clip = Clip(row["id"], mp4, hashlib.sha256(mp4).hexdigest(), 2, 32, 48, 8.0, 25.0, 480, 320)
            yield _failure(row["id"], self.failing) or clip


@dataclass(frozen=True)
class _Noise(NoiseStage):
    failing: Failing

    def write(
        self,
        path: Path,
        samples: Iterator[ShardSample],
        clips: pa.Table,
        plan: Mapping[str, Any],
        model: Callable[[], Any],
    ) -> Written:
        schema = noise_schema(plan["shape"], plan["dtype"])
        others = [column for column in schema if column.name not in ("noise", "scale", "checksum")]
        failures = []
        with NoiseWriter(path, schema) as writer:
            for row, sample in zip(clips.to_pylist(), samples, strict=True):
                assert (row["id"], row["sha256"]) == (sample.id, hashlib.sha256(sample.mp4).hexdigest())
                if failure := _failure(sample.id, self.failing):
                    failures.append(failure_of(row, self.name.name, failure))
                    continue
                columns = {column.name: row.get(column.name, _filler(column.type, writer.rows)) for column in others}
                writer.append(record_of(sample.id, plan["shape"]), columns)
            info = writer.finish() if writer.rows else {}
        return Written(writer.rows, failures, info)


def _failure(id: str, failing: Failing) -> RowFailure | None:
    if id not in failing:
        return None
    code, retryable = failing[id]
    return RowFailure(code, f"{code} of {id}", retryable=retryable)


def _filler(type: pa.DataType, i: int) -> Any:
    return [0.25 * i] * type.list_size if pa.types.is_fixed_size_list(type) else i
