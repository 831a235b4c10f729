"""``captions/*.parquet`` (captions and their embeddings) and ``index/*.parquet`` (which clip is at which position)."""

from noisebank.format.schemas import ENTRIES, captions_schema

__all__ = ["ENTRIES", "captions_schema"]
