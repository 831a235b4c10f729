"""Embeddings: those of sentence-transformers, of length one, and a function of the caption alone."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from noisebank.errors import ConfigError
from noisebank.search.embed import Embedder, embedder_digest, load_embedder
from tests.support.minilm import MINILM

CAPTIONS = [
    "a dog runs on the beach",
    "rain",
    "aerial view of a river between green mountains at sunset, slow motion",
    "a dog runs on the beach",
    "two cats",
    "ein Hund läuft am Strand",
    "a woman types on a laptop in a busy office while people walk past",
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder(MINILM)


def test_embeddings_are_those_of_sentence_transformers_in_the_order_given(embedder: Embedder) -> None:
    embeddings = embedder.embed(CAPTIONS)
    assert embeddings.shape == (7, embedder.dim) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-6)
    expected = SentenceTransformer(MINILM).encode(CAPTIONS, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)


def test_a_caption_gives_the_same_bits_alone_in_other_company_and_in_other_batches(embedder: Embedder) -> None:
    embeddings = embedder.embed(CAPTIONS)
    np.testing.assert_array_equal(embeddings[0], embeddings[3])
    np.testing.assert_array_equal(embedder.embed(CAPTIONS[::-1])[::-1], embeddings)
    for i, caption in enumerate(CAPTIONS):
        np.testing.assert_array_equal(embedder.embed([caption])[0], embeddings[i])
    many = [f"{caption} number {i}" for i in range(12) for caption in CAPTIONS]
    np.testing.assert_array_equal(embedder.embed(many, batch_size=3), embedder.embed(many, batch_size=64))


def test_embedding_in_several_threads_leaves_torch_its_threads(embedder: Embedder) -> None:
    began = torch.get_num_threads()
    with ThreadPoolExecutor(1) as fresh:
        wanted = fresh.submit(torch.get_num_threads).result()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: embedder.embed(CAPTIONS), range(24)):
            np.testing.assert_array_equal(found, embedder.embed(CAPTIONS))
    with ThreadPoolExecutor(1) as fresh:
        assert fresh.submit(torch.get_num_threads).result() == wanted
    assert torch.get_num_threads() == began


def test_a_caption_beyond_the_models_context_is_cut(embedder: Embedder) -> None:
    long = " ".join(["waves"] * 3000)
    np.testing.assert_array_equal(embedder.embed([long])[0], embedder.embed([long + " and a boat"])[0])
    assert embedder.embed([]).shape == (0, embedder.dim)


def test_captions_beyond_the_models_context_are_counted_to_the_token(embedder: Embedder) -> None:
    limit = embedder._model.max_seq_length
    fits, over = ((" ".join(["waves"] * count)) for count in (limit - 2, limit - 1))  # (two mark beginning and end)
    few_letters, few_words = "\N{SNOWMAN}" * (limit + 1), "w" * 10 * limit
    assert embedder.count_truncated([]) == embedder.count_truncated(["a dog", fits]) == 0
    assert embedder.count_truncated(["a dog", over, fits, over]) == 2
    alone = {text: len(embedder._model.tokenizer(text)["input_ids"]) > limit for text in (few_letters, few_words)}
    assert {text: embedder.count_truncated([text]) == 1 for text in alone} == alone


def test_the_digest_names_the_content_and_not_the_path(tmp_path: Path, embedder: Embedder) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(MINILM, moved)
    (moved / "README.md").write_text("notes")
    assert embedder_digest(str(moved)) == embedder.digest == embedder_digest(MINILM)
    pooling = moved / "1_Pooling" / "config.json"
    changed = json.loads(pooling.read_text()) | {"pooling_mode_cls_token": True}
    pooling.write_text(json.dumps(changed))
    assert embedder_digest(str(moved)) != embedder.digest
    with pytest.raises(ConfigError, match="the bank's embeddings were made with"):
        load_embedder(str(moved), embedder.digest)


def test_what_is_no_sentence_bert_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no modules\.json"):
        load_embedder(str(tmp_path))
    with pytest.raises(ConfigError, match="neither a local folder nor"):
        load_embedder("./no such folder")
    hostile = tmp_path / "hostile"
    shutil.copytree(MINILM, hostile)
    modules = json.loads((hostile / "modules.json").read_text())
    modules[0]["type"] = "os.system"
    (hostile / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_embedder(str(hostile))
