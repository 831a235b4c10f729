"""``captions/*.parquet``: captions and their embeddings, the truth about captions; sorted by num."""

from __future__ import annotations

import pyarrow as pa


def captions_schema(dim: int) -> pa.Schema:
    """Captions with embeddings of ``dim`` float32, each of length one."""
    return pa.schema(
        [
            ("num", pa.int64()),
            ("id", pa.string()),
            ("source", pa.string()),
            ("caption", pa.string()),
            ("caption_hash", pa.uint64()),
            ("embedding", pa.list_(pa.float32(), dim)),
        ]
    )


ENTRIES = pa.schema(
    [
        ("num", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("caption", pa.string()),
    ]
)
"""``index/*.parquet``: which clip stands at which position of the FAISS index of the same name."""
