"""Coverage: what brute force over the captions files says, of any bank and for any list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisebank import BankDamaged, ClipNotFound, NoiseBank, UnknownNoiseSet
from noisebank.describe import snapshot_files
from noisebank.format.manifest import read_snapshot
from noisebank.reader import coverage as module
from noisebank.search.exhaustive import Nearest
from noisebank.search.index import build_index
from noisebank.storage import Store, open_store
from tests.support.bank import build
from tests.support.made_up import embedder
from tests.support.projects import CAPTIONS

PROMPTS = [
    "a puppy at the seaside",
    "traffic in the dark",
    CAPTIONS[2],
    "an essay on tax law",
    "a puppy at the seaside",
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A bank of several segments and captions files, in which captions were edited, removed and are there twice."""
    store = open_store(tmp_path / "bank")
    listed = {f"mine-{i}": caption for i, caption in enumerate(CAPTIONS)}
    build(store, listed, sets={"whole": listed, "half": [*listed][::2]})
    edited = {"mine-1": "a dog runs along a river", "yours-0": CAPTIONS[3], "yours-1": "rain on a window"}
    build(store, edited, removed=["mine-0"], sets={"whole": edited, "half": []})
    return store


def open_bank(store: Store, noise_set: str | None = None) -> NoiseBank:
    return NoiseBank.open(store.url, noise_set=noise_set, embedder=embedder())


def brute_force(store: Store, prompts: Sequence[str], only: str = "") -> tuple[np.ndarray, np.ndarray]:
    """The best similarity of each prompt and of each live caption with another, by captions/*.parquet of a folder."""
    tables = [pq.read_table(path) for path in Path(store.url).glob("captions/*.parquet")]
    rows = [row for table in tables for row in table.to_pylist()]
    live = {hit.id: hit.caption for hit in open_bank(store).search("anything", k=1000)}
    if only:
        files = snapshot_files(store, read_snapshot(store), f"noise/{only}")
        ids = {id for file in files for id in pa.ipc.open_file(store.read(file.path)).read_all()["id"].to_pylist()}
        live = {id: caption for id, caption in live.items() if id in ids}
    vectors = np.asarray([row["embedding"] for row in rows if live.get(row["id"]) == row["caption"]])
    assert len(vectors) == len(live)
    among = vectors @ vectors.T
    np.fill_diagonal(among, -1)
    return (embedder().embed(prompts) @ vectors.T).max(axis=1), np.sort(among.max(axis=1))


@pytest.mark.parametrize("noise_set", [None, "whole", "half"])
def test_it_equals_brute_force_over_the_captions_files(store: Store, noise_set: str | None) -> None:
    bank = open_bank(store, noise_set)
    found = bank.coverage(PROMPTS)
    best, among = brute_force(store, PROMPTS, noise_set or "")
    np.testing.assert_allclose(found.similarity, best, atol=1e-6)
    np.testing.assert_allclose(found.pool, among, atol=1e-6)
    assert found.captions == len(among) == {None: 13, "whole": 13, "half": 5}[noise_set]
    assert found.below == pytest.approx(np.percentile(among, 5), abs=1e-6)
    assert (found.recall, found.largest_share) == (1.0, 0.4)
    nearest = [bank.search(prompt, k=1)[0].id for prompt in PROMPTS]
    if noise_set != "half":
        assert found.clips_used == len({*nearest})
    assert found.is_far.tolist() == (best < found.below).tolist()


def test_far_prompts_come_once_with_their_nearest_clip_the_farthest_first(store: Store) -> None:
    bank = open_bank(store)
    found = bank.coverage(PROMPTS, below=0.99)
    assert found.far[0].prompt == "an essay on tax law"
    assert {one.prompt for one in found.far} == {*PROMPTS} - {CAPTIONS[2]} and len(found.far) == 3
    scores = [one.nearest.score for one in found.far]
    assert scores == sorted(scores)
    for one in found.far:
        (hit,) = bank.search(one.prompt, k=1)
        assert (one.nearest.id, one.nearest.caption) == (hit.id, hit.caption)
        assert one.nearest.score == pytest.approx(hit.score, abs=1e-6)


