"""A model tried out before there is work for it: a made-up clip is encoded and inverted for two steps, which a broken
model or GPU does not survive, and which says how long the work will take at least."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from noisebank.errors import JobFailed
from noisebank.fixtures.small_models import smooth_clip
from noisebank.inversion.inverters import invert
from noisebank.inversion.levels import Levels
from noisebank.models.base import ModelAdapter
from noisebank.options import NoiseOptions
from noisebank.stages.clip_inversion import MeteredNetwork, batch_size_of, use_device

STEPS = 2


@dataclass(frozen=True)
class Trial:
    """What came of it.

    Args:
        device: where network and VAE are, with the GPU's name.
        dtype: of the network.
        batch_size: clips that go through the network together.
        seconds_a_clip: of encoding and of one network call a step, less than which no inversion with the network needs;
            iterations, measuring and decoding come on top.
        bytes_a_clip: of a record's values.
    """

    device: str
    dtype: str
    batch_size: int
    seconds_a_clip: float
    bytes_a_clip: int

    def describe(self, clips: int, workers: int = 1) -> str:
        """In words; of so many ``clips`` when so many processes of this machine invert them."""
        hours = say_time(clips * self.seconds_a_clip / workers)
        shared = f" on {workers} such processes" if workers > 1 else ""
        size = clips * self.bytes_a_clip / 1e6
        return (
            f"on {self.device} in {self.dtype}, {self.batch_size} clips a batch, at least "
            f"{self.seconds_a_clip:.3g} s a clip by {STEPS} steps on a made-up one; the plan's {clips} clips: at least "
            f"{hours}{shared}, and {size:.3g} MB"
        )


def try_inversion(adapter: ModelAdapter, options: NoiseOptions, shape: tuple[int, int, int, int]) -> Trial:
    """Tries the model of a noise set.

    Args:
        adapter: the loaded model.
        options: of the set.
        shape: ``(C, F, H, W)`` of the latents.

    Raises:
        JobFailed: the model cannot invert; says what it did, where, and in which dtype.
    """
    use_device(adapter.device)
    where = f"noise.{options.name}: model {options.model!r} on {describe_device(adapter.device, options)}"
    dtype = str(adapter.dtype).removeprefix("torch.")
    try:
        size, encoding, call = _time_steps(adapter, options, shape)
    except (
        RuntimeError,
        ValueError,
        TypeError,
    ) as error:  # (as torch says that shapes or memory do not fit)
        raise JobFailed(f"{where} in {dtype} cannot invert a made-up clip: {error}") from error
    except ArithmeticError as error:
        raise JobFailed(
            f"{where} in {dtype} gives {error} for a made-up clip; its weights are damaged, or do not fit in {dtype}: "
            "try precision: float32"
        ) from error
    calls = 0 if options.inverter == "diffuse" else options.num_inference_steps
    values = int(np.prod(shape)) * (1 if options.dtype == "int8" else 2)
    return Trial(describe_device(adapter.device, options), dtype, size, encoding + calls * call / size, values)


def describe_device(device: torch.device, options: NoiseOptions) -> str:
    """A device in words: a GPU's name; and that there is none, where one would have been taken."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return "cpu (torch sees no GPU here)" if options.device == "auto" else str(device)


def _time_steps(
    adapter: ModelAdapter, options: NoiseOptions, shape: tuple[int, int, int, int]
) -> tuple[int, float, float]:
    """The batch size that fits, and the seconds to encode a clip and of one network call on such a batch.

    Everything is done twice, because the first time takes longer. Without a GPU calls are on a single clip, and count
    as often as there are clips in a batch: that is nearly the same, and sooner over.

    Raises:
        ArithmeticError: what comes out is not finite.
    """
    rules, (_, frames, height, width) = adapter.rules, shape
    pixels = height * rules.spatial_ratio, width * rules.spatial_ratio
    clip = smooth_clip((frames - 1) * rules.temporal_ratio + 1, *pixels)[None]
    size = batch_size_of(adapter, options, shape)
    network = MeteredNetwork(adapter.network(options.prompt, options.guidance_scale), adapter.device)
    levels = _cleanest(adapter.levels(options.num_inference_steps, shape))
    ddim = NoiseOptions(inverter="ddim", num_inference_steps=len(levels))

    def steps(clips: int) -> torch.Tensor:
        return invert(network, latents.expand(clips, *shape), levels, ddim, dtype=adapter.dtype).noise

    latents, _ = _encode(adapter, clip)
    latents, encoding = _encode(adapter, clip)
    tried = _fit(steps, size if adapter.device.type == "cuda" else 1)
    before, calls = network.seconds(), network.calls
    noise = steps(tried)
    seconds = (network.seconds() - before) / (network.calls - calls)
    for what, values in (("latents", latents), ("noise", noise)):
        if not bool(torch.isfinite(values).all()):
            raise ArithmeticError(f"{what} with NaN or infinite values")
    return (tried, encoding, seconds) if adapter.device.type == "cuda" else (size, encoding, seconds * size)


def _encode(adapter: ModelAdapter, frames: torch.Tensor) -> tuple[torch.Tensor, float]:
    began = time.perf_counter()
    latents = adapter.encode(frames)
    if adapter.device.type == "cuda":
        torch.cuda.synchronize(adapter.device)
    return latents, time.perf_counter() - began


def _fit(work: Callable[[int], object], size: int) -> int:
    """``size``, halved until ``work`` of so many clips does not run out of the device's memory."""
    while True:
        try:
            work(size)
            return size
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
        torch.cuda.empty_cache()
        size //= 2


def _cleanest(levels: Levels) -> Levels:
    """The steps that inversion takes first."""
    return dataclasses.replace(
        levels,
        timesteps=levels.timesteps[-STEPS:],
        level_t=levels.level_t[-STEPS:],
        level_prev=levels.level_prev[-STEPS:],
    )


def say_time(seconds: float) -> str:
    """Seconds, minutes, hours or days in words.

    >>> say_time(7200)
    '2 h'
    """
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
