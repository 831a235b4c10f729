"""``rewrites/*.parquet``: prompts as ``noisebank rewrite`` wrote them anew, one row each."""

from noisebank.format.schemas import REWRITE_ROWS

__all__ = ["REWRITE_ROWS"]
