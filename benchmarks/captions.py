"""Captions a second of the captions stage against bare ``SentenceTransformer.encode`` on the same sorted batches.

    python -m benchmarks.captions [captions]

The stage reads nothing but its rows, embeds, and writes a Parquet file and a receipt; the bare side only encodes.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from sentence_transformers import SentenceTransformer

from noisebank.fixtures.captions_model import packaged_captions_model
from noisebank.ids import clip_numbers, xxh64_of
from noisebank.options import CaptionOptions
from noisebank.search.embed import load_embedder
from noisebank.stages.captions import CaptionsStage
from noisebank.stages.job import run_job
from noisebank.storage import BankWriter, open_store

BATCH_SIZE = 64
ROUNDS = 4
MODEL = packaged_captions_model()
_WORDS = (MODEL / "vocab.txt").read_text(encoding="utf-8").split()[2000:6000]


def run(captions: int = 512) -> dict[str, float]:
    """Captions a CPU second of both sides (their fastest of four rounds in turn), and their ratio; one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(captions)
    finally:
        torch.set_num_threads(threads)


def _measured(captions: int) -> dict[str, float]:
    rows = _rows(captions)
    embedder = load_embedder(str(MODEL))
    bare = SentenceTransformer(str(MODEL), device="cpu")
    tokens = bare.tokenizer(rows.column("caption").to_pylist())["input_ids"]
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    ordered = rows.take(order).column("caption").to_pylist()
    stage, encode = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            began = time.process_time()
            job = CaptionsStage(CaptionOptions(batch_size=BATCH_SIZE)).shard(rows, "bench", lambda: embedder)
            run_job(job, BankWriter(open_store(Path(folder, str(number)))))
            stage.append(time.process_time() - began)
            began = time.process_time()
            bare.encode(ordered, batch_size=BATCH_SIZE, normalize_embeddings=True, show_progress_bar=False)
            encode.append(time.process_time() - began)
    return {
        "stage_captions_per_s": captions / min(stage),
        "encode_captions_per_s": captions / min(encode),
        "ratio": min(encode) / min(stage),
    }


def _rows(count: int) -> pa.Table:
    """Rows of a captions shard: captions of 5 to 25 words."""
    draw = random.Random(0)
    ids = pa.array([f"mine-{number}" for number in range(count)])
    captions = pa.array([" ".join(draw.choices(_WORDS, k=draw.randint(5, 25))) for _ in range(count)])
    columns = {"num": clip_numbers(ids), "id": ids, "source": ["mine"] * count, "caption": captions}
    return pa.table({**columns, "caption_hash": xxh64_of(captions)}).sort_by("num")


if __name__ == "__main__":
    for name, value in run(*map(int, sys.argv[1:2])).items():
        print(f"{name:22} {value:.3f}")
