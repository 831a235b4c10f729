"""A module of one's own, as a configuration names it in ``modules``: an inverter with options of its own, and one
without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from noisebank.inversion import INVERTERS, Inversion, Levels, Network, register_inverter
from noisebank.options import NoiseOptions, option


@dataclass(frozen=True)
class MomentumOptions(NoiseOptions):
    """Options of ``momentum``."""

    momentum: float = option(0.9, "share of the steps before in what is predicted", minimum=0, maximum=1)
    note: str | None = option(None, "what you like to remember of the set", hashed=False)


@register_inverter("momentum", MomentumOptions)
def momentum(
    network: Network,
    latents: torch.Tensor,
    levels: Levels,
    options: MomentumOptions,
    generators: Sequence[torch.Generator] | None,
) -> Inversion:
    """``ddim``, by a moving average of what the network predicts."""
    average = None

    def averaged(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        nonlocal average
        prediction = network(latents, timestep)
        average = prediction if average is None else torch.lerp(prediction, average, options.momentum)
        return average

    return INVERTERS["ddim"](averaged, latents, levels, options, generators)


@register_inverter("steady")
def steady(
    network: Network,
    latents: torch.Tensor,
    levels: Levels,
    options: NoiseOptions,
    generators: Sequence[torch.Generator] | None,
) -> Inversion:
    """``ddim`` under another name: an inverter without options of its own."""
    return INVERTERS["ddim"](network, latents, levels, options, generators)
