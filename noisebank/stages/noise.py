"""Noise: a tar of clips in; an Arrow shard of inverted noise with its statistics and a receipt out.

Decoding of the next batch overlaps with the network; one clip that cannot be read or inverted fails alone.
"""

from __future__ import annotations

import hashlib
import logging
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from noisebank.errors import BankDamaged, RowFailure, ShapeMismatch
from noisebank.format.noise_file import NoiseWriter, storage_roundtrip
from noisebank.format.receipts import Failure, Receipt, find_receipt, finish, inputs_hash
from noisebank.format.shards import ShardSample, read_shard
from noisebank.models import ModelAdapter
from noisebank.options import NoiseOptions
from noisebank.stages.clip_inversion import ClipRecord, MeteredNetwork, choose_batch_size, invert_clips
from noisebank.stages.clips import read_sidecar, sidecar_of
from noisebank.stages.finished import Finished, failure_of
from noisebank.storage import FileEntry, Store, publish_file
from noisebank.video.frames import decode_mp4

_log = logging.getLogger(__name__)
_MEASURES = (
    "reconstruction_error",
    "stored_reconstruction_error",
    "max_residual",
    "network_calls",
    "stalled_steps",
)


def noise_stage(name: str) -> str:
    """The stage name of a noise set."""
    return f"noise/{name}"


def clips_of_tar(store: Store, tar: str, nums: pa.ChunkedArray | None = None) -> pa.Table:
    """The good clips of a tar from its sidecar, in its order: all, or those of ``nums``; their ``attempt`` is 1."""
    columns = ["num", "id", "source", "uri", "clip_row", "sha256"]
    table = read_sidecar(store, sidecar_of(tar), columns)
    table = table.filter(pc.field("clip_row") >= 0).sort_by("clip_row")
    if nums is not None:
        table = table.filter(pc.is_in(table.column("num"), nums.combine_chunks()))
    return table.append_column("attempt", pa.array(np.ones(table.num_rows, np.int16)))


def noise_inputs(fingerprint: str, clips: pa.Table) -> str:
    """The inputs hash of a noise shard: ids and the sha256 of each mp4 (and the try, where it is not the first)."""
    again = [clips.column("attempt")] if pc.any(pc.greater(clips.column("attempt"), 1)).as_py() else []
    return inputs_hash(fingerprint, clips.column("id"), clips.column("sha256"), *again)


def make_noise_shard(
    store: Store,
    tar: str,
    clips: pa.Table,
    *,
    options: NoiseOptions,
    fingerprint: str,
    load: Callable[[], ModelAdapter],
    schema: pa.Schema,
    generation: int = 0,
) -> Finished:
    """Inverts the clips of one tar, unless its receipt exists.

    Args:
        store: the bank.
        tar: path of the tar in the bank.
        clips: which of its clips, and each one's attempt (:func:`clips_of_tar`).
        options: of the noise set.
        fingerprint: of the stage.
        load: gives the loaded model; called only when there is something to do.
        schema: of a noise file (``schemas.noise.noise_schema``); it decides the shape of the records: a clip whose
            latents have another is a failure (``wrong_shape``).
        generation: number of the bank's last vacuum.

    Returns:
        The receipt names the noise file, or none if every clip failed; its ``info`` has what the manifest needs to
        find records, the model's description, and the batch size used.

    Raises:
        BankDamaged: the tar lacks a clip, or has another video than the one that was stored.
    """
    began = time.perf_counter()
    stage = noise_stage(options.name)
    inputs = noise_inputs(fingerprint, clips)
    if (found := find_receipt(store, stage, inputs)) is not None:
        return Finished(found, made=False, seconds=time.perf_counter() - began)
    adapter = load()
    loaded = time.perf_counter()
    if adapter.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(adapter.device)
    shape: tuple[int, int, int, int] = tuple(schema.field("noise").type.shape)
    run = _Inversion(adapter, options, clips, shape)
    with tempfile.TemporaryDirectory(prefix="noisebank-noise-") as scratch:
        path = Path(scratch, "noise.arrow")
        with NoiseWriter(path, schema) as writer:
            failures = _write(writer, clips, run.outcomes(_local(store, tar, Path(scratch))), stage)
            info: dict[str, Any] = {"tar": tar, "batch_size": run.batch_size}
            if rows := writer.rows:
                info |= writer.finish()
        files: tuple[FileEntry, ...] = ()
        if rows:
            info["description"] = adapter.describe(options.num_inference_steps, shape)
            files = (publish_file(store, path, stage, ".arrow", rows, generation),)
    receipt = Receipt(stage, inputs, fingerprint, files, rows, failures, info)
    counted = finish(store, receipt)
    _log_shard(receipt, time.perf_counter() - loaded, run.network)
    return Finished(counted, made=counted == receipt, seconds=time.perf_counter() - began)


def _log_shard(receipt: Receipt, seconds: float, network: MeteredNetwork) -> None:
    """One line a shard; ``seconds`` since the model was loaded."""
    _log.info(
        "%s of %s: %d clips inverted, %d failed, %.2f clips/s, network %.0f%% of the time, peak memory %.2f GB",
        receipt.stage,
        receipt.info["tar"],
        receipt.rows,
        len(receipt.failures),
        (receipt.rows + len(receipt.failures)) / seconds,
        100 * network.seconds() / seconds,
        _peak_bytes(network.device) / 1e9,
    )


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

    def __init__(
        self, adapter: ModelAdapter, options: NoiseOptions, clips: pa.Table, shape: tuple[int, int, int, int]
    ) -> None:
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

    def outcomes(self, tar: Path) -> Iterator[ClipRecord | RowFailure]:
        """The record or failure of every clip, in the order of the tar."""
        samples = (sample for sample in read_shard(tar) if sample.id in self.clips)
        found = 0
        with ThreadPoolExecutor(1) as ahead:
            decoded = ahead.submit(self._decode_batch, samples)
            while (batch := decoded.result()).failures:
                decoded = ahead.submit(self._decode_batch, samples)
                found += len(batch.failures)
                yield from self._inverted(batch)
        if found != len(self.clips):
            raise BankDamaged(f"{tar}: {found} of {len(self.clips)} clips are in it; run noisebank verify")

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

    def _inverted(self, batch: _Batch) -> Iterator[ClipRecord | RowFailure]:
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


def _local(store: Store, tar: str, scratch: Path) -> Path:
    """The tar as a local file: itself, or a copy."""
    if (path := store.local_path(tar)) is not None:
        return path
    copy = scratch / "clips.tar"
    with store.open(tar) as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return copy


def _write(
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
