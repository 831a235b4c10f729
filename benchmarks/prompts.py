"""A thousand prompts looked up and mixed in one call, against the sum of what its parts take alone.

    python -m benchmarks.prompts [prompts]

No prompt was looked up before. The floors are measured in the same run, in CPU seconds: embedding the prompts (by the
library's own batches, which ``benchmarks.captions`` compares with ``SentenceTransformer.encode``), one FAISS search for
the nearest caption of each, gathering their records out of a memory map, drawing as many normals and adding the
two with weights. The bank has as many clips as there are prompts; records are of ModelScope's shape.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.lookup import ETA, SHAPE
from benchmarks.pool import caption, make_pool
from noisebank import NoiseBank
from noisebank.describe import snapshot_files
from noisebank.fixtures.captions_model import packaged_captions_model
from noisebank.format.manifest import read_snapshot
from noisebank.processes import one_thread
from noisebank.search.embed import Embedder, load_embedder
from noisebank.storage import open_store

PARTS = ("embedding", "search", "reading", "mixing")


def run(count: int = 1000, rounds: int = 3) -> dict[str, float]:
    """CPU seconds of ``bank.noise`` of ``count`` prompts and of its parts, the best of ``rounds``, and their ratio."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    noise = [{"name": "float16", "inverter": "diffuse", "measured": 0}]
    best: dict[str, float] = {}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="noisebank-bench-") as name,
            one_thread(faiss.omp_get_max_threads, faiss.omp_set_num_threads),
        ):
            folder = Path(name)
            make_pool(folder, count, frames=SHAPE[1], size=2 * SHAPE[2], noise=noise, spatial_ratio=2).build(
                "bank", count
            )
            raw = np.memmap(folder / "raw", np.float16, "w+", shape=(count, *SHAPE))
            raw[:] = 1
            embedder = load_embedder(str(packaged_captions_model()))
            for number in range(rounds):
                prompts = [f"{caption(i)}, seen {number} times" for i in range(count)]
                for part, seconds in _measured(folder / "bank", embedder, prompts, torch.from_numpy(raw)).items():
                    best[part] = min(best.get(part, math.inf), seconds)
    finally:
        torch.set_num_threads(threads)
    return best | {"ratio": best["noise"] / sum(best[part] for part in PARTS)}


def _measured(folder: Path, embedder: Embedder, prompts: list[str], stored: torch.Tensor) -> dict[str, float]:
    """CPU seconds of looking prompts up in a bank, and of each part alone."""
    store, seconds = open_store(folder), {}
    (path,) = [
        file.path for file in snapshot_files(store, read_snapshot(store), "index") if file.path.endswith(".faiss")
    ]
    index = faiss.read_index(str(folder / path))
    bank = NoiseBank.open(folder, embedder=embedder)
    bank.noise("something else")
    generator = torch.Generator().manual_seed(0)

    def metered(part: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        seconds[part] = time.process_time() - began
        return result

    def mix(records: torch.Tensor) -> None:
        fresh = torch.randn((len(prompts), *SHAPE), generator=generator)
        torch.add(fresh, records, alpha=ETA, out=fresh).mul_(1 / math.sqrt(1 + ETA**2))

    queries = metered("embedding", lambda: embedder.embed(prompts))
    _, nearest = metered("search", lambda: index.search(queries, 1))
    records = metered("reading", lambda: stored[torch.from_numpy(nearest[:, 0])])
    metered("mixing", lambda: mix(records))
    metered("noise", lambda: bank.noise(prompts, eta=ETA, generator=generator))
    return seconds


if __name__ == "__main__":
    for name, value in run(*map(int, sys.argv[1:2])).items():
        print(f"{name:10} {value:.3f}")
