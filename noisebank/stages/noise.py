"""Noise: the clips of a tar in; an Arrow shard of inverted noise with its statistics out.

Decoding of the next batch overlaps with the network; one clip that cannot be read or inverted fails alone.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from noisebank.errors import BankDamaged, ConfigError, RowFailure, ShapeMismatch
from noisebank.format.manifest import Snapshot
from noisebank.format.noise_file import NoiseWriter, storage_roundtrip
from noisebank.format.receipts import Failure
from noisebank.format.schemas import noise_schema
from noisebank.format.shards import ShardSample
from noisebank.format.stage_names import NOISE
from noisebank.models import ModelAdapter, check_model, load_clip_rules, load_for_inversion, model_digest
from noisebank.models.config import absolute_path
from noisebank.options import Config, NoiseOptions, fingerprint
from noisebank.stages.clip_inversion import ClipRecord, MeteredNetwork, choose_batch_size, invert_clips
from noisebank.stages.job import failure_of
from noisebank.stages.over_clips import StageOverClips, Written
from noisebank.stages.stage import Identity
from noisebank.video.frames import decode_mp4

_MEASURES = ("reconstruction_error", "stored_reconstruction_error", "max_residual", "network_calls", "stalled_steps")
_SAID = ("inverter", "prompt", "guidance_scale", "num_inference_steps", "dtype")
"""Options that the snapshot tells readers."""

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class NoiseStage(StageOverClips):
    """Inverts the clips for one noise set.

    Args:
        options: of the set.
    """

    options: NoiseOptions
    kind = NOISE
    suffix = ".arrow"
    has_model = True

    @property
    def accelerator(self) -> str | None:
        return self.options.accelerator

    def identify(self, config: Config, latest: Snapshot | None) -> Identity:
        """A model that inverted such clips for ``latest`` is not checked again, because that takes seconds of imports,
        more than all else that a build with nothing to do needs."""
        noise = self.options
        try:
            shape = record_shape(config, noise)
            digest = model_digest(noise.model, noise.motion_adapter)
            mark = fingerprint(noise, model_digest=digest)
            known = latest.stage_fingerprints if latest else {}
            if (known.get("clips"), known.get(self.name.name)) != (fingerprint(config.clips), mark):
                check_model(noise.model, noise.num_inference_steps, shape, noise.motion_adapter)
        except ConfigError as error:
            raise ConfigError(f"noise.{noise.name}: {error}") from error
        said = {name: getattr(noise, name) for name in _SAID}
        return Identity(mark, {"model": absolute_path(noise.model), "digest": digest, **said, "shape": list(shape)})

    def load_model(self, digest: str) -> ModelAdapter:
        return load_for_inversion(self.options, digest)

    def write(
        self,
        path: Path,
        samples: Iterator[ShardSample],
        clips: pa.Table,
        plan: Mapping[str, Any],
        model: Callable[[], Any],
    ) -> Written:
        """The shape of the records is that of the plan: a clip whose latents have another fails (``wrong_shape``).

        Raises:
            BankDamaged: a clip has another video than the one that was stored.
        """
        adapter: ModelAdapter = model()
        began = time.perf_counter()
        if adapter.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(adapter.device)
        channels, frames, height, width = plan["shape"]
        shape = (channels, frames, height, width)
        run = _Inversion(adapter, self.options, clips, shape)
        with NoiseWriter(path, noise_schema(shape, self.options.dtype)) as writer:
            failures = _append_records(writer, clips, run.outcomes(samples), self.name.name)
            info: dict[str, Any] = {"batch_size": run.batch_size}
            rows = writer.rows
            if rows:
                info |= writer.finish()
                info["description"] = adapter.describe(self.options.num_inference_steps, shape)
        note = _describe_speed(len(clips), time.perf_counter() - began, run.network)
        return Written(rows, failures, info, note)


def record_shape(config: Config, noise: NoiseOptions) -> Shape:
    """The shape ``(C, F, H, W)`` of the records of a noise set, from the configuration of its model.

    Raises:
        ConfigError: the model cannot take these clips; says what would fit.
    """
    height, width = config.clips.height_width
    rules = load_clip_rules(noise.model, noise.motion_adapter)
    try:
        return rules.latent_shape(noise.frames or config.clips.frames, height, width)
    except ShapeMismatch as error:
        raise ConfigError(f"{error}; change clips.size, or clips.frames or noise.frames") from error


def _describe_speed(clips: int, seconds: float, network: MeteredNetwork) -> str:
    """How fast a shard was inverted, in ``seconds`` since the model was loaded, for the log."""
    share, memory = network.seconds() / seconds, _peak_bytes(network.device) / 1e9
    return f"{clips / seconds:.2f} clips/s, network {share:.0%} of the time, peak memory {memory:.2f} GB"


def _peak_bytes(device: torch.device) -> int:
    """Most memory held: on a GPU by tensors since the shard began, else by this process since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class _Batch(NamedTuple):
    """Clips of a tar, decoded: ``frames`` ``[n, F, H, W, 3]`` uint8 of those without a failure, whose numbers are
    ``nums``; ``failures`` has one entry a clip, in the order of the tar."""

    frames: torch.Tensor
    nums: list[int]
    failures: list[RowFailure | None]


