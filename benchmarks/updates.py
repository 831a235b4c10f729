"""CPU seconds of updating a bank as shares of those of its first build.

The pool is 5,000 clips of 4 frames of 64 x 64, inverted by three-step ``ddim`` with a small model: what a clip costs is
little, so what an update costs whatever its size weighs more here than with real clips. Its videos are 40 different
ones, linked under 5,000 names (:mod:`benchmarks.pool`).

    python -m benchmarks.updates [clips]

``start_up_cpu_s`` is a build of one clip into a bank of its own (the lesser of two): imports, Beam, loading the models.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.pool import Build, make_pool

SHARE = 100
"""One clip in so many is added, or gets another caption."""
NOISE = {"name": "small", "inverter": "ddim", "num_inference_steps": 3}


def run(clips: int = 5000) -> dict[str, float]:
    """Builds a bank of ``clips`` clips, builds it again, adds 1% and edits 1% of the captions.

    Returns:
        ``start_up``, ``first``, ``idle``, ``added`` and ``edited``, each ``_cpu_s``; of ``idle``, ``added`` (less the
        start-up) and ``edited`` the ``_ratio`` to the first build; ``idle_stages``, ``added_inversions`` and
        ``edited_inversions``: what the builds say that they have done.
    """
    few = clips // SHARE
    with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as folder:
        pool = make_pool(Path(folder), clips + few, frames=4, size=64, noise=[NOISE])
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
        "added_inversions": _inversions(added),
        "edited_cpu_s": edited.cpu_seconds,
        "edited_ratio": edited.cpu_seconds / first.cpu_seconds,
        "edited_inversions": _inversions(edited),
    }


def _inversions(build: Build) -> int:
    """Clips that went through the network."""
    return int(build.summary["stages"].get(f"noise/{NOISE['name']}", {"done": 0})["done"])


def _check(build: Build, **expected: int) -> None:
    """Raises unless the build says of its rows what this benchmark is about."""
    rows = build.summary["rows"]
    if wrong := {name: rows[name] for name, count in expected.items() if rows[name] != count}:
        raise AssertionError(f"the build reports {wrong}, expected {expected}")


if __name__ == "__main__":
    for name, value in run(*map(int, sys.argv[1:2])).items():
        print(f"{name:22} {value:.4g}")
