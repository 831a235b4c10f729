"""``failures/*.parquet``: every row that is not in the bank, and why."""

from noisebank.format.schemas import FAILURES

__all__ = ["FAILURES"]
