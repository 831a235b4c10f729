"""One record of every model, compared with the pipeline's own call: residuals, and errors measured with our sampler,
say nothing of a pipeline that takes other steps than those that were inverted."""

from __future__ import annotations

import logging
import math

import torch

from noisebank.errors import JobFailed
from noisebank.fixtures.small_models import smooth_clip
from noisebank.format.noise_file import storage_roundtrip
from noisebank.inversion.inverters import invert, reconstruct, relative_error
from noisebank.models.base import ModelAdapter
from noisebank.models.replay import replay
from noisebank.options import NoiseOptions
from noisebank.stages.clip_inversion import use_device

_log = logging.getLogger(__name__)
ALLOWED = {torch.float32: 1e-2, torch.float16: 5e-2, torch.bfloat16: 3e-1}
"""By dtype of the network, by how much the pipeline may err more than our sampler: pipelines in half precision keep
their latents in it from step to step (docs/inversion.md)."""


def check_replay(adapter: ModelAdapter, options: NoiseOptions, shape: tuple[int, int, int, int]) -> float | None:
    """Inverts a made-up clip and starts the pipeline from its record: as many calls as for one clip more.

    Args:
        adapter: the loaded model.
        options: of the noise set.
        shape: ``(C, F, H, W)`` of the latents.

    Returns:
        Relative error of the latents that the pipeline gives back, to two digits; None where there is nothing to
        compare: the inverter calls no network, the clip cannot be inverted in this dtype, or the model is of a family
        of another package, whose pipeline is called otherwise.

    Raises:
        JobFailed: the pipeline does not give back what our sampler does.
    """
    use_device(adapter.device)
    rules, (_, frames, height, width) = adapter.rules, shape
    clip = smooth_clip(
        (frames - 1) * rules.temporal_ratio + 1, height * rules.spatial_ratio, width * rules.spatial_ratio
    )
    latents, steps = adapter.encode(clip[None]), options.num_inference_steps
    network, levels = adapter.network(options.prompt, options.guidance_scale), adapter.levels(steps, shape)
    generators = [torch.Generator().manual_seed(0)]
    found = invert(network, latents, levels, options, dtype=adapter.dtype, generators=generators)
    if not found.network_calls:
        return None
    noise = storage_roundtrip(found.noise.cpu(), options.dtype).to(adapter.device)
    try:
        given = replay(adapter, noise, steps, options.prompt, options.guidance_scale)
    except (TypeError, AttributeError, KeyError, ValueError) as problem:
        if _is_ours(adapter):
            raise
        _log.warning("noise.%s: %s was not started from a record: %s", options.name, adapter.pipeline_class, problem)
        return None
    error = relative_error(given, latents).item()
    if not error <= ALLOWED[adapter.dtype]:
        own = relative_error(reconstruct(network, noise, adapter.levels(steps, shape)), latents).item()
        if not math.isfinite(own):
            return None
        if not error <= 2 * own + ALLOWED[adapter.dtype]:
            raise JobFailed(
                f"noise.{options.name}: {adapter.pipeline_class} with {type(adapter.pipe.scheduler).__name__} gives a "
                f"clip back from its record with relative error {error:.2g}, where the steps that were inverted give "
                f"it back with {own:.2g}: the pipeline takes others. Save it with a scheduler that takes them "
                "(docs/inversion.md lists those of each family) and give that folder as model"
            )
    return float(f"{error:.2g}") if math.isfinite(error) else None


def _is_ours(adapter: ModelAdapter) -> bool:
    return type(adapter).__module__.partition(".")[0] == __name__.partition(".")[0]
