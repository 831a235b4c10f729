"""The small trained model: that of the package, or of the folder in ``NOISEBANK_TOY_MODEL``, for checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

from noisebank.world.shipped import shipped_model


def trained_model() -> Path:
    """Its folder."""
    return Path(given) if (given := os.environ.get("NOISEBANK_TOY_MODEL")) else shipped_model()
