"""Noise: the clips of a tar in; an Arrow shard of inverted noise with its statistics out.

Decoding of the next batch overlaps with the network; one clip that cannot be read or inverted fails alone.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa
import torch

from noisebank.errors import BankDamaged, ConfigError, RowFailure, ShapeMismatch
from noisebank.format.manifest import Snapshot
from noisebank.format.noise_file import LatentsFile, NoiseWriter, storage_roundtrip
from noisebank.format.schemas import noise_schema
from noisebank.format.shards import ShardSample
from noisebank.format.stage_names import NOISE
from noisebank.inversion.levels import Levels
from noisebank.models import (
    ModelAdapter,
    check_model,
    family_code,
    has_digest,
    load_clip_rules,
    load_for_inversion,
    model_digest,
)
from noisebank.models.config import absolute_path
from noisebank.options import Config, NoiseOptions, fingerprint
from noisebank.planning.plan import Plan
from noisebank.processes import local_workers
from noisebank.stages.clip_inversion import (
    ClipInverter,
    ClipRecord,
    MeteredNetwork,
    batch_size_of,
    find_failure,
    use_device,
)
from noisebank.stages.job import failure_of
from noisebank.stages.measuring import measure_clips
from noisebank.stages.over_clips import KEYS, StageOverClips, Written
from noisebank.stages.replaying import check_replay
from noisebank.stages.stage import Identity, LazyModel
from noisebank.stages.trial import try_inversion
from noisebank.video.frames import decode_mp4

_log = logging.getLogger(__name__)
_FREE = ("max_residual", "network_calls", "stalled_steps")
_ERRORS = ("reconstruction_error", "stored_reconstruction_error")
FEW_STEPS = 10
"""Fewer than this may stall (``python -m benchmarks.roundtrip --stalls``)."""
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

    @property
    def accelerator(self) -> str | None:
        return self.options.accelerator

    def identify(self, config: Config, latest: Snapshot | None) -> Identity:
        """A model that inverted such clips for ``latest`` is not checked again, because that takes seconds of imports,
        more than all else that a build with nothing to do needs."""
        noise = self.options
        try:
            rules = load_clip_rules(noise.reference, noise.motion_adapter)
            shape = rules.latent_shape(noise.frames or config.clips.frames, *config.clips.height_width)
            digest = self._digest(latest)
            mark = fingerprint(noise, model_digest=digest, **family_code(noise.reference, noise.motion_adapter))
            known = latest.stage_fingerprints if latest else {}
            if (known.get("clips"), known.get(self.name.name)) != (fingerprint(config.clips), mark):
                levels = check_model(noise.reference, noise.num_inference_steps, shape, noise.motion_adapter)
                self._warn(levels)
        except ShapeMismatch as error:
            remedy = "change clips.size, or clips.frames or noise.frames"
            raise ConfigError(f"noise.{noise.name}: {error}; {remedy}") from error
        except ConfigError as error:
            raise ConfigError(f"noise.{noise.name}: {error}") from error
        said = {name: getattr(noise, name) for name in _SAID} | ({"revision": noise.revision} if noise.revision else {})
        return Identity(mark, {"model": absolute_path(noise.model), "digest": digest, **said, "shape": list(shape)})

    def _warn(self, levels: Levels) -> None:
        """Says what inverts badly, though it can be inverted."""
        noise = self.options
        if noise.inverter == "diffuse":
            return
        if levels.prediction_type == "sample":
            _log.warning(
                "noise.%s: the network predicts the sample, which inverts worse than noise or velocity, and the worse "
                "the fewer steps: small models erred by 1e-3 in 50 steps and by 1e-1 in 10; measured errors stand in "
                "the records",
                noise.name,
            )
        elif noise.inverter == "fixed-point" and len(levels) < FEW_STEPS:
            _log.warning(
                "noise.%s: steps as long as with num_inference_steps %d may stall: small flow models erred by up to "
                "1e-2; measured errors stand in the records",
                noise.name,
                len(levels),
            )

    def _digest(self, latest: Snapshot | None) -> str:
        """That of the model; a bank keeps the one that it has, by whatever rule, as long as it stands for the model."""
        model, adapter = self.options.reference, self.options.motion_adapter
        known = (self.name.find(latest.models) or {}).get("digest") if latest else None
        return known if known and has_digest(known, model, adapter) else model_digest(model, adapter)

    def load_model(self, digest: str) -> ModelAdapter:
        adapter = load_for_inversion(self.options, digest)
        adapter.keep_for_inversion(self.options.prompt, self.options.guidance_scale)
        return adapter

    def try_out(self, model: ModelAdapter, plan: Plan) -> dict[str, Any]:
        name = self.name.name
        trial = try_inversion(model, self.options, cast(Shape, tuple(plan.models[name]["shape"])))
        _log.info("%s: %s", name, trial.describe(plan.todo()[name]["rows"], local_workers()))
        return vars(trial)

    def get_model(self, model: LazyModel, plan: Plan) -> Any:
        """As of any stage; a model that is loaded now must also give a record back (:func:`check_replay`)."""
        name = self.name.name

        def check(loaded: ModelAdapter) -> None:
            self.try_out(loaded, plan)
            loaded.replay_error = check_replay(loaded, self.options, cast(Shape, tuple(plan.models[name]["shape"])))

        return model.get(plan.models[name]["digest"], check)

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
        use_device(adapter.device)
        if adapter.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(adapter.device)
        shape = cast(Shape, tuple(plan["shape"]))
        run = _Inversion(adapter, self.options, clips, shape)
        outcomes: list[dict[str, Any] | RowFailure] = []
        with NoiseWriter(path, noise_schema(shape, self.options.dtype)) as writer, LatentsFile(path.parent) as latents:
            for row, outcome in zip(clips.to_pylist(), run.outcomes(samples), strict=True):
                if isinstance(outcome, ClipRecord):
                    columns = {name: row[name] for name in KEYS} | {name: getattr(outcome, name) for name in _FREE}
                    columns |= {name: values.tolist() for name, values in outcome.statistics.items()}
                    writer.append(outcome.noise, dict.fromkeys(_ERRORS) | columns)
                    latents.append(outcome.latents)
                    outcomes.append(columns)
                else:
                    outcomes.append(outcome)
            bad = self._measure(run, [made for made in outcomes if isinstance(made, dict)], writer, latents)
            batches = {str(size): count for size, count in sorted(run.inverter.batches.items())}
            info: dict[str, Any] = {"batch_size": run.inverter.batch_size, "batches": batches}
            info["threads"] = torch.get_num_threads()
            if rows := writer.rows - len(bad):
                info |= writer.finish(bad)
                info["description"] = adapter.describe(self.options.num_inference_steps, shape)
                info |= {} if adapter.replay_error is None else {"replay_error": adapter.replay_error}
        records = itertools.count()
        ends = [bad.get(next(records)) if isinstance(end, dict) else end for end in outcomes]
        failed = zip(clips.to_pylist(), ends, strict=True)
        failures = [failure_of(row, self.name.name, end) for row, end in failed if end is not None]
        busy, seconds = run.network.seconds(), time.perf_counter() - began
        rate, peak = len(clips) / seconds, _peak_bytes(adapter.device) / 1e9
        note = f"{rate:.2f} clips/s, network {busy / seconds:.0%} of the time, peak memory {peak:.2f} GB"
        return Written(rows, failures, info, note)

    def _measure(
        self, run: _Inversion, made: list[dict[str, Any]], writer: NoiseWriter, latents: LatentsFile
    ) -> dict[int, RowFailure]:
        """Notes the errors of the records that are measured; returns, by row, why some are not to be kept.

        Noise that was found without the network (``diffuse``) makes no promise to give its clip back.
        """
        promised = any(columns["network_calls"] for columns in made)
        max_error = self.options.max_reconstruction_error if promised else math.inf

        errors = measure_clips(
            [columns["num"] for columns in made],
            [columns["max_residual"] for columns in made],
            self.options.measured,
            lambda rows: run.inverter.measure(rows, lambda row: (writer.read(row), latents.read(row))),
            lambda error: not error <= max_error,
        )
        for row, error in errors.items():
            writer.note(row, stored_reconstruction_error=error)
        failures = {row: find_failure(error, max_error) for row, error in errors.items()}
        return {row: failure for row, failure in failures.items() if failure}


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
        batch_size = batch_size_of(adapter, options, shape)
        store = functools.partial(storage_roundtrip, dtype=options.dtype)
        self.inverter = ClipInverter(adapter, options, self.network, store, batch_size)

    def outcomes(self, samples: Iterator[ShardSample]) -> Iterator[ClipRecord | RowFailure]:
        """The record or failure of every clip, in the order of the tar."""
        with ThreadPoolExecutor(1, initializer=use_device, initargs=(self.adapter.device,)) as ahead:
            decoded = ahead.submit(self._decode_batch, samples)
            while (batch := decoded.result()).failures:
                decoded = ahead.submit(self._decode_batch, samples)
                results = iter(self.inverter.invert(batch.frames, batch.nums))
                yield from (failure or next(results) for failure in batch.failures)

    def _decode_batch(self, samples: Iterator[ShardSample]) -> _Batch:
        taken = [(sample.id, self._decode(sample)) for sample in islice(samples, self.inverter.batch_size)]
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
