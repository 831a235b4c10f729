"""``noise/<set>/*.arrow``: inverted noise with its statistics; and the table that finds a record by number."""

from __future__ import annotations

import pyarrow as pa


def noise_schema(shape: tuple[int, int, int, int], dtype: str) -> pa.Schema:
    """Records of one shape ``[C, F, H, W]``; ``dtype`` float16, or int8 with one scale a channel and frame."""
    channels, frames, _, _ = shape
    values = {"float16": pa.float16(), "int8": pa.int8()}[dtype]
    scale = [("scale", pa.list_(pa.float32(), channels * frames))] if dtype == "int8" else []
    return pa.schema(
        [
            ("num", pa.int64()),
            ("id", pa.string()),
            ("sha256", pa.string()),  # of the mp4 it was made from
            ("checksum", pa.uint64()),  # XXH3-64 of the record's bytes
            ("noise", pa.fixed_shape_tensor(values, shape)),
            *scale,
            ("mean", pa.list_(pa.float32(), channels)),
            ("std", pa.list_(pa.float32(), channels)),
            ("rms", pa.float32()),
            ("temporal_correlation", pa.float32()),  # of neighbouring frames
            ("spatial_correlation", pa.float32()),  # of neighbouring pixels
            ("reconstruction_error", pa.float32()),  # relative, of the latents given back; null: not measured
            ("stored_reconstruction_error", pa.float32()),  # the same, from the record as stored
            ("max_residual", pa.float32()),  # largest that a step of the inversion was left with
            ("network_calls", pa.int32()),
            ("stalled_steps", pa.int32()),
        ]
    )


RECORDS = pa.schema(
    [
        ("num", pa.int64()),
        ("file", pa.uint64()),  # key of the noise shard: first 64 bits of its sha256; 0: no record
        ("row", pa.int32()),
        ("checksum", pa.uint64()),
        ("status", pa.uint8()),  # schemas.rows.Status: OK, FAILED, RETRYABLE or REMOVED
    ]
)
"""Which record of a noise set belongs to a clip: an overlay table, sorted by num, newest segment wins."""
