"""Tars of clips with their sidecars, made directly: what the noise stage starts from."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from noisebank.format.receipts import Receipt
from noisebank.format.shards import ShardSample, write_shard
from noisebank.ids import clip_number
from noisebank.storage import Store, file_sha256, publish_file
from noisebank.video.encode import encode_mp4
from schemas.clips import CLIPS


def mp4_of(frames: torch.Tensor) -> bytes:
    """A clip's mp4 of uint8 RGB ``[F, H, W, 3]``."""
    pictures = [av.VideoFrame.from_ndarray(frame.numpy(), "rgb24").reformat(format="yuv420p") for frame in frames]
    return encode_mp4(pictures, Fraction(8), "yuv420p")


def write_clips(store: Store, mp4s: Mapping[str, bytes], *, stored: Mapping[str, bytes] | None = None) -> Receipt:
    """Publishes a tar of these mp4s by id; ``stored``: those that the sidecar says are in it, if others."""
    ids = sorted(mp4s, key=clip_number)
    stored = mp4s if stored is None else stored
    rows = [
        {"num": clip_number(id), "id": id, "source": "mine", "uri": f"{id}.mp4", "attempt": 1}
        | {"clip_row": i, "sha256": hashlib.sha256(stored[id]).hexdigest()}
        for i, id in enumerate(sorted(stored, key=clip_number))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        tar, sidecar = Path(scratch, "clips.tar"), Path(scratch, "clips.parquet")
        write_shard(tar, [ShardSample(id, mp4s[id], id) for id in ids])
        pq.write_table(pa.Table.from_pylist(rows, CLIPS), sidecar)
        digest = hashlib.sha256((file_sha256(tar) + file_sha256(sidecar)).encode()).hexdigest()
        files = tuple(
            publish_file(store, path, "clips", path.suffix, len(ids), name_digest=digest) for path in (tar, sidecar)
        )
    return Receipt("clips", digest[:32], "c", files, len(ids))
