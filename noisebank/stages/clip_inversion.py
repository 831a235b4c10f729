"""Clips in, records out: encode, invert, and measure what is asked for. What a worker calls for the clips of a shard.

Clips go through the network in batches of one size, because sizes change the last bits of its output; one that is not
full, as the last of a shard, is padded to a power of two, so that the same clips always make the same batches. A batch
that does not fit the device's memory is halved, and a clip that comes out unusable fails alone.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import torch

from noisebank.errors import RowFailure
from noisebank.inversion.inverters import Network, invert, reconstruct, relative_error
from noisebank.inversion.noise_stats import noise_statistics
from noisebank.models.base import ModelAdapter
from noisebank.options import NoiseOptions

T = TypeVar("T")
NOT_FINITE = "the latents or their noise have NaN or infinite values, or the latents are all zero"
CPU_BATCH_SIZE = 4
"""``batch_size: auto`` without an accelerator: most of the gain of batching, little memory."""


@dataclass(frozen=True)
class ClipRecord:
    """The inverted noise of one clip and what its inversion says of it.

    Args:
        noise: ``[C, F, H, W]`` float32 on the CPU, before storage.
        latents: of the clip, ``[C, F, H, W]`` float32 on the CPU: what the noise should give back.
        statistics: of ``noise``; see :func:`noisebank.inversion.noise_stats.noise_statistics`, here without the batch.
        network_calls: evaluations that the inversion of this clip needed.
        max_residual: largest residual that a step was left with.
        stalled_steps: steps that were left above the tolerance.
    """

    noise: torch.Tensor
    latents: torch.Tensor
    statistics: dict[str, torch.Tensor]
    network_calls: int
    max_residual: float
    stalled_steps: int


@dataclass
class MeteredNetwork:
    """A network that knows how often and for how long it ran; on a GPU by the device's own clock.

    Args:
        network: what is called.
        device: where it runs.
    """

    network: Network
    device: torch.device
    calls: int = 0
    _seconds: float = 0.0
    _events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.device.type == "cuda":
            start, end = _event(), _event()
            start.record()
            prediction = self.network(latents, timestep)
            end.record()
            self._events.append((start, end))
            return prediction
        began = time.perf_counter()
        prediction = self.network(latents, timestep)
        self._seconds += time.perf_counter() - began
        return prediction

    def seconds(self) -> float:
        """Time spent in the network so far; waits for the device."""
        if self._events:
            torch.cuda.synchronize(self.device)
            self._seconds += sum(start.elapsed_time(end) for start, end in self._events) / 1000
            self._events.clear()
        return self._seconds


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


@dataclass
class ClipInverter:
    """Inverts clips of one shape.

    Args:
        adapter: the loaded model.
        options: inverter, steps, tolerance, prompt and guidance.
        network: of the adapter, with the options' prompt and guidance.
        store: what storage makes of noise ``[B, C, F, H, W]`` float32: encoded and decoded again.
        batch_size: clips that go through the network together; halved for good where the device runs out of memory.
        batches: how many batches of each size there were so far.
    """

    adapter: ModelAdapter
    options: NoiseOptions
    network: Network
    store: Callable[[torch.Tensor], torch.Tensor]
    batch_size: int
    batches: Counter[int] = field(default_factory=Counter)

    def invert(self, frames: torch.Tensor, numbers: Sequence[int]) -> list[ClipRecord | RowFailure]:
        """Invert clips.

        Args:
            frames: ``[N, F, H, W, 3]`` uint8 RGB.
            numbers: the 63-bit number of each clip: the seed of what ``diffuse`` draws for it.

        Returns:
            For every clip, in order, its record or the failure that it is to be entered as (``not_finite``).

        Raises:
            ShapeMismatch: the clips do not fit the model.
            torch.cuda.OutOfMemoryError: not even one clip fits the device.
        """
        return self._batched(len(frames), lambda batch: self._invert_batch(frames[batch], numbers[batch]))

    def measure(self, clips: Sequence[int], read: Callable[[int], tuple[torch.Tensor, torch.Tensor]]) -> list[float]:
        """Relative errors of the latents that the sampler makes of noise: T network calls a clip.

        The latents are float32 under the network's dtype: a pipeline that keeps them in half precision between steps
        errs by more (docs/inversion.md).

        Args:
            clips: which.
            read: gives the noise of one as it comes back from storage, and the latents that it should give back, both
                ``[C, F, H, W]`` float32.

        Raises:
            torch.cuda.OutOfMemoryError: not even one clip fits the device.
        """
        adapter = self.adapter

        def measure_batch(batch: slice) -> list[float]:
            pairs = zip(*map(read, clips[batch]), strict=True)
            noise, latents = (torch.stack(values).to(adapter.device) for values in pairs)
            channels, frames, height, width = latents.shape[1:]
            levels = adapter.levels(self.options.num_inference_steps, (channels, frames, height, width))
            errors: list[float] = relative_error(reconstruct(self.network, noise, levels), latents).tolist()
            return errors

        return self._batched(len(clips), measure_batch)

    def _batched(self, count: int, run: Callable[[slice], list[T]]) -> list[T]:
        """What ``run`` gives for each of ``count`` clips, ``batch_size`` at a time."""
        results: list[T] = []
        while len(results) < count:
            try:
                results += run(slice(len(results), min(len(results) + self.batch_size, count)))
                continue
            except torch.cuda.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
            # Here, not in the handler: the exception's frames would keep the batch alive.
            self.batch_size //= 2
            if self.adapter.device.type == "cuda":
                torch.cuda.empty_cache()
        return results

    def _invert_batch(self, frames: torch.Tensor, numbers: Sequence[int]) -> list[ClipRecord | RowFailure]:
        """At most ``batch_size`` clips, padded with the last one to the smallest power of two that holds them."""
        adapter, options = self.adapter, self.options
        count = len(frames)
        size = min(self.batch_size, 1 << (count - 1).bit_length())
        padding = size - count
        latents = adapter.encode(frames)
        latents = torch.cat([latents, latents[-1:].expand(padding, *latents.shape[1:])])
        inversion = invert(
            self.network,
            latents,
            adapter.levels(options.num_inference_steps, adapter.rules.latent_shape(*frames.shape[1:4])),
            options,
            dtype=adapter.dtype,
            generators=[torch.Generator().manual_seed(n) for n in (*numbers, *[numbers[-1]] * padding)],
        )
        noise, latents = inversion.noise.cpu(), latents.cpu()
        finite = torch.isfinite(torch.cat([latents, self.store(noise)], dim=1).flatten(1)).all(1)
        usable = (finite & latents.flatten(1).any(1)).tolist()
        statistics = noise_statistics(inversion.noise)
        self.batches[size] += 1
        return [
            ClipRecord(
                noise=noise[i],
                latents=latents[i],
                statistics={name: values[i] for name, values in statistics.items()},
                network_calls=int(inversion.calls[i]),
                max_residual=float(inversion.residuals[:, i].max()),
                stalled_steps=int(inversion.stalled[i]),
            )
            if usable[i]
            else RowFailure("not_finite", NOT_FINITE)
            for i in range(count)
        ]


def find_failure(error: float, max_error: float) -> RowFailure | None:
    """Why a record that was measured to give its clip back with this error is not to be kept, if it is not."""
    if not math.isfinite(error):
        return RowFailure("not_finite", NOT_FINITE)
    if error > max_error:
        message = f"the record gives its clip back with relative error {error:.3g}, above {max_error:g}"
        return RowFailure("reconstruction_error", message)
    return None


def use_device(device: torch.device) -> None:
    """Makes a GPU the one that this thread works on: events and pinned memory go by that, not by where tensors are."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def batch_size_of(adapter: ModelAdapter, options: NoiseOptions, shape: tuple[int, int, int, int]) -> int:
    """Clips that go through the network together: what the options say, or :func:`choose_batch_size`."""
    if isinstance(options.batch_size, int):
        return options.batch_size
    return choose_batch_size(adapter, shape, options.prompt, options.guidance_scale)


