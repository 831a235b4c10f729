"""Batched inversion against the network calls alone, and against a loop over diffusers' inverse scheduler.

    python -m benchmarks.inversion                                      a small model, on the CPU
    python -m benchmarks.inversion --modelscope --device cuda           ModelScope's real size with random weights:
                                                                        16 x 256 x 256, T = 50, in three precisions

Prints JSON. ``network_alone`` is the time of the network calls as a share of the batched inversion's, encoding and
storage of float16 included: both of one run, so that neighbours on the machine weigh on both. ``multiple_ddim`` and
``multiple_fixed_point`` are clips a second over those of the loop (one clip at a time, one call a step). On a GPU also
``gpu_busy``, the share of the time in which it runs kernels, and ``peak_gb``. The paper's figure is 5,532 ms a clip.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.roundtrip import library_inversion
from noisebank.fixtures.small_models import make_small_model, modelscope_scheduler, smooth_clip
from noisebank.inversion import Inversion, Network, invert, reconstruct, relative_error
from noisebank.models import ModelAdapter, family_of, load_model, pipeline_config
from noisebank.options import NoiseOptions
from noisebank.stages.clip_inversion import MeteredNetwork, choose_batch_size

STEPS = 50
ROUNDS = 2


def run(clips: int = 8) -> dict[str, float]:
    """The small model on the CPU; the better of two rounds of each side."""
    with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as folder:
        adapter = load_model(str(make_small_model("modelscope", Path(folder, "model"))))
        return measure(adapter, torch.stack([smooth_clip(16, 64, 64, seed) for seed in range(clips)]))


def measure(adapter: ModelAdapter, frames: torch.Tensor) -> dict[str, float]:
    """Time the sides on clips ``[N, F, H, W, 3]`` uint8 and measure what each gives back."""
    shape = adapter.rules.latent_shape(*frames.shape[1:4])
    batch_size = min(choose_batch_size(adapter, shape), len(frames))
    frames = frames[: len(frames) // batch_size * batch_size]
    batches = torch.split(frames, batch_size)
    network = MeteredNetwork(adapter.network(), adapter.device)
    with torch.inference_mode():
        network(torch.zeros(batch_size, *shape, device=adapter.device), torch.zeros(batch_size).to(adapter.device))

    def batched(inverter: str) -> list[Inversion]:
        return [_inverted(adapter, network, batch, shape, inverter) for batch in batches]

    def loop() -> list[torch.Tensor | None]:
        return [library_inversion(adapter, adapter.encode(clip)) for clip in torch.split(frames, 1)]

    before, began = network.seconds(), time.perf_counter()
    fixed_point = batched("fixed-point")
    network_alone = (network.seconds() - before) / (time.perf_counter() - began)
    ddim = batched("ddim")
    seconds = {name: float("inf") for name in ("fixed_point", "ddim", "loop")}
    sides: dict[str, Callable[[], Any]] = {
        "fixed_point": lambda: batched("fixed-point"),
        "ddim": lambda: batched("ddim"),
        "loop": loop,
    }
    for _ in range(ROUNDS):
        for name, side in sides.items():
            seconds[name] = min(seconds[name], _seconds(adapter.device, side))
    report = {
        "clips": len(frames),
        "batch_size": batch_size,
        "videos_a_second": len(frames) / seconds["fixed_point"],
        "calls_a_batch": sum(inversion.network_calls for inversion in fixed_point) / len(fixed_point),
        "network_alone": network_alone,
        "multiple_ddim": seconds["loop"] / seconds["ddim"],
        "multiple_fixed_point": seconds["loop"] / seconds["fixed_point"],
        "ms_a_clip_ddim": 1000 * seconds["ddim"] / len(frames),
        "ms_a_clip_fixed_point": 1000 * seconds["fixed_point"] / len(frames),
        "ms_a_clip_loop": 1000 * seconds["loop"] / len(frames),
        "error_ddim": _error(adapter, frames, shape, ddim),
        "error_fixed_point": _error(adapter, frames, shape, fixed_point),
    }
    if adapter.device.type == "cuda":
        report["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        report["gpu_busy"] = _gpu_busy(lambda: _inverted(adapter, network, batches[0], shape, "ddim"))
    return report


def _inverted(
    adapter: ModelAdapter, network: Network, frames: torch.Tensor, shape: tuple[int, int, int, int], inverter: str
) -> Inversion:
    levels = adapter.levels(STEPS, shape)
    inversion = invert(network, adapter.encode(frames), levels, NoiseOptions(inverter=inverter), dtype=adapter.dtype)
    inversion.noise.half().cpu()
    return inversion


def _error(
    adapter: ModelAdapter, frames: torch.Tensor, shape: tuple[int, int, int, int], inversions: list[Inversion]
) -> float:
    """Mean relative error of the latents given back, of the first batch."""
    noise = inversions[0].noise
    latents = adapter.encode(frames[: len(noise)])
    given_back = reconstruct(adapter.network(), noise, adapter.levels(STEPS, shape))
    return float(relative_error(given_back, latents).mean())


def _seconds(device: torch.device, side: Callable[[], Any]) -> float:
    """CPU seconds of the process without an accelerator (neighbours do not count), else seconds until it is idle."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    side()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def _gpu_busy(side: Callable[[], Any]) -> float:
    """Share of the time in which the GPU runs kernels, by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        began = time.perf_counter()
        side()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / seconds


def modelscope(dtype: torch.dtype, device: str) -> ModelAdapter:
    """UNet and VAE of ModelScope's published configuration with random weights."""
    from diffusers import AutoencoderKL, TextToVideoSDPipeline, UNet3DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from noisebank.fixtures.small_models import byte_clip_tokenizer

    torch.manual_seed(0)
    tokenizer = byte_clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=1024,
        num_hidden_layers=1,
        num_attention_heads=16,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.device(device):
        unet = UNet3DConditionModel(
            sample_size=32,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=1024,
            attention_head_dim=64,
        ).to(dtype)
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    pipe = TextToVideoSDPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text).to(dtype).eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=modelscope_scheduler(),
    )
    clip = smooth_clip(16, 256, 256).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
    with torch.inference_mode():
        vae.register_to_config(scaling_factor=1 / vae.encode(clip).latent_dist.mode().std().item())
    return family_of("TextToVideoSDPipeline")(pipeline_config(pipe), pipe, dtype, device)


def main() -> None:
    """Print one JSON object, of the small model or of the real size in every precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modelscope", action="store_true", help="ModelScope's real size, with random weights")
    parser.add_argument("--device", default="cpu", help="where --modelscope runs")
    parser.add_argument("--clips", type=int, default=8)
    arguments = parser.parse_args()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    if not arguments.modelscope:
        print(json.dumps(run(arguments.clips), indent=2))
        return
    frames = torch.stack([smooth_clip(16, 256, 256, seed) for seed in range(arguments.clips)])
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        if arguments.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        report = measure(modelscope(dtype, arguments.device), frames)
        print(json.dumps({"dtype": str(dtype).removeprefix("torch."), **report}, indent=2), flush=True)


if __name__ == "__main__":
    main()
