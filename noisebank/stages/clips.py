"""Clips: rows of a plan in; a webdataset tar and its Parquet sidecar out."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.errors import RowFailure
from noisebank.format.manifest import Snapshot
from noisebank.format.receipts import Failure, inputs_hash
from noisebank.format.schemas import CLIPS as SIDECAR_SCHEMA
from noisebank.format.shards import ShardSample, write_shard
from noisebank.format.stage_names import CLIPS, StageName
from noisebank.ids import xxh64_of
from noisebank.options import ClipOptions, Config, FetchOptions, fingerprint
from noisebank.planning.plan import Plan, read_task
from noisebank.sources.rows import video_hashes
from noisebank.stages.captions import several_captions
from noisebank.stages.dead_list import DeadListWatch
from noisebank.stages.job import UPSCALED, Made, ShardJob, failure_of
from noisebank.stages.stage import Identity, LazyModel, ShardWork, Stage
from noisebank.storage import BankWriter, FileEntry, Store
from noisebank.video.clips import Clip, ClipRequest, make_clips

TAR, SIDECAR = ".tar", ".parquet"
_FACTS = ("sha256", "frames", "height", "width", "fps", "source_fps", "source_height", "source_width")


@dataclass(frozen=True)
class ClipsStage(Stage):
    """Fetches, cuts and encodes the clips.

    Args:
        options: what a clip is.
        fetch: how videos are fetched.
        by_source: what it is of the sources, by number, that have a rhythm of their own.
        early_stop: whether a build whose first rows fail is stopped (:mod:`.dead_list`).
    """

    options: ClipOptions
    fetch: FetchOptions
    by_source: Mapping[int, ClipOptions] = field(default_factory=dict)
    early_stop: bool = False

    @property
    def name(self) -> StageName:
        return StageName(CLIPS)

    def identify(self, config: Config, latest: Snapshot | None) -> Identity:
        return Identity(fingerprint(self.options))

    def job(self, store: Store, plan: Plan, work: ShardWork, model: LazyModel) -> ShardJob:
        rows, fingerprint = read_task(store, work.task), plan.fingerprints[CLIPS]
        watch = DeadListWatch(store, plan, clip_inputs(fingerprint, rows)) if self.early_stop else None
        return self.shard(rows, fingerprint, plan.resolve, plan.source_names, watch)

    def shard(
        self,
        rows: pa.Table,
        fingerprint: str,
        resolve: Callable[[str, int], str],
        source_names: Mapping[int, str],
        watch: DeadListWatch | None = None,
    ) -> ShardJob:
        """The job of one tar (none if every row failed) and its sidecar, in this order.

        Args:
            rows: the plan's rows of the shard, sorted by num (:data:`noisebank.format.schemas.TASK_ROWS`).
            fingerprint: of the stage.
            resolve: gives the address to fetch from a uri as listed and the number of the list that it is relative to.
            source_names: source names by their number in ``rows``.
            watch: counts what becomes of them, if a dead list is to be noticed.
        """

        def make(writer: BankWriter) -> Made:
            entries: list[dict[str, Any]] = []
            failures: list[Failure] = []
            info: dict[str, Any] = {}
            with tempfile.TemporaryDirectory(prefix="noisebank-clips-") as scratch:
                addresses = [*map(resolve, rows.column("uri").to_pylist(), rows.column("base").to_pylist())]
                clips = _note_upscaled(self.clips(rows, addresses, Path(scratch)), info)
                clips = watch.follow(clips, addresses) if watch else clips
                samples = _list_samples(rows, source_names, clips, entries, failures)
                sidecar = functools.partial(pa.Table.from_pylist, entries, SIDECAR_SCHEMA)
                files = write_clips(writer, Path(scratch), samples, sidecar)
            note = f"{info[UPSCALED]} of them scaled up" if info else ""
            return Made(files, len(entries) - len(failures), tuple(failures), info, note)

        return ShardJob(CLIPS, fingerprint, clip_inputs(fingerprint, rows), len(rows), make)

    def clips(self, rows: pa.Table, addresses: Sequence[str], scratch: Path) -> Iterator[Clip | RowFailure]:
        """The clip of every row in turn, or why it cannot be had."""
        columns = (rows.column(name).to_pylist() for name in ("start_ms", "end_ms"))
        options = map(self.by_source.get, rows.column("source").to_pylist())
        requests = [*map(ClipRequest, rows.column("id").to_pylist(), addresses, *columns, options)]
        return (clip for _, clip in make_clips(requests, self.options, self.fetch, scratch))


def _note_upscaled(clips: Iterable[Clip | RowFailure], info: dict[str, Any]) -> Iterator[Clip | RowFailure]:
    """The clips as they come; how many were scaled up, if any, goes into ``info``."""
    for clip in clips:
        if isinstance(clip, Clip) and clip.upscaled:
            info[UPSCALED] = info.get(UPSCALED, 0) + 1
        yield clip


def _list_samples(
    rows: pa.Table,
    source_names: Mapping[int, str],
    clips: Iterator[Clip | RowFailure],
    entries: list[dict[str, Any]],
    failures: list[Failure],
) -> Iterator[ShardSample]:
    """The tar's samples as they are made; every row is appended to ``entries``, a failed one to ``failures`` too."""
    for row, captions, clip in zip(rows.to_pylist(), several_captions(rows), clips, strict=True):
        listed = {name: row[name] for name in ("id", "uri", "start_ms", "end_ms", "caption")}
        listed["source"] = source_names[row["source"]]
        entry = listed | {name: row[name] for name in ("num", "video", "caption_hash", "attempt")}
        if isinstance(clip, RowFailure):
            entry |= {"clip_row": -1, "code": clip.code, "message": clip.message, "retryable": clip.retryable}
            entries.append(entry)
            failures.append(failure_of(entry, CLIPS, clip))
            continue
        facts = {name: getattr(clip, name) for name in _FACTS}
        entries.append(entry | facts | {"clip_row": len(entries) - len(failures)})
        sample = ShardSample(row["id"], clip.mp4, row["caption"], listed | facts)
        yield sample.with_captions(captions) if captions else sample


