"""Batched inversion against the network calls alone, and against a loop over diffusers' inverse scheduler.

    python -m benchmarks.inversion                                      a small model, on the CPU
    python -m benchmarks.inversion --modelscope --device cuda           ModelScope's real size with random weights:
                                                                        16 x 256 x 256, T = 50, in three precisions
    python -m benchmarks.inversion --wan --device cuda --clips 2        Wan 2.1 1.3B's: 81 x 480 x 832
    python -m benchmarks.inversion --modelscope --wan --shrink          do both run: small sizes, few steps, the CPU

Prints JSON. ``network_alone`` is the time of the network calls as a share of the batched inversion's, encoding and
storage of float16 included, ``vae_share`` that of encoding: all of one run, so that neighbours on the machine weigh on
all. ``multiple_ddim`` and ``multiple_fixed_point`` are clips a second over those of the loop (one clip at a time, one
call a step), which flow matching has none of. ``videos_a_second_measured`` is what is left when the error of every
stored record is measured too. On a GPU also ``gpu_busy``, the share of the time in which it runs kernels, and
``peak_gb``. ``paper_ms_a_clip`` is what the paper says of ModelScope.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.published import MODELSCOPE_CLIP, SHRUNKEN, WAN_CLIP, clips_of, modelscope, wan
from benchmarks.roundtrip import library_inversion
from noisebank.fixtures.small_models import make_small_model
from noisebank.format.noise_file import storage_roundtrip
from noisebank.inversion import Inversion, Network, invert, reconstruct, relative_error
from noisebank.models import ModelAdapter, load_model
from noisebank.options import NoiseOptions
from noisebank.stages.clip_inversion import ClipInverter, ClipRecord, MeteredNetwork, choose_batch_size

STEPS = 50
ROUNDS = 2
PAPER_MS = 5532


def run(clips: int = 8) -> dict[str, float]:
    """The small model on the CPU; the better of two rounds of each side."""
    with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as folder:
        adapter = load_model(str(make_small_model("modelscope", Path(folder, "model"))))
        return measure(adapter, clips_of((16, 64, 64), clips))


def measure(
    adapter: ModelAdapter, frames: torch.Tensor, steps: int = STEPS, batch_size: int | None = None
) -> dict[str, float]:
    """Time the sides on clips ``[N, F, H, W, 3]`` uint8 and measure what each gives back; ``batch_size``: by default
    what ``batch_size: auto`` chooses."""
    shape = adapter.rules.latent_shape(*frames.shape[1:4])
    batch_size = min(batch_size or choose_batch_size(adapter, shape), len(frames))
    frames = frames[: len(frames) // batch_size * batch_size]
    batches = torch.split(frames, batch_size)
    network = MeteredNetwork(adapter.network(), adapter.device)
    with torch.inference_mode():
        network(torch.zeros(batch_size, *shape, device=adapter.device), torch.zeros(batch_size).to(adapter.device))

    def batched(inverter: str) -> list[Inversion]:
        return [_inverted(adapter, network, batch, shape, inverter, steps) for batch in batches]

    before, began = network.seconds(), time.perf_counter()
    fixed_point = batched("fixed-point")
    wall = time.perf_counter() - began
    network_alone = (network.seconds() - before) / wall
    vae_share = _wall_seconds(adapter.device, lambda: [adapter.encode(batch) for batch in batches]) / wall
    ddim = batched("ddim")
    sides: dict[str, Callable[[], Any]] = {
        "fixed_point": lambda: batched("fixed-point"),
        "measured": lambda: _measured(adapter, network, frames, batch_size, steps),
        "ddim": lambda: batched("ddim"),
    }
    if adapter.scheduler_class != "FlowMatchEulerDiscreteScheduler":
        sides["loop"] = lambda: [library_inversion(adapter, adapter.encode(one), steps) for one in frames.split(1)]
    seconds = dict.fromkeys(sides, float("inf"))
    for _ in range(ROUNDS):
        for name, side in sides.items():
            seconds[name] = min(seconds[name], _seconds(adapter.device, side))
    report = {
        "clips": len(frames),
        "batch_size": batch_size,
        "videos_a_second": len(frames) / seconds["fixed_point"],
        "videos_a_second_measured": len(frames) / seconds["measured"],
        "calls_a_batch": sum(inversion.network_calls for inversion in fixed_point) / len(fixed_point),
        "network_alone": network_alone,
        "vae_share": vae_share,
        **{f"ms_a_clip_{name}": 1000 * seconds[name] / len(frames) for name in sides},
        "paper_ms_a_clip": PAPER_MS,
        "error_ddim": _error(adapter, frames, shape, ddim, steps),
        "error_fixed_point": _error(adapter, frames, shape, fixed_point, steps),
    }
    if "loop" in sides:
        report |= {f"multiple_{name}": seconds["loop"] / seconds[name] for name in ("ddim", "fixed_point")}
    if adapter.device.type == "cuda":
        report["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        report["gpu_busy"] = _gpu_busy(lambda: _inverted(adapter, network, batches[0], shape, "ddim", steps))
    return report


def _inverted(
    adapter: ModelAdapter,
    network: Network,
    frames: torch.Tensor,
    shape: tuple[int, int, int, int],
    inverter: str,
    steps: int,
) -> Inversion:
    levels = adapter.levels(steps, shape)
    inversion = invert(network, adapter.encode(frames), levels, NoiseOptions(inverter=inverter), dtype=adapter.dtype)
    inversion.noise.half().cpu()
    return inversion


def _measured(
    adapter: ModelAdapter, network: Network, frames: torch.Tensor, batch_size: int, steps: int
) -> list[float]:
    """What the noise stage does with clips that are all measured: the errors of their stored records."""
    options = NoiseOptions(num_inference_steps=steps)
    inverter = ClipInverter(
        adapter, options, network, functools.partial(storage_roundtrip, dtype="float16"), batch_size
    )
    made = inverter.invert(frames, range(len(frames)))
    records = [record for record in made if isinstance(record, ClipRecord)]
    return inverter.measure(
        range(len(records)), lambda i: (inverter.store(records[i].noise[None])[0], records[i].latents)
    )


def _error(
    adapter: ModelAdapter,
    frames: torch.Tensor,
    shape: tuple[int, int, int, int],
    inversions: list[Inversion],
    steps: int,
) -> float:
    """Mean relative error of the latents given back, of the first batch."""
    noise = inversions[0].noise
    latents = adapter.encode(frames[: len(noise)])
    given_back = reconstruct(adapter.network(), noise, adapter.levels(steps, shape))
    return float(relative_error(given_back, latents).mean())


def _seconds(device: torch.device, side: Callable[[], Any]) -> float:
    """CPU seconds of the process without an accelerator (neighbours do not count), else seconds until it is idle."""
    if device.type == "cuda":
        return _wall_seconds(device, side)
    began = time.process_time()
    side()
    return time.process_time() - began


def _wall_seconds(device: torch.device, side: Callable[[], Any]) -> float:
    began = time.perf_counter()
    side()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _gpu_busy(side: Callable[[], Any]) -> float:
    """Share of the time in which the GPU runs kernels, by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        began = time.perf_counter()
        side()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / seconds


