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
    PromptNotFound,
    ShapeMismatch,
    SnapshotConflict,
    SnapshotExpired,
    UnknownNoiseSet,
    UnsupportedFormat,
    UnsupportedStore,
)

if TYPE_CHECKING:
    from noisebank.generation.hybrid import hybrid_semantics
    from noisebank.reader.bank import InvertedNoise, NoiseBank
    from noisebank.reader.frequencies import LowPass
    from noisebank.reader.noise_sample import NoiseSample
    from noisebank.reader.priors import mixed, progressive
    from noisebank.rewriting.endpoint import EndpointRewriter
    from noisebank.rewriting.local_model import TransformersRewriter
    from noisebank.rewriting.published import Rewrites
    from noisebank.search.segments import Hit

_LAZY = {
    "EndpointRewriter": ".rewriting.endpoint",
    "Hit": ".search.segments",
    "InvertedNoise": ".reader.bank",
    "LowPass": ".reader.frequencies",
    "NoiseBank": ".reader.bank",
    "NoiseSample": ".reader.noise_sample",
    "Rewrites": ".rewriting.published",
    "TransformersRewriter": ".rewriting.local_model",
    "hybrid_semantics": ".generation.hybrid",
    "mixed": ".reader.priors",
    "progressive": ".reader.priors",
}

__all__ = ["BankDamaged", "BankNotFound", "ClipNotFound", "ConfigError", "EndpointRewriter", "Hit", "InvertedNoise"]
__all__ += ["JobFailed", "LowPass", "NoiseBank", "NoiseBankError", "NoiseSample", "PromptNotFound", "Rewrites"]
__all__ += ["ShapeMismatch", "SnapshotConflict", "SnapshotExpired", "TransformersRewriter", "UnknownNoiseSet"]
__all__ += ["UnsupportedFormat", "UnsupportedStore", "hybrid_semantics", "mixed", "progressive"]


def __getattr__(name: str) -> Any:
    """What needs torch or FAISS, imported when it is first asked for: they take a second."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
