"""A bank read as a dataset, against reading its shards with the tools that own their formats.

    python -m benchmarks.dataset [clips]

Both sides give the same samples, every clip once, through a torch ``DataLoader`` in this process, in batches of 8:
caption, noise (float32) and, in the last pair, the mp4. The floor reads the captions and the noise with pyarrow, shard
after shard, and the tars with webdataset; it checks nothing. The bank's side also finds in the tables which rows hold,
and compares every record with its XXH3-64 and every clip with its sha256 (in the pair "unchecked" it does not). Times
are CPU seconds of a whole pass, opening the bank included, the best of several rounds, both sides in turn. Records are
of ModelScope's size.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.lookup import SHAPE
from benchmarks.pool import make_pool
from noisebank import NoiseBank
from noisebank.describe import snapshot_files
from noisebank.format.manifest import read_snapshot
from noisebank.storage import open_store

BATCH = 8
FULL = 500
"""Clips in a shard, as those of a large pool have; the default makes small ones of a pool as small as this."""
COLUMNS = {
    "noise": ("caption", "noise"),
    "unchecked": ("caption", "noise"),
    "clips": ("caption", "noise", "clip"),
}


def run(count: int = 512, rounds: int = 5) -> dict[str, float]:
    """CPU seconds of a pass over ``count`` clips on either side, and the speed of the bank's over the floor's."""
    noise = [{"name": "float16", "inverter": "diffuse", "measured": 0}]
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as name:
        folder = Path(name)
        pool = make_pool(folder, count, frames=SHAPE[1], size=2 * SHAPE[2], noise=noise, spatial_ratio=2, maxcount=FULL)
        pool.build("bank", count)
        for _ in range(rounds):
            for what, columns in COLUMNS.items():
                sides = {
                    "bank": _read_bank(folder / "bank", columns, what != "unchecked"),
                    "floor": _read_raw(folder / "bank", columns),
                }
                for side, samples in sides.items():
                    seconds = _pass_over(samples, count)
                    best[f"{side}_{what}"] = min(best.get(f"{side}_{what}", math.inf), seconds)
    return best | {f"speed_{what}": best[f"floor_{what}"] / best[f"bank_{what}"] for what in COLUMNS}


class _Stream(IterableDataset[dict[str, Any]]):
    def __init__(self, samples: Iterator[dict[str, Any]]) -> None:
        self._samples = samples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._samples


def _pass_over(samples: Iterator[dict[str, Any]], count: int) -> float:
    began, ids = time.process_time(), set[str]()
    for batch in DataLoader(_Stream(samples), batch_size=BATCH):
        ids.update(batch["id"])
        assert batch["noise"].dtype == torch.float32 and batch["noise"].shape[1:] == SHAPE
    seconds = time.process_time() - began
    assert len(ids) == count
    return seconds


def _read_bank(folder: Path, columns: tuple[str, ...], verify: bool = True) -> Iterator[dict[str, Any]]:
    with NoiseBank.open(folder) as bank:
        yield from bank.dataset(columns, verify=verify)


def _read_raw(folder: Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    store = open_store(folder)
    files = {kind: snapshot_files(store, read_snapshot(store), kind) for kind in ("clips", "captions", "noise")}
    captions: dict[str, str] = {}
    for file in files["captions"]:
        table = pq.read_table(folder / file.path, columns=["id", "caption"])
        captions |= dict(zip(table.column("id").to_pylist(), table.column("caption").to_pylist(), strict=True))
    if "clip" not in columns:
        for file in files["noise"]:
            for id, noise in _read_records(folder / file.path):
                yield {"id": id, "caption": captions[id], "noise": noise}
        return
    records = {id: noise for file in files["noise"] for id, noise in _open_records(folder / file.path)}
    tars = [str(folder / file.path) for file in files["clips"]]
    for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
        noise = torch.from_numpy(records[sample["__key__"]]).float()
        yield {"id": sample["__key__"], "caption": sample["txt"].decode(), "noise": noise, "clip": sample["mp4"]}


def _read_records(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for id, noise in _open_records(path):
        yield id, torch.from_numpy(noise).float()


def _open_records(path: Path) -> Iterator[tuple[str, Any]]:
    with pa.memory_map(str(path)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
        yield from zip(batch.column("id").to_pylist(), batch.column("noise").to_numpy_ndarray(), strict=True)


if __name__ == "__main__":
    for name, value in run(*map(int, sys.argv[1:2])).items():
        print(f"{name:14} {value:.3f}")