def published(
    model: Callable[..., ModelAdapter], size: tuple[int, int, int], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """A published configuration, in every precision of the network."""
    frames = clips_of(SHRUNKEN[size] if arguments.shrink else size, arguments.clips)
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    for dtype in dtypes[:1] if model is wan else dtypes:
        adapter = model(dtype, arguments.device, arguments.shrink)
        if adapter.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        steps = 4 if arguments.shrink else STEPS
        report = measure(adapter, frames, steps, 1 if model is wan else None)
        named = {"model": model.__name__, "dtype": str(dtype).removeprefix("torch."), "shape": list(frames.shape[1:4])}
        yield named | report
        del adapter


def main() -> None:
    """Print JSON objects, of the small model or of published configurations in several precisions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modelscope", action="store_true", help="ModelScope's real size, with random weights")
    parser.add_argument("--wan", action="store_true", help="Wan 2.1 1.3B's, in bfloat16, one clip a batch")
    parser.add_argument("--shrink", action="store_true", help="the same of small sizes and four steps: does it run")
    parser.add_argument("--device", default="cpu", help="where --modelscope and --wan run")
    parser.add_argument("--clips", type=int, default=8)
    arguments = parser.parse_args()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # (as load_for_inversion does)
    if not (arguments.modelscope or arguments.wan):
        print(json.dumps(run(arguments.clips), indent=2))
    for wanted, model, size in (
        (arguments.modelscope, modelscope, MODELSCOPE_CLIP),
        (arguments.wan, wan, WAN_CLIP),
    ):
        for report in published(model, size, arguments) if wanted else ():
            print(json.dumps(report, indent=2), flush=True)


if __name__ == "__main__":
    main()
