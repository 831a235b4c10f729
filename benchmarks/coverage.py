"""CPU seconds and peak memory of ``noisebank coverage``, by numbers of captions and prompts.

    python -m benchmarks.coverage [CAPTIONS PROMPTS]...

prints one line of JSON for each pair. The bank is real but for its vectors, which are drawn; so are those of the
prompts, so embedding them is not in it (``benchmarks.captions`` measures that). Every pair is measured by a process of
its own; ``base_mb`` is what that process has before it starts, ``index_mb`` the index, a memory map of which searched
pages count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.planning import _peak_mb
from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo, Delta
from noisebank.format.manifest import EMPTY, read_snapshot
from noisebank.format.receipts import segment_of
from noisebank.format.status import Status
from noisebank.ids import clip_numbers, xxh64, xxh64_of
from noisebank.options import CaptionOptions, IndexOptions
from noisebank.reader.coverage import measure_coverage
from noisebank.reader.pinned import PinnedSnapshot
from noisebank.search.index import Vectors
from noisebank.stages.captions import CaptionsStage
from noisebank.stages.index import IndexJob
from noisebank.stages.job import run_job
from noisebank.storage import BankWriter, Store, open_store
from schemas.rows import ROWS

DIM = 384
SHARD = 512
_FINGERPRINT = "bench"


class DrawnEmbedder:
    """Embeds a batch of captions without a model: vectors of length one that its first caption seeds."""

    dim = DIM

    def embed(self, captions: Sequence[str], batch_size: int = 0) -> Vectors:
        drawn = np.random.default_rng(xxh64(captions[0])).standard_normal((len(captions), DIM), np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def make_bank(store: Store, captions: int) -> None:
    """Commits a bank of drawn captions, in files of 512, with the index that a build would make for so many."""
    ids = pa.array([f"mine-{number}" for number in range(captions)])
    texts = pa.array([f"a made-up caption of some length, number {number}" for number in range(captions)])
    columns = {"num": clip_numbers(ids), "id": ids, "source": ["mine"] * captions, "caption": texts}
    rows = pa.table({**columns, "caption_hash": xxh64_of(texts)}).sort_by("num")
    writer, stage = BankWriter(store), CaptionsStage(CaptionOptions())
    shards = [rows.slice(start, SHARD).combine_chunks() for start in range(0, captions, SHARD)]
    receipts = [run_job(stage.shard(shard, _FINGERPRINT, DrawnEmbedder), writer).receipt for shard in shards]
    files = tuple(file for receipt in receipts for file in receipt.files)
    job = IndexJob(store, files, EMPTY, _FINGERPRINT, IndexOptions(min_recall=0), np.zeros(0, np.int64))
    index = run_job(job.shard(), writer).receipt
    known = {name: np.zeros(captions) for name in ROWS.names} | {"num": rows.column("num")}
    keys = np.array([file.key for file in files], np.uint64)
    known |= {"caption_file": np.repeat(keys, SHARD)[:captions], "caption_row": np.arange(captions) % SHARD}
    known |= {"clip_file": np.ones(captions)}
    known |= {"status": np.full(captions, Status.OK)}
    delta = Delta([pa.table(known).cast(ROWS)], receipts=[*receipts, index], index=segment_of(index)[0])
    commit(store, None, delta, CommitInfo("bench", fingerprints={"captions": _FINGERPRINT}, sources=("mine",)))


def run(captions: int, prompts: int) -> dict[str, Any]:
    """Measures coverage of ``prompts`` prompts by a bank of ``captions`` captions."""
    with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as bank:
        make_bank(open_store(bank), captions)
        command = [sys.executable, "-m", "benchmarks.coverage", "--measure", bank, str(prompts)]
        finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"captions": captions, "prompts": prompts, **json.loads(finished.stdout)}


def _measure(bank: str, prompts: int) -> dict[str, float]:
    store = open_store(bank)
    snapshot = read_snapshot(store)
    listed, base = [f"a prompt of some length, number {number}" for number in range(prompts)], _peak_mb()
    began = time.process_time()
    found = measure_coverage(PinnedSnapshot(store, snapshot), listed, DrawnEmbedder().embed)
    seconds = time.process_time() - began
    assert len(found.similarity) == prompts
    index = sum(segment.index.bytes for segment in snapshot.index) >> 20
    return {"cpu_s": round(seconds, 1), "peak_mb": _peak_mb(), "base_mb": base, "index_mb": index}


def main(arguments: list[str]) -> None:
    """Prints measurements as JSON, one line a pair."""
    if arguments[:1] == ["--measure"]:
        print(json.dumps(_measure(Path(arguments[1]).as_posix(), int(arguments[2]))))
        return
    numbers = [int(argument) for argument in arguments] or [60_000, 20_000, 200_000, 20_000, 20_000, 100_000]
    for captions, prompts in zip(numbers[::2], numbers[1::2], strict=True):
        print(json.dumps(run(captions, prompts)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