@lru_cache(maxsize=8)  # (once a process, so that its shards are all made alike)
def choose_batch_size(
    adapter: ModelAdapter, shape: tuple[int, int, int, int], prompt: str = "", guidance_scale: float = 1.0
) -> int:
    """``batch_size: auto``, by a short probe of the network on the device; :data:`CPU_BATCH_SIZE` without a GPU.

    Args:
        adapter: the loaded model.
        shape: ``(C, F, H, W)`` of the latents.
        prompt, guidance_scale: as the inversion will call the network; guidance doubles what goes through it.
    """
    if adapter.device.type != "cuda":
        return CPU_BATCH_SIZE
    metered = MeteredNetwork(adapter.network(prompt, guidance_scale), adapter.device)

    def seconds(size: int) -> float:
        latents = torch.zeros(size, *shape, device=adapter.device)
        timestep = torch.full((size,), 500, device=adapter.device)
        metered(latents, timestep)
        before = metered.seconds()
        for _ in range(3):
            metered(latents, timestep)
        return metered.seconds() - before

    with torch.inference_mode():
        best = fastest_batch_size(seconds)
    torch.cuda.empty_cache()
    return best


def fastest_batch_size(seconds: Callable[[int], float], largest: int = 64) -> int:
    """The power of two, up to ``largest``, after which doubling gains less than 5% or runs out of memory; ``seconds``
    times one network call on a batch of a size."""
    best, best_rate = 1, 0.0
    size = 1
    while size <= largest:
        try:
            rate = size / seconds(size)
        except torch.cuda.OutOfMemoryError:
            break
        if rate < 1.05 * best_rate:
            break
        best, best_rate, size = size, rate, size * 2
    return best
