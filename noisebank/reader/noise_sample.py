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
from noisebank.reader.pinned import Hit
from noisebank.reader.priors import PRIORS, Generators, Prior


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
        hits: where they are from.
        fresh: which samples are to be fresh noise alone.
        eta: weight of the inverted noise.
        model: description of the model that the records were made with; its ``layout`` is that of the latents
            (:mod:`noisebank.models.layout`).
        prior: a name in :data:`noisebank.reader.priors.PRIORS`, or a function.
        generator: of the fresh noise.
        digest: whether to digest the fresh noise, for :attr:`NoiseSample.drawn_digest`.

    Raises:
        ShapeMismatch: the prior gives another shape than it was asked for.
        ValueError: ``eta`` or ``prior`` is not allowed.
    """
    layout = model["layout"]
    batch = to_pipeline(records[0][None] if len(records) == 1 else torch.stack(list(records)), layout)
    if math.isinf(eta) and eta > 0 and not any(fresh):
        return NoiseSample(batch.contiguous(), tuple(hits), tuple(fresh), eta, model, _records=records)
    drawn = _drawn(batch, layout, tuple(records[0].shape), prior, generator)
    drawn_digest = noise_digest(drawn) if digest else ""
    if any(fresh):
        alone = torch.tensor(fresh).view(-1, *[1] * (drawn.dim() - 1))
        latents = torch.where(alone, drawn, mix(drawn, batch, eta))
    else:
        latents = mix(drawn, batch, eta, out=drawn)
    return NoiseSample(latents.contiguous(), tuple(hits), tuple(fresh), eta, model, drawn_digest, records)


def _drawn(
    batch: torch.Tensor, layout: str, shape: tuple[int, ...], prior: str | Prior, generator: Generators
) -> torch.Tensor:
    """Fresh noise in the layout of ``batch``, drawn as the pipeline itself draws it: LTX draws, then packs."""
    if isinstance(prior, str) and prior not in PRIORS:
        raise ValueError(f"prior {prior!r} is not allowed; one of {', '.join(PRIORS)}, or a function")
    packed = layout == "BSD"
    wanted = (len(batch), *shape) if packed else tuple(batch.shape)
    # (what a caller's function gives is the caller's: it is copied, and nothing written into it)
    drawn = (
        PRIORS[prior](wanted, generator)
        if isinstance(prior, str)
        else prior(wanted, generator).to("cpu", torch.float32, copy=True)
    )
    if tuple(drawn.shape) != wanted:
        raise ShapeMismatch(f"the prior gave noise of shape {tuple(drawn.shape)}, {wanted} is wanted")
    return to_pipeline(drawn, layout) if packed else drawn
