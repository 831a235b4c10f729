"""``failures/*.parquet``: every row that is not in the bank, and why; an overlay table by (num, stage)."""

from __future__ import annotations

import pyarrow as pa

FAILURES = pa.schema(
    [
        ("num", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("uri", pa.string()),
        ("stage", pa.string()),  # plan, clips, captions, or noise/<set>
        ("code", pa.string()),  # empty: healed, the entry before it no longer holds
        ("message", pa.string()),
        ("retryable", pa.bool_()),
        ("attempts", pa.int16()),
        ("first_snapshot", pa.int64()),  # number of the snapshot that first recorded it
        ("last_snapshot", pa.int64()),  # number of the snapshot that recorded the newest attempt
    ]
)