def clip_inputs(fingerprint: str, rows: pa.Table) -> str:
    """The inputs hash of a clips shard: ids, uris and ranges as listed, captions, each row's attempt; where a source
    has a rhythm of its own, also what tells clips of another rhythm apart, and where clips have several captions, what
    tells those apart."""
    columns = ["id", "uri", "start_ms", "end_ms", "caption", "attempt"]
    plain = video_hashes(*(rows.column(name) for name in ("uri", "start_ms", "end_ms")))
    if not np.array_equal(plain, rows.column("video").to_numpy()):
        columns.append("video")
    if not np.array_equal(xxh64_of(rows.column("caption").combine_chunks()), rows.column("caption_hash").to_numpy()):
        columns.append("caption_hash")
    return inputs_hash(fingerprint, *(rows.column(name) for name in columns))


def write_clips(
    writer: BankWriter, scratch: Path, samples: Iterable[ShardSample], sidecar: Callable[[], pa.Table]
) -> tuple[FileEntry, ...]:
    """Stores a tar, none if there is no sample, and its sidecar, which is asked for when the samples are written."""
    tar, beside = scratch / f"clips{TAR}", scratch / f"clips{SIDECAR}"
    good = write_shard(tar, samples)
    table = sidecar()
    pq.write_table(table, beside, compression="zstd")
    files = [(tar, TAR, good)] if good else []
    return writer.group([*files, (beside, SIDECAR, table.num_rows)], CLIPS)


def sidecar_of(tar: str) -> str:
    """The path of the sidecar of a tar."""
    return tar.removesuffix(TAR) + SIDECAR
