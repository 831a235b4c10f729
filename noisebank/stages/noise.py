"""Noise: a tar of clips in; an Arrow shard of inverted noise with its statistics and a receipt out.

Decoding of the next batch overlaps with the network; one clip that cannot be read or inverted fails alone.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from noisebank.errors import RowFailure
from noisebank.inversion.clips import ClipRecord, MeteredNetwork, choose_batch_size, invert_clips
from noisebank.models import ModelAdapter
from noisebank.noise_file import storage_roundtrip, write_noise_file
from noisebank.options import NoiseOptions
from noisebank.receipts import Receipt, find_receipt, finish, inputs_hash
from noisebank.shards import read_shard
from noisebank.storage import FileEntry, Store, publish_file
from noisebank.video.frames import decode_mp4

from .clips import SIDECAR, TAR
from .finished import Finished, failure_of

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
    with store.open(tar.removesuffix(TAR) + SIDECAR) as file:
        table = pq.read_table(file, columns=["num", "id", "source", "uri", "clip_row", "sha256"])
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
    schema_of: Callable[[tuple[int, int, int, int], str], pa.Schema],
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
        schema_of: schema of a noise file by shape and storage dtype (``schemas.noise.noise_schema``).
        generation: number of the bank's last vacuum.

    Returns:
        The receipt names the noise file, or none if every clip failed; its ``info`` has what the manifest needs to
        find records, the model's description, and the batch size used.
    """
    began = time.perf_counter()
    stage = noise_stage(options.name)
    inputs = noise_inputs(fingerprint, clips)
    if (found := find_receipt(store, stage, inputs)) is not None:
        return Finished(found, made=False, seconds=time.perf_counter() - began)
    adapter = load()
    with tempfile.TemporaryDirectory(prefix="noisebank-noise-") as scratch:
        run = _Inversion(adapter, options, clips)
        outcomes = list(run.outcomes(_local(store, tar, Path(scratch))))
        rows = clips.to_pylist()
        good = [(row, record) for row, record in zip(rows, outcomes, strict=True) if isinstance(record, ClipRecord)]
        failures = tuple(
            failure_of(row, stage, outcome)
            for row, outcome in zip(rows, outcomes, strict=True)
            if isinstance(outcome, RowFailure)
        )
        files: tuple[FileEntry, ...] = ()
        info: dict[str, Any] = {"tar": tar, "batch_size": run.batch_size}
        if good:
            noise = torch.stack([record.noise for _, record in good])
            shape = (noise.shape[1], noise.shape[2], noise.shape[3], noise.shape[4])
            path = Path(scratch, "noise.arrow")
            info |= write_noise_file(path, schema_of(shape, options.dtype), _columns(good), noise)
            info["description"] = adapter.describe(options.num_inference_steps, shape)
            files = (publish_file(store, path, stage, ".arrow", len(good), generation),)
    receipt = Receipt(stage, inputs, fingerprint, files, len(good), failures, info)
    counted = finish(store, receipt)
    seconds = time.perf_counter() - began
    _log.info(
        "%s: %d clips inverted, %d failed, %.2f clips/s, network %.0f%% of the time%s",
        tar,
        len(good),
        len(failures),
        len(outcomes) / seconds,
        100 * run.network_seconds / seconds,
        f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if adapter.device.type == "cuda" else "",
    )
    return Finished(counted, made=counted == receipt, seconds=seconds)


class _Inversion:
    """The clips of one tar on their way through the network."""

    def __init__(self, adapter: ModelAdapter, options: NoiseOptions, clips: pa.Table) -> None:
        self.adapter = adapter
        self.options = options
        self.nums = dict(zip(clips.column("id").to_pylist(), clips.column("num").to_pylist(), strict=True))
        self.network = MeteredNetwork(adapter.network(guidance_scale=options.guidance_scale), adapter.device)
        self.batch_size = options.batch_size if isinstance(options.batch_size, int) else 0

    @property
    def network_seconds(self) -> float:
        """Time spent in the network."""
        return self.network.seconds()

    def outcomes(self, tar: Path) -> Iterator[ClipRecord | RowFailure]:
        """The record or failure of every clip, in the order of the tar."""
        samples = (sample for sample in read_shard(tar) if sample.id in self.nums)
        first = next(samples, None)
        if first is None:
            return
        if not self.batch_size:
            self.batch_size = self._probe(_decode(first.mp4, self.options.frames))
        waiting = [(first.id, first.mp4), *((s.id, s.mp4) for s in islice(samples, self.batch_size - 1))]
        with ThreadPoolExecutor(1) as ahead:
            decoded = ahead.submit(self._decoded, waiting)
            while waiting:
                batch = decoded.result()
                waiting = [(s.id, s.mp4) for s in islice(samples, self.batch_size)]
                decoded = ahead.submit(self._decoded, waiting)
                yield from self._inverted(batch)

    def _probe(self, frames: torch.Tensor | RowFailure) -> int:
        if isinstance(frames, RowFailure):
            return 1
        shape = self.adapter.rules.latent_shape(*frames.shape[:3])
        return choose_batch_size(self.adapter, shape)

    def _decoded(self, samples: list[tuple[str, bytes]]) -> list[tuple[str, torch.Tensor | RowFailure]]:
        return [(id, _decode(mp4, self.options.frames)) for id, mp4 in samples]

    def _inverted(self, batch: list[tuple[str, torch.Tensor | RowFailure]]) -> Iterator[ClipRecord | RowFailure]:
        ready = [(id, frames) for id, frames in batch if isinstance(frames, torch.Tensor)]
        results: Iterator[ClipRecord | RowFailure] = iter(())
        if ready:
            made = invert_clips(
                self.adapter,
                torch.stack([frames for _, frames in ready]),
                [self.nums[id] for id, _ in ready],
                self.options,
                batch_size=self.batch_size,
                store=lambda noise: storage_roundtrip(noise, self.options.dtype),
                network=self.network,
            )
            self.batch_size = min([self.batch_size, *(r.batch_size for r in made if isinstance(r, ClipRecord))])
            results = iter(made)
        for _, frames in batch:
            yield frames if isinstance(frames, RowFailure) else next(results)


def _decode(mp4: bytes, count: int | None) -> torch.Tensor | RowFailure:
    """``[F, H, W, 3]`` uint8, the first ``count`` frames."""
    try:
        return torch.from_numpy(decode_mp4(mp4)[:count].copy())
    except RowFailure as failure:
        return failure


def _local(store: Store, tar: str, scratch: Path) -> Path:
    """The tar as a local file: itself, or a copy."""
    if (path := store.local_path(tar)) is not None:
        return path
    copy = scratch / "clips.tar"
    with store.open(tar) as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return copy


def _columns(good: list[tuple[dict[str, Any], ClipRecord]]) -> dict[str, list[Any]]:
    """The columns of a noise file beside the noise."""
    columns: dict[str, list[Any]] = {name: [row[name] for row, _ in good] for name in ("num", "id", "sha256")}
    columns |= {name: [getattr(record, name) for _, record in good] for name in _MEASURES}
    for name in good[0][1].statistics:
        columns[name] = [record.statistics[name].tolist() for _, record in good]
    return columns
