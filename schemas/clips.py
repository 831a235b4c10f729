"""``clips/*.parquet``: one row per clip of the tar of the same name, good or failed."""

from noisebank.format.schemas import CLIPS

__all__ = ["CLIPS"]
