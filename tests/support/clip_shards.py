"""Tars of clips with their sidecars, made directly: what the noise stage starts from."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import pyarrow as pa
import torch

from noisebank.format.receipts import Receipt
from noisebank.format.shards import ShardSample
from noisebank.ids import clip_number
from noisebank.stages.clips import write_clips as store_clips
from noisebank.storage import BankWriter, Store
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
        samples = [ShardSample(id, mp4s[id], id) for id in ids]
        files = store_clips(BankWriter(store), Path(scratch), samples, lambda: pa.Table.from_pylist(rows, CLIPS))
    return Receipt("clips", Path(files[0].path).stem, "c", files, len(ids))
