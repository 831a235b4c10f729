"""Another name of :func:`noisebank.decode.decode`, which plans still use."""

from noisebank.decode import decode as typed

__all__ = ["typed"]
