"""Inversion: pure functions from clean latents to noise, over the forward scheduler's own levels."""

from noisebank.inversion.inverters import (
    INVERTERS,
    TOLERANCE,
    Inversion,
    Network,
    invert,
    reconstruct,
    register_inverter,
    relative_error,
)
from noisebank.inversion.levels import Levels, levels_digest, levels_from_scheduler

__all__ = ["INVERTERS", "TOLERANCE", "Inversion", "Levels", "Network", "invert", "levels_digest"]
__all__ += ["levels_from_scheduler", "reconstruct", "register_inverter", "relative_error"]
