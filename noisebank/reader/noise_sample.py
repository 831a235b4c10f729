"""Records and fresh noise to one batch of latents, in the layout and order in which the pipeline draws its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from noisebank.errors import ShapeMismatch
from noisebank.models.layout import to_pipeline
from noisebank.reader.mixing import marginal_variance, mix, noise_digest
from noisebank.reader.priors import PRIORS, Generators, Prior
from noisebank.search.segments import Hit


@dataclass(frozen=True)
class NoiseSample:
    """Mixed noise and what it was mixed from.

    Args:
        latents: float32 on the CPU, batch first, in the layout of the pipeline's ``latents=``.
        hits: the clip that each sample's inverted noise is of.
        fresh: for each sample whether it is fresh noise alone because its hit was below ``min_similarity``.
        eta: weight of the inverted noise.
        model: what the records were made with, as the snapshot describes it.
        drawn_digest: of the fresh noise (:func:`.mixing.noise_digest`); empty where it was not asked for, or
            nothing was drawn.
    """

    latents: torch.Tensor
    hits: tuple[Hit, ...]
    fresh: tuple[bool, ...]
    eta: float
    model: Mapping[str, Any] = field(repr=False)
    drawn_digest: str = ""
    _records: Sequence[torch.Tensor] = field(repr=False, default=())

    @cached_property
    def marginal_variance(self) -> tuple[float, ...]:
        """Variance of each sample (:func:`noisebank.reader.mixing.marginal_variance`); 1 for fresh noise."""
        pairs = zip(self._records, self.fresh, strict=True)
        return tuple(1.0 if fresh else marginal_variance(record, self.eta) for record, fresh in pairs)


def mix_records(
    records: Sequence[torch.Tensor],
    hits: Sequence[Hit],
    fresh: Sequence[bool],
    eta: float,
    model: Mapping[str, Any],
    prior: str | Prior = "iid",
    generator: Generators = None,
    digest: bool = False,
) -> NoiseSample:
    """Mixes a batch (:func:`noisebank.reader.mixing.mix`).

    Args:
        records: inverted noise of each sample, ``[C, F, H, W]`` float32.
        hits, fresh, eta, model: as of :class:`NoiseSample`.
        prior: a name in :data:`noisebank.reader.priors.PRIORS`, or a function.
        generator: of the fresh noise.
        digest: whether to digest the fresh noise.

    Raises:
        ShapeMismatch: the prior gives another shape than it was asked for.
        ValueError: ``eta`` or ``prior`` is not allowed.
    """
    layout = model["layout"]
    batch = to_pipeline(records[0][None] if len(records) == 1 else torch.stack(list(records)), layout)
    latents, drawn_digest = batch, ""
    if any(fresh) or eta != math.inf:
        drawn = _draw(batch, layout, tuple(records[0].shape), prior, generator)
        drawn_digest = noise_digest(drawn) if digest else ""
        latents = mix(drawn, batch, eta, out=None if any(fresh) else drawn)
        if any(fresh):
            latents = torch.where(torch.tensor(fresh).view(-1, *[1] * (drawn.dim() - 1)), drawn, latents)
    return NoiseSample(latents.contiguous(), tuple(hits), tuple(fresh), eta, model, drawn_digest, records)


def _draw(
    batch: torch.Tensor, layout: str, shape: tuple[int, ...], prior: str | Prior, generator: Generators
) -> torch.Tensor:
    """Fresh noise in the layout of ``batch``, drawn as the pipeline itself draws it: LTX draws, then packs."""
    packed = layout == "BSD"
    wanted = (len(batch), *shape) if packed else tuple(batch.shape)
    if not isinstance(prior, str):  # (what a caller's function gives is the caller's: nothing is written into it)
        drawn = prior(wanted, generator).to("cpu", torch.float32, copy=True)
    elif prior in PRIORS:
        drawn = PRIORS[prior](wanted, generator)
    else:
        raise ValueError(f"prior {prior!r} is not allowed; one of {', '.join(PRIORS)}, or a function")
    if tuple(drawn.shape) != wanted:
        raise ShapeMismatch(f"the prior gave noise of shape {tuple(drawn.shape)}, {wanted} is wanted")
    return to_pipeline(drawn, layout) if packed else drawn
