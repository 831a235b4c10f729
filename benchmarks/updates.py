"""CPU seconds of updating a bank as shares of those of its first build.

The pool is 5,000 clips of 4 frames of 64 x 64, inverted by three-step ``ddim`` with a small model: what a clip costs is
little, so what an update costs whatever its size weighs more here than with real clips. Its videos are 40 different
ones, linked under 5,000 names: to a build every name is a video of its own, opened and decoded for itself.

    python -m benchmarks.updates [clips]

Every build is the ``noisebank build`` of a user, in a process of its own; its children count. ``start_up_cpu_s`` is a
build of one clip into a bank of its own (the lesser of two): imports, Beam, loading the models.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from noisebank.fixtures.small_models import make_small_model, smooth_clip
from pipelines.demo import packaged_captions_model
from tests.support.media import write_video

SHARE = 100
"""One clip in so many is added, or gets another caption."""
DISTINCT = 40
FRAMES, SIDE = 4, 64
NOISE_SET = "small"


def run(clips: int = 5000) -> dict[str, float]:
    """Builds a bank of ``clips`` clips, builds it again, adds 1% and edits 1% of the captions.

    Returns:
        ``start_up``, ``first``, ``idle``, ``added`` and ``edited``, each ``_cpu_s``; of ``idle``, ``added`` (less the
        start-up) and ``edited`` the ``_ratio`` to the first build; ``idle_stages``, ``added_inversions`` and
        ``edited_inversions``: what the builds say that they have done.
    """
    few = clips // SHARE
    with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as folder:
        pool = _make_pool(Path(folder), clips + few)
        first = pool.build("bank", clips)
        idle = pool.build("bank", clips)
        added = pool.build("bank", clips + few)
        edited = pool.build("bank", clips + few, edited=few)
        start_up = min(pool.build(f"one-{number}", 1).cpu_seconds for number in range(2))
    _check(first, new=clips, in_bank=clips)
    _check(idle, unchanged=clips, in_bank=clips)
    _check(added, new=few, unchanged=clips, in_bank=clips + few)
    _check(edited, changed=few, unchanged=clips, in_bank=clips + few)
    return {
        "clips": clips,
        "start_up_cpu_s": start_up,
        "first_cpu_s": first.cpu_seconds,
        "idle_cpu_s": idle.cpu_seconds,
        "idle_ratio": idle.cpu_seconds / first.cpu_seconds,
        "idle_stages": len(idle.summary["stages"]),
        "added_cpu_s": added.cpu_seconds,
        "added_ratio": (added.cpu_seconds - start_up) / first.cpu_seconds,
        "added_inversions": added.inversions,
        "edited_cpu_s": edited.cpu_seconds,
        "edited_ratio": edited.cpu_seconds / first.cpu_seconds,
        "edited_inversions": edited.inversions,
    }


@dataclass(frozen=True)
class _Build:
    """What one build used and said."""

    cpu_seconds: float
    summary: dict[str, Any]

    @property
    def inversions(self) -> int:
        """Clips that went through the network."""
        return int(self.summary["stages"].get(f"noise/{NOISE_SET}", {"done": 0})["done"])


@dataclass(frozen=True)
class _Pool:
    """Videos, a captions model and a text-to-video model in a folder."""

    folder: Path

    def build(self, bank: str, clips: int, edited: int = 0) -> _Build:
        """Builds ``bank`` from a list of the first ``clips`` videos, the first ``edited`` with other captions."""
        with (self.folder / "list.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "uri", "caption"])
            for number in range(clips):
                verb = "turns" if number < edited else "moves"
                writer.writerow(
                    [number, f"videos/{number}.mp4", f"thing number {number} {verb} over wall {number % 7}"]
                )
        command = [sys.executable, "-m", "pipelines.build", "-c", str(self.folder / "bank.yaml"), "--json"]
        before = _cpu_seconds_of_children()
        finished = subprocess.run(
            [*command, "--bank", str(self.folder / bank)], check=True, stdout=subprocess.PIPE, text=True
        )
        return _Build(_cpu_seconds_of_children() - before, json.loads(finished.stdout))


def _make_pool(folder: Path, clips: int) -> _Pool:
    make_small_model("modelscope", folder / "model")
    distinct = [
        write_video(folder / f"distinct-{seed}.mp4", [*smooth_clip(FRAMES, SIDE, SIDE, seed).numpy()])
        for seed in range(DISTINCT)
    ]
    (folder / "videos").mkdir()
    for number in range(clips):
        os.link(distinct[number % DISTINCT], folder / "videos" / f"{number}.mp4")
    noise = {"name": NOISE_SET, "model": str(folder / "model"), "inverter": "ddim", "num_inference_steps": 3}
    config = {
        "sources": [
            {"kind": "table", "path": str(folder / "list.csv"), "id": "id", "uri": "uri", "caption": "caption"}
        ],
        "clips": {"frames": FRAMES, "frame_stride": 1, "size": SIDE},
        "captions": {"model": str(packaged_captions_model())},
        "noise": [noise],
    }
    (folder / "bank.yaml").write_text(yaml.safe_dump(config))
    return _Pool(folder)


def _cpu_seconds_of_children() -> float:
    """CPU seconds of the children that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _check(build: _Build, **expected: int) -> None:
    """Raises unless the build says of its rows what this benchmark is about."""
    rows = build.summary["rows"]
    if wrong := {name: rows[name] for name, count in expected.items() if rows[name] != count}:
        raise AssertionError(f"the build reports {wrong}, expected {expected}")


if __name__ == "__main__":
    for name, value in run(*map(int, sys.argv[1:2])).items():
        print(f"{name:22} {value:.4g}")
