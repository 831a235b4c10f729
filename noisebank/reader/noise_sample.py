"""Records and fresh noise to one batch of latents, in the layout and order in which the pipeline draws its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from noisebank.errors import ShapeMismatch
from noisebank.models.layout import from_pipeline, to_pipeline
from noisebank.reader import frequencies
from noisebank.reader.frequencies import LowPass, mix_frequencies
from noisebank.reader.mixing import marginal_variance, mix, noise_digest
from noisebank.reader.priors import FramePrior, Generators, Prior, find_prior, iid
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
        prior: of the fresh noise.
        low_pass: the filter of the mix, if it has one.
    """

    latents: torch.Tensor
    hits: tuple[Hit, ...]
    fresh: tuple[bool, ...]
    eta: float
    model: Mapping[str, Any] = field(repr=False)
    drawn_digest: str = ""
    prior: Prior = iid
    low_pass: LowPass | None = None
    _records: Sequence[torch.Tensor] = field(repr=False, default=())

    @cached_property
    def marginal_variance(self) -> tuple[float, ...]:
        """Variance of each sample (:func:`.mixing.marginal_variance`, :func:`.frequencies.marginal_variance`); 1 for
        fresh noise. A prior of one's own counts as white."""
        pairs = zip(self._records, self.fresh, strict=True)
        return tuple(1.0 if fresh else self._variance(record) for record, fresh in pairs)

    def _variance(self, record: torch.Tensor) -> float:
        if self.low_pass is None:
            return marginal_variance(record, self.eta)
        factor = self.prior.factor(record.shape[1]) if isinstance(self.prior, FramePrior) else None
        return frequencies.marginal_variance(record, self.eta, self.low_pass, factor)


def mix_records(
    records: Sequence[torch.Tensor],
    hits: Sequence[Hit],
    fresh: Sequence[bool],
    eta: float,
    model: Mapping[str, Any],
    prior: str | Prior = "iid",
    generator: Generators = None,
    lowpass: str | LowPass | None = None,
    digest: bool = False,
) -> NoiseSample:
    """Mixes a batch (:func:`noisebank.reader.mixing.mix`, :func:`noisebank.reader.frequencies.mix_frequencies`).

    Args:
        records: inverted noise of each sample, ``[C, F, H, W]`` float32.
        hits, fresh, eta, model: as of :class:`NoiseSample`.
        prior: a name in :data:`noisebank.reader.priors.PRIORS`, or a prior.
        generator: of the fresh noise.
        lowpass: a name in :data:`noisebank.reader.frequencies.LOWPASS`, a filter, or None for Eq. 4.
        digest: whether to digest the fresh noise.

    Raises:
        ShapeMismatch: the prior gives another shape than it was asked for.
        ValueError: ``eta``, ``prior`` or ``lowpass`` is not allowed.
    """
    prior, layout, shape = find_prior(prior), model["layout"], tuple(records[0].shape)
    low_pass = LowPass(lowpass) if isinstance(lowpass, str) else lowpass
    batch = records[0][None] if len(records) == 1 else torch.stack(list(records))
    latents, drawn_digest = to_pipeline(batch, layout), ""
    if any(fresh) or low_pass is not None or eta != math.inf:
        drawn = _draw(latents, layout, shape, prior, generator)
        drawn_digest = noise_digest(drawn) if digest else ""
        if low_pass is None:
            latents = mix(drawn, latents, eta, out=None if any(fresh) else drawn)
        else:
            mixed = mix_frequencies(from_pipeline(drawn, layout, shape), batch, eta, low_pass)
            latents = to_pipeline(mixed, layout)
        if any(fresh):
            latents = torch.where(torch.tensor(fresh).view(-1, *[1] * (drawn.dim() - 1)), drawn, latents)
    latents, hits, fresh = latents.contiguous(), tuple(hits), tuple(fresh)
    return NoiseSample(latents, hits, fresh, eta, model, drawn_digest, prior, low_pass, records)


def _draw(
    batch: torch.Tensor, layout: str, shape: tuple[int, ...], prior: Prior, generator: Generators
) -> torch.Tensor:
    """Fresh noise in the layout of ``batch``, drawn as the pipeline itself draws it: LTX draws, then packs."""
    packed = layout == "BSD"
    axes, wanted = ("BCFHW", (len(batch), *shape)) if packed else (layout, tuple(batch.shape))
    if prior is iid:
        drawn = iid(wanted, generator)
    elif isinstance(prior, FramePrior):
        drawn = iid(wanted, generator)
        drawn = prior.correlate(drawn, axes.index("F")) if "F" in axes else drawn
    else:  # (what a caller's function gives is the caller's: nothing is written into it)
        drawn = prior(wanted, generator).to("cpu", torch.float32, copy=True)
    if tuple(drawn.shape) != wanted:
        raise ShapeMismatch(f"the prior gave noise of shape {tuple(drawn.shape)}, {wanted} is wanted")
    return to_pipeline(drawn, layout) if packed else drawn
