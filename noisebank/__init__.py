"""noisebank: optimal noise for text-to-video models from one lookup.

>>> from noisebank import NoiseBank
>>> bank = NoiseBank.open("./bank")                                                  # doctest: +SKIP
>>> latents = bank.noise("a dog on the beach", eta=0.2)                              # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from noisebank.errors import (
    BankDamaged,
    BankNotFound,
    ClipNotFound,
    ConfigError,
    JobFailed,
    NoiseBankError,
    ShapeMismatch,
    SnapshotConflict,
    SnapshotExpired,
    UnknownNoiseSet,
    UnsupportedFormat,
    UnsupportedStore,
)

if TYPE_CHECKING:
    from noisebank.reader.bank import InvertedNoise, NoiseBank
    from noisebank.reader.noise_sample import NoiseSample
    from noisebank.search.segments import Hit

_READER = {
    "Hit": ".search.segments",
    "InvertedNoise": ".reader.bank",
    "NoiseBank": ".reader.bank",
    "NoiseSample": ".reader.noise_sample",
}

__all__ = ["BankDamaged", "BankNotFound", "ClipNotFound", "ConfigError", "Hit", "InvertedNoise", "JobFailed"]
__all__ += ["NoiseBank", "NoiseBankError", "NoiseSample", "ShapeMismatch", "SnapshotConflict"]
__all__ += ["SnapshotExpired", "UnknownNoiseSet", "UnsupportedFormat", "UnsupportedStore"]


def __getattr__(name: str) -> Any:
    """The reader's names, imported when they are first asked for: torch and FAISS take a second."""
    if name in _READER:
        return getattr(import_module(_READER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_READER])
