"""What measuring costs in network calls, counted: ``python -m benchmarks.measuring``.

Clips of a small model are inverted, cut into shards, and those that ``measured`` takes are counted as T calls each
beside the calls of the inversions. No clip is planted: it is the price of a good bank. Prints a table.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from noisebank.fixtures.small_models import make_small_model, smooth_clip
from noisebank.ids import clip_number
from noisebank.models import load_model
from noisebank.options import NoiseOptions
from noisebank.stages.clip_inversion import ClipInverter, ClipRecord
from noisebank.stages.measuring import measure_clips

STEPS = 20
SHARDS = (10, 16, 64, 512)


def run(clips: int) -> dict[str, dict[int, float]]:
    """Network calls over those of ``measured: 0``, by inverter and clips in a shard."""
    numbers = [clip_number(f"clip-{i}") for i in range(clips)]
    with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as folder:
        adapter = load_model(str(make_small_model("modelscope", Path(folder, "model"))))
    frames = torch.stack([smooth_clip(2, 32, 32, seed) for seed in range(clips)])
    found = {}
    for inverter in ("ddim", "fixed-point"):
        options = NoiseOptions(inverter=inverter, num_inference_steps=STEPS)
        made = ClipInverter(adapter, options, adapter.network(), lambda noise: noise, 16).invert(frames, numbers)
        records = [record for record in made if isinstance(record, ClipRecord)]
        found[inverter] = {size: _ratio(records, numbers, size, options.measured) for size in SHARDS if size <= clips}
    return found


def _ratio(records: list[ClipRecord], numbers: list[int], size: int, share: float) -> float:
    calls = measured = 0
    for start in range(0, len(records) - size + 1, size):
        shard = records[start : start + size]
        calls += sum(record.network_calls for record in shard)
        residuals = [record.max_residual for record in shard]
        chosen = measure_clips(
            numbers[start : start + size], residuals, share, lambda clips: [0.0] * len(clips), lambda error: False
        )
        measured += STEPS * len(chosen)
    return (calls + measured) / calls


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, default=192)
    found = run(parser.parse_args().clips)
    print("| clips in a shard |" + "".join(f" {inverter} |" for inverter in found))
    print("|---|" + "---|" * len(found))
    for size in found["ddim"]:
        print(f"| {size} |" + "".join(f" {ratios[size]:.3f} |" for ratios in found.values()))
