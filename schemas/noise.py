"""``noise/<set>/*.arrow`` (inverted noise with its statistics) and the table that finds a clip's record."""

from noisebank.format.schemas import RECORDS, noise_schema

__all__ = ["RECORDS", "noise_schema"]