def test_a_caption_of_the_bank_is_never_far(store: Store) -> None:
    found = open_bank(store).coverage([CAPTIONS[3], "rain on a window"], below=1)
    assert found.similarity.tolist() == pytest.approx([1, 1], abs=1e-6) and not found.far


def test_of_a_large_pool_a_sample_is_compared_with_all_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE", 5)
    bank = open_bank(store)
    found = bank.coverage(PROMPTS)
    best, among = brute_force(store, PROMPTS)
    assert len(found.pool) == 5 and found.captions == 13
    assert all(np.abs(among - value).min() < 1e-6 for value in found.pool)
    np.testing.assert_allclose(found.pool, bank.coverage(PROMPTS[:1]).pool, atol=1e-6)
    np.testing.assert_allclose(found.similarity, best, atol=1e-6)


def test_recall_counts_the_prompts_for_which_the_index_misses(store: Store) -> None:
    """An index of inverted lists that visits one list a query."""
    bank = open_bank(store)
    for segment in bank._pinned.segments:
        vectors = segment.vectors(np.arange(segment.size))
        segment.index = build_index(vectors, 0, f"IVF{len(vectors) // 2},Flat").index
        segment.index.nprobe = 1
    prompts = [f"{first} and {second}" for first in CAPTIONS[:4] for second in CAPTIONS[6:]]
    found = bank.coverage(prompts)
    exact, _ = brute_force(store, prompts)
    np.testing.assert_allclose(found.similarity, exact, atol=1e-6)
    hits = [bank.search(prompt, k=1)[0] for prompt in prompts]
    assert found.recall == np.mean([hit.score > best - 1e-5 for hit, best in zip(hits, exact, strict=True)])
    assert 0 < found.recall < 1
    counts = Counter(hit.id for hit in hits)
    assert (found.clips_used, found.largest_share) == (len(counts), max(counts.values()) / len(prompts))


def test_progress_counts_prompts_and_captions(store: Store) -> None:
    seen: list[tuple[int, int]] = []
    open_bank(store).coverage(PROMPTS, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 17) and seen[-1] == (17, 17) and seen == sorted(seen)


def test_what_cannot_be_compared_is_refused(store: Store, tmp_path: Path) -> None:
    bank = open_bank(store)
    with pytest.raises(ValueError, match="prompt \\[\\] is not allowed"):
        bank.coverage([])
    with pytest.raises(ValueError, match="one text"):
        bank.coverage(["a dog", None])  # type: ignore[list-item]
    with pytest.raises(UnknownNoiseSet, match="no noise set 'other'"):
        open_bank(store, "other")
    alone = open_store(tmp_path / "alone")
    build(alone, {"mine-0": "a dog"}, sets={"none": []})
    with pytest.raises(ValueError, match="the pool has one caption"):
        open_bank(alone).coverage(["a cat"])
    found = open_bank(alone).coverage(["a cat"], below=0.9)
    assert (len(found.pool), found.clips_used, [one.nearest.id for one in found.far]) == (0, 1, ["mine-0"])
    with pytest.raises(ClipNotFound, match="no caption with a record in noise set 'none'"):
        open_bank(alone, "none").coverage(["a cat"])


def test_a_damaged_captions_file_is_said(store: Store) -> None:
    (path, *_) = sorted(Path(store.url).glob("captions/*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BankDamaged, match=path.name):
        open_bank(store).coverage(PROMPTS)


def test_blocks_in_any_order_and_size_give_what_all_at_once_does() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    nums = random.permutation(10_000)[:300]
    queries, own = np.concatenate([vectors[:40], vectors[100:120] * 1.0]), np.concatenate([nums[:40], np.full(20, -1)])
    nearest = Nearest(queries, own)
    for cut in np.split(random.permutation(300), [1, 3, 80, 200]):
        nearest.see(nums[cut], vectors[cut])
    scores = queries @ vectors.T
    scores[np.arange(40), np.arange(40)] = -np.inf
    np.testing.assert_array_equal(nearest.nums, nums[scores.argmax(axis=1)])
    np.testing.assert_allclose(nearest.scores, scores.max(axis=1), atol=1e-6)
