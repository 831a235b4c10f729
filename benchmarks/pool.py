"""A pool of captioned videos, and banks built of it: for benchmarks that need a whole bank.

Its videos are few, linked under many names: to a build every name is a video of its own, opened and decoded for itself.
Every build is the ``noisebank build`` of a user, in a process of its own.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from noisebank.fixtures.captions_model import packaged_captions_model
from noisebank.fixtures.small_models import make_small_model, smooth_clip
from noisebank.fixtures.videos import write_video

DISTINCT = 40


@dataclass(frozen=True)
class Build:
    """What one build used and said."""

    cpu_seconds: float
    """Of its process and of the children of that."""
    summary: dict[str, Any]


@dataclass(frozen=True)
class Pool:
    """Videos, a captions model and a text-to-video model in a folder; see :func:`make_pool`."""

    folder: Path

    def build(self, bank: str, clips: int, edited: int = 0) -> Build:
        """Builds ``bank``, a folder in the pool's, of the first ``clips`` videos, the first ``edited`` with other
        captions."""
        with (self.folder / "list.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "uri", "caption"])
            for number in range(clips):
                writer.writerow([number, f"videos/{number}.mp4", caption(number, is_edited=number < edited)])
        command = [sys.executable, "-m", "pipelines.build", "-c", str(self.folder / "bank.yaml"), "--json"]
        before = _cpu_seconds_of_children()
        finished = subprocess.run(
            [*command, "--bank", str(self.folder / bank)], check=True, stdout=subprocess.PIPE, text=True
        )
        return Build(_cpu_seconds_of_children() - before, json.loads(finished.stdout))


def caption(number: int, is_edited: bool = False) -> str:
    """What a list says of a video."""
    return f"thing number {number} {'turns' if is_edited else 'moves'} over wall {number % 7}"


def make_pool(
    folder: Path,
    clips: int,
    *,
    frames: int,
    size: int,
    noise: Sequence[Mapping[str, Any]],
    spatial_ratio: int = 8,
    maxcount: int = 512,
) -> Pool:
    """Makes a pool and the configuration of its banks.

    Args:
        folder: where to.
        clips: how many videos, each of one clip.
        frames: of a clip.
        size: side of a clip in pixels.
        noise: options of the noise sets, but for the model: all take one small model of ModelScope's family.
        spatial_ratio: pixels a latent of that model, on either side.
        maxcount: clips in a shard, as in configurations.
    """
    model = str(make_small_model("modelscope", folder / "model", spatial_ratio=spatial_ratio))
    distinct = [
        write_video(folder / f"distinct-{seed}.mp4", smooth_clip(frames, size, size, seed).numpy())
        for seed in range(min(DISTINCT, clips))
    ]
    (folder / "videos").mkdir()
    for number in range(clips):
        os.link(distinct[number % DISTINCT], folder / "videos" / f"{number}.mp4")
    config = {
        "sources": [
            {"kind": "table", "path": str(folder / "list.csv"), "id": "id", "uri": "uri", "caption": "caption"}
        ],
        "clips": {"frames": frames, "frame_stride": 1, "size": size, "maxcount": maxcount},
        "captions": {"model": str(packaged_captions_model())},
        "noise": [{"model": model, **options} for options in noise],
    }
    (folder / "bank.yaml").write_text(yaml.safe_dump(config))
    return Pool(folder)


def _cpu_seconds_of_children() -> float:
    """CPU seconds of the children that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