class _Inversion:
    """The clips of one tar on their way through the network."""

    def __init__(self, adapter: ModelAdapter, options: NoiseOptions, clips: pa.Table, shape: Shape) -> None:
        self.adapter = adapter
        self.options = options
        self.shape = shape
        self.clips = {row["id"]: row for row in clips.select(["id", "num", "sha256"]).to_pylist()}
        self.network = MeteredNetwork(adapter.network(options.prompt, options.guidance_scale), adapter.device)
        self.batch_size = (
            options.batch_size
            if isinstance(options.batch_size, int)
            else choose_batch_size(adapter, shape, options.prompt, options.guidance_scale)
        )

    def outcomes(self, samples: Iterator[ShardSample]) -> Iterator[ClipRecord | RowFailure]:
        """The record or failure of every clip, in the order of the tar."""
        with ThreadPoolExecutor(1) as ahead:
            decoded = ahead.submit(self._decode_batch, samples)
            while (batch := decoded.result()).failures:
                decoded = ahead.submit(self._decode_batch, samples)
                yield from self._invert(batch)

    def _decode_batch(self, samples: Iterator[ShardSample]) -> _Batch:
        taken = [(sample.id, self._decode(sample)) for sample in islice(samples, self.batch_size)]
        ready = [(self.clips[id]["num"], frames) for id, frames in taken if isinstance(frames, torch.Tensor)]
        frames = torch.stack([frames for _, frames in ready]) if ready else torch.empty(0)
        if self.adapter.device.type == "cuda":
            frames = frames.pin_memory()
        failures = [frames if isinstance(frames, RowFailure) else None for _, frames in taken]
        return _Batch(frames, [num for num, _ in ready], failures)

    def _decode(self, sample: ShardSample) -> torch.Tensor | RowFailure:
        """The first frames of a clip, ``[F, H, W, 3]`` uint8, or why it cannot be used."""
        if hashlib.sha256(sample.mp4).hexdigest() != self.clips[sample.id]["sha256"]:
            raise BankDamaged(f"clip {sample.id}: its mp4 is not the one that was stored; run noisebank verify")
        try:
            frames = torch.from_numpy(decode_mp4(sample.mp4)[: self.options.frames].copy())
            shape = self.adapter.rules.latent_shape(*frames.shape[:3])
        except RowFailure as failure:
            return failure
        except ShapeMismatch as error:
            return RowFailure("wrong_shape", str(error))
        if shape != self.shape:
            pixels = " x ".join(map(str, frames.shape[:3]))
            return RowFailure(
                "wrong_shape", f"a clip of {pixels} has latents {list(shape)}, the noise set's are {list(self.shape)}"
            )
        return frames

    def _invert(self, batch: _Batch) -> Iterator[ClipRecord | RowFailure]:
        made = invert_clips(
            self.adapter,
            batch.frames,
            batch.nums,
            self.options,
            batch_size=self.batch_size,
            store=lambda noise: storage_roundtrip(noise, self.options.dtype),
            network=self.network,
        )
        self.batch_size = min([self.batch_size, *(r.batch_size for r in made if isinstance(r, ClipRecord))])
        results = iter(made)
        for failure in batch.failures:
            yield failure or next(results)


def _append_records(
    writer: NoiseWriter, clips: pa.Table, outcomes: Iterator[ClipRecord | RowFailure], stage: str
) -> tuple[Failure, ...]:
    """Writes the records as they come, so that the noise of a batch is held and not that of a shard; gives the failures
    of the others."""
    failures = []
    for row, outcome in zip(clips.to_pylist(), outcomes, strict=True):
        if isinstance(outcome, RowFailure):
            failures.append(failure_of(row, stage, outcome))
            continue
        columns = {name: row[name] for name in ("num", "id", "sha256")}
        columns |= {name: getattr(outcome, name) for name in _MEASURES}
        columns |= {name: values.tolist() for name, values in outcome.statistics.items()}
        writer.append(outcome.noise, columns)
    return tuple(failures)
