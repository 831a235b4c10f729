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
import torch
from sentence_transformers import SentenceTransformer

from noisebank.search.embed import load_embedder
from noisebank.stages.captions import make_captions_shard
from noisebank.storage import open_store
from schemas.captions import captions_schema
from tests.support.minilm import MINILM
from tests.support.reader_bank import caption_rows

BATCH_SIZE = 64
ROUNDS = 4
_WORDS = Path(MINILM, "vocab.txt").read_text(encoding="utf-8").split()[2000:6000]


def run(captions: int = 512) -> dict[str, float]:
    """Captions a CPU second of both sides (their fastest of four rounds in turn), and their ratio; one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(captions)
    finally:
        torch.set_num_threads(threads)


def _measured(captions: int) -> dict[str, float]:
    draw = random.Random(0)
    texts = {f"mine-{i}": " ".join(draw.choices(_WORDS, k=draw.randint(5, 25))) for i in range(captions)}
    rows = caption_rows(texts)
    embedder = load_embedder(MINILM)
    bare = SentenceTransformer(MINILM, device="cpu")
    tokens = bare.tokenizer(rows.column("caption").to_pylist())["input_ids"]
    order = np.argsort([len(ids) for ids in tokens], kind="stable")
    ordered = rows.take(order).column("caption").to_pylist()
    stage, encode = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            began = time.process_time()
            make_captions_shard(
                open_store(Path(folder, str(number))),
                rows,
                fingerprint="bench",
                load=lambda: embedder,
                schema_of=captions_schema,
                batch_size=BATCH_SIZE,
            )
            stage.append(time.process_time() - began)
            began = time.process_time()
            bare.encode(ordered, batch_size=BATCH_SIZE, normalize_embeddings=True, show_progress_bar=False)
            encode.append(time.process_time() - began)
    return {
        "stage_captions_per_s": captions / min(stage),
        "encode_captions_per_s": captions / min(encode),
        "ratio": min(encode) / min(stage),
    }


if __name__ == "__main__":
    for name, value in run(*map(int, sys.argv[1:2])).items():
        print(f"{name:22} {value:.3f}")
