"""Clips in, records out: encode, invert, measure. What an inversion worker calls for the clips of a shard.

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

import torch

from noisebank.errors import RowFailure
from noisebank.ids import CLIP_BITS
from noisebank.inversion.inverters import Network, invert, reconstruct, relative_error
from noisebank.inversion.levels import Levels
from noisebank.inversion.noise_stats import noise_statistics
from noisebank.models.base import ModelAdapter
from noisebank.options import NoiseOptions

CPU_BATCH_SIZE = 4
"""``batch_size: auto`` without an accelerator: most of the gain of batching, little memory."""


@dataclass(frozen=True)
class ClipRecord:
    """The inverted noise of one clip and what was measured of it.

    Args:
        noise: ``[C, F, H, W]`` float32 on the CPU, before storage.
        statistics: of ``noise``; see :func:`noisebank.inversion.noise_stats.noise_statistics`, here without the batch.
        reconstruction_error: relative error of the latents that the sampler makes of ``noise``, in float32 under the
            network's dtype: a pipeline that keeps its latents in half precision between steps errs by more
            (docs/inversion.md). None where it was not measured (:attr:`noisebank.options.NoiseOptions.measured`).
        stored_reconstruction_error: the same from the noise as it comes back from storage.
        network_calls: evaluations that the inversion of this clip needed.
        max_residual: largest residual that a step was left with.
        stalled_steps: steps that were left above the tolerance.
    """

    noise: torch.Tensor
    statistics: dict[str, torch.Tensor]
    reconstruction_error: float | None
    stored_reconstruction_error: float | None
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
        options: inverter, steps, tolerance, prompt and guidance, what is measured, and the largest error accepted.
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
            numbers: the 63-bit number of each clip: the seed of what ``diffuse`` draws for it, and whether it is
                measured.

        Returns:
            For every clip, in order, its record or the failure that it is to be entered as (``not_finite``,
            ``reconstruction_error``).

        Raises:
            ShapeMismatch: the clips do not fit the model.
            torch.cuda.OutOfMemoryError: not even one clip fits the device.
        """
        results: list[ClipRecord | RowFailure] = []
        while len(results) < len(frames):
            batch = slice(len(results), len(results) + self.batch_size)
            try:
                results += self._invert_batch(frames[batch], numbers[batch])
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
        """At most ``batch_size`` clips, padded with the last one to the smallest power of two that holds them.

        Noise that was found without the network (``diffuse``) makes no promise to give its clip back: its error is
        measured but does not fail it.
        """
        adapter, options = self.adapter, self.options
        count = len(frames)
        size = min(self.batch_size, 1 << (count - 1).bit_length())
        padding = size - count
        latents = adapter.encode(frames)
        latents = torch.cat([latents, latents[-1:].expand(padding, *latents.shape[1:])])
        levels = adapter.levels(options.num_inference_steps, adapter.rules.latent_shape(*frames.shape[1:4]))
        inversion = invert(
            self.network,
            latents,
            levels,
            options,
            dtype=adapter.dtype,
            generators=[torch.Generator().manual_seed(n) for n in (*numbers, *[numbers[-1]] * padding)],
        )
        noise = inversion.noise.cpu()
        stored = self.store(noise).to(latents.device)
        measured = [i for i in range(count) if is_measured(numbers[i], options.measured)]
        errors = _errors(self.network, inversion.noise, latents, levels, measured)
        stored_errors = _errors(self.network, stored, latents, levels, measured)
        finite = torch.isfinite(torch.cat([latents, stored], dim=1).flatten(1)).all(1)
        usable = (finite & latents.flatten(1).any(1)).tolist()
        max_error = options.max_reconstruction_error if inversion.network_calls else float("inf")
        failures = [_failure(usable[i], stored_errors.get(i), max_error) for i in range(count)]
        statistics = noise_statistics(inversion.noise)
        self.batches[size] += 1
        return [
            failures[i]
            or ClipRecord(
                noise=noise[i],
                statistics={name: values[i] for name, values in statistics.items()},
                reconstruction_error=errors.get(i),
                stored_reconstruction_error=stored_errors.get(i),
                network_calls=int(inversion.calls[i]),
                max_residual=float(inversion.residuals[:, i].max()),
                stalled_steps=int(inversion.stalled[i]),
            )
            for i in range(count)
        ]


def is_measured(number: int, share: float) -> bool:
    """Whether the clip of this number is among the ``share`` whose errors are measured: always the same clips."""
    return (number & ((1 << CLIP_BITS) - 1)) < share * (1 << CLIP_BITS)


def _errors(
    network: Network, noise: torch.Tensor, latents: torch.Tensor, levels: Levels, clips: list[int]
) -> dict[int, float]:
    """Relative error of the latents that some of the clips of a batch give back: T network calls for each of them."""
    if not clips:
        return {}
    given_back = reconstruct(network, noise[clips], levels)
    return dict(zip(clips, relative_error(given_back, latents[clips]).tolist(), strict=True))


def _failure(usable: bool, stored_error: float | None, max_error: float) -> RowFailure | None:
    """Why a record is not to be kept, if it is not; ``stored_error`` is None where it was not measured."""
    if not usable or (stored_error is not None and not math.isfinite(stored_error)):
        message = "the latents or their noise have NaN or infinite values, or the latents are all zero"
        return RowFailure("not_finite", message)
    if stored_error is not None and stored_error > max_error:
        message = f"the record gives its clip back with relative error {stored_error:.3g}, above {max_error:g}"
        return RowFailure("reconstruction_error", message)
    return None


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
