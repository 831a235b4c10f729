"""Clips: rows of a plan in; a webdataset tar, its Parquet sidecar and a receipt out."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.errors import BankDamaged, RowFailure
from noisebank.format.receipts import Failure, Receipt, find_receipt, finish, inputs_hash
from noisebank.format.shards import ShardSample, write_shard
from noisebank.options import ClipOptions, FetchOptions
from noisebank.stages.finished import Finished, failure_of
from noisebank.storage import FileEntry, Store, file_sha256, publish_file
from noisebank.video.clips import Clip, ClipRequest, make_clips

STAGE = "clips"
TAR, SIDECAR = ".tar", ".parquet"


def clip_inputs(fingerprint: str, rows: pa.Table) -> str:
    """The inputs hash of a clips shard: ids, uris and ranges as listed, captions, and each row's attempt."""
    return inputs_hash(
        fingerprint, *(rows.column(name) for name in ("id", "uri", "start_ms", "end_ms", "caption", "attempt"))
    )


def sidecar_of(tar: str) -> str:
    """The path of the sidecar of a tar."""
    return tar.removesuffix(TAR) + SIDECAR


def read_sidecar(store: Store, path: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a sidecar, one row a clip, good or failed.

    Raises:
        BankDamaged: it is missing or cannot be read; names it.
    """
    try:
        with store.open(path) as file:
            return pq.read_table(file, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise BankDamaged(f"{path}: missing or damaged ({error}); run noisebank verify") from error


def make_clip_shard(
    store: Store,
    rows: pa.Table,
    *,
    options: ClipOptions,
    fetch: FetchOptions,
    fingerprint: str,
    resolve: Callable[[str, int], str],
    source_names: Mapping[int, str],
    schema: pa.Schema,
    generation: int = 0,
) -> Finished:
    """Fetches, cuts and encodes the clips of one shard, unless its receipt exists.

    Args:
        store: the bank.
        rows: the plan's rows of the shard, sorted by num (``schemas.rows.TASK_ROWS``).
        options: what a clip is.
        fetch: how videos are fetched.
        fingerprint: of the stage.
        resolve: gives the address to fetch from a uri as listed and the number of the list that it is relative to.
        source_names: source names by their number in ``rows``.
        schema: of the sidecar (``schemas.clips.CLIPS``).
        generation: number of the bank's last vacuum.

    Returns:
        The receipt names the tar (none if every row failed) and the sidecar, in this order.
    """
    began = time.perf_counter()
    inputs = clip_inputs(fingerprint, rows)
    if (found := find_receipt(store, STAGE, inputs)) is not None:
        return Finished(found, made=False, seconds=time.perf_counter() - began)
    entries: list[dict[str, Any]] = []
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory(prefix="noisebank-clips-") as scratch:
        tar, sidecar = Path(scratch, "clips.tar"), Path(scratch, "clips.parquet")
        requests = [
            ClipRequest(row["id"], resolve(row["uri"], row["base"]), row["start_ms"], row["end_ms"])
            for row in rows.select(["id", "uri", "base", "start_ms", "end_ms"]).to_pylist()
        ]
        made = make_clips(requests, options, fetch, Path(scratch))
        write_shard(tar, _samples(made, rows, source_names, entries, failures))
        pq.write_table(pa.Table.from_pylist(entries, schema=schema), sidecar, compression="zstd")
        good = sum(entry["clip_row"] >= 0 for entry in entries)
        files = _publish(store, tar if good else None, sidecar, good, len(entries), generation)
    receipt = Receipt(STAGE, inputs, fingerprint, files, good, tuple(failures))
    counted = finish(store, receipt)
    return Finished(counted, made=counted == receipt, seconds=time.perf_counter() - began)


def _samples(
    made: Iterator[tuple[ClipRequest, Clip | RowFailure]],
    rows: pa.Table,
    source_names: Mapping[int, str],
    entries: list[dict[str, Any]],
    failures: list[Failure],
) -> Iterator[ShardSample]:
    """The tar's samples as they are made; every row is appended to ``entries``, a failed one to ``failures`` too."""
    good = 0
    for row, (_, clip) in zip(rows.to_pylist(), made, strict=True):
        listed = {name: row[name] for name in ("id", "uri", "start_ms", "end_ms", "caption")}
        listed["source"] = source_names[row["source"]]
        entry = listed | {name: row[name] for name in ("num", "video", "caption_hash", "attempt")}
        if isinstance(clip, RowFailure):
            entry |= {"clip_row": -1, "code": clip.code, "message": clip.message, "retryable": clip.retryable}
            entries.append(entry)
            failures.append(failure_of(entry, STAGE, clip))
            continue
        facts = {
            name: getattr(clip, name)
            for name in ("sha256", "frames", "height", "width", "fps", "source_fps", "source_height", "source_width")
        }
        entries.append(entry | facts | {"clip_row": good})
        good += 1
        yield ShardSample(row["id"], clip.mp4, row["caption"], listed | facts)


def _publish(
    store: Store, tar: Path | None, sidecar: Path, good: int, rows: int, generation: int
) -> tuple[FileEntry, ...]:
    """Tar and sidecar under one name, the hash of both digests; a shard with no good clip has no tar."""
    parts = [(tar, TAR, good)] if tar else []
    parts.append((sidecar, SIDECAR, rows))
    digest = hashlib.sha256("".join(file_sha256(path) for path, _, _ in parts if path).encode()).hexdigest()
    return tuple(
        publish_file(store, path, STAGE, suffix, count, generation, name_digest=digest)
        for path, suffix, count in parts
        if path
    )
