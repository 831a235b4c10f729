"""``clips/*.parquet``: one row per clip of the tar of the same name, good or failed, sorted by num."""

from __future__ import annotations

import pyarrow as pa

CLIPS = pa.schema(
    [
        ("num", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("uri", pa.string()),
        ("start_ms", pa.int64()),
        ("end_ms", pa.int64()),
        ("caption", pa.string()),
        ("video", pa.uint64()),
        ("caption_hash", pa.uint64()),
        ("attempt", pa.int16()),
        ("clip_row", pa.int32()),  # position in the tar; -1: failed
        ("sha256", pa.string()),  # of the mp4; null: failed
        ("frames", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("fps", pa.float64()),
        ("source_fps", pa.float64()),
        ("source_height", pa.int32()),
        ("source_width", pa.int32()),
        ("code", pa.string()),  # null: good
        ("message", pa.string()),
        ("retryable", pa.bool_()),
    ]
)
