"""The index: the table of types, recall measured on queries that are not indexed, equal bytes, segments united."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisebank.errors import BankDamaged, JobFailed
from noisebank.format.manifest import IndexSegment
from noisebank.search.index import (
    Vectors,
    blend,
    build_index,
    choose_index,
    exact_scores,
    held_out_queries,
    recall_of,
)
from noisebank.search.segments import (
    ENTRY_GROUP,
    Entries,
    Segment,
    merge_segments_from,
    open_segment,
    search_segments,
    union_recall,
)
from noisebank.storage import BankWriter, Store, open_store
from schemas.captions import ENTRIES

DIM = 24
IVF = "IVF40,Flat"


def unit(n: int, seed: int = 0) -> Vectors:
    """Clustered vectors of length one, as captions' embeddings are."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((12, DIM))
    vectors = centres[random.integers(0, 12, n)] + 0.7 * random.standard_normal((n, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def entries_table(nums: list[int]) -> pa.Table:
    return pa.table(
        {
            "num": nums,
            "id": [f"mine-{num}" for num in nums],
            "source": ["mine"] * len(nums),
            "caption": [f"caption {num}" for num in nums],
        },
        schema=ENTRIES,
    )


def segment(
    folder: Path, vectors: Vectors, first_num: int, deleted: tuple[int, ...] = (), kind: str = "Flat"
) -> Segment:
    path = folder / f"{first_num}.parquet"
    pq.write_table(entries_table([first_num + i for i in range(len(vectors))]), path, row_group_size=ENTRY_GROUP)
    mask = None
    if deleted:
        mask = np.zeros(len(vectors), bool)
        mask[list(deleted)] = True
    return Segment(build_index(vectors, 0.95, kind).index, Entries(path), mask)


@pytest.mark.parametrize(
    ("n", "memory", "final", "factory"),
    [
        (1, None, False, "Flat"),
        (50_000, None, True, "Flat"),
        (50_001, None, False, "IVF894,Flat"),
        (2_000_000, None, False, "IVF5657,Flat"),
        (2_000_000, None, True, "HNSW32,Flat"),
        (2_000_001, None, False, "IVF5657,SQ8"),
        (2_000_001, None, True, "IVF5657,SQ8"),
        (1_000_000, 10**9, False, "IVF4000,SQ8"),
        (1_000_000, 2 * 10**9, False, "IVF4000,Flat"),
    ],
)
def test_the_type_follows_from_size_and_memory(n: int, memory: int | None, final: bool, factory: str) -> None:
    assert choose_index(n, 384, memory, final) == factory


def test_queries_are_no_indexed_vectors_and_lie_between_two() -> None:
    vectors = unit(500)
    queries = held_out_queries(vectors)
    np.testing.assert_array_equal(queries, held_out_queries(vectors))
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-6)
    nearest = exact_scores(vectors, queries, 1)[:, 0]
    assert (nearest < 0.9999).mean() > 0.99 and nearest.min() > 0.4
    opposite = blend(vectors[:1], -vectors[:1])
    np.testing.assert_array_equal(opposite, vectors[:1])


def test_recall_counts_results_as_near_as_the_exact_ones() -> None:
    exact = np.array([[0.9, 0.8, 0.7, 0.6, 0.5], [0.9, 0.9, 0.7, 0.6, 0.5]], np.float32)
    found = np.array([[0.8, 0.7, 0.6, 0.5, -np.inf], [0.9, 0.9, 0.7, 0.6, 0.5]], np.float32)
    assert recall_of(found, exact) == {1: 0.5, 5: 0.9}
    few = np.array([[0.9, -np.inf, -np.inf, -np.inf, -np.inf]], np.float32)
    assert recall_of(few, few) == {1: 1.0, 5: 1.0}


def test_effort_is_raised_until_the_recall_is_reached_and_is_written_with_the_index(tmp_path: Path) -> None:
    vectors = unit(4000)
    low, high = build_index(vectors, 0.5, IVF), build_index(vectors, 1.0, IVF)
    assert low.effort < high.effort and min(low.recall.values()) >= 0.5
    assert min(high.recall.values()) == 1.0
    faiss.write_index(high.index, str(tmp_path / "x.faiss"))
    assert faiss.read_index(str(tmp_path / "x.faiss")).nprobe == high.effort
    flat = build_index(vectors[:3], 1.0, "Flat")
    assert (flat.kind, flat.effort, flat.recall) == ("Flat", 0, {1: 1.0, 5: 1.0})


@pytest.mark.parametrize("factory", ["Flat", "IVF40,Flat", "IVF40,SQ8", "HNSW32,Flat"])
def test_equal_vectors_give_equal_bytes(tmp_path: Path, factory: str) -> None:
    for name in "ab":
        faiss.write_index(build_index(unit(3000), 0.9, factory).index, str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_recall_out_of_reach_is_refused_with_the_numbers() -> None:
    with pytest.raises(JobFailed, match=r"IVF5,PQ2.* recall@1 0\.\d+, recall@5 0\.\d+ at the highest effort \(5\)"):
        build_index(unit(2000), 0.99, "IVF5,PQ2")


@pytest.mark.parametrize("kind", ["Flat", IVF, "HNSW32,Flat"])
def test_segments_search_like_one_and_deleted_positions_are_never_found(tmp_path: Path, kind: str) -> None:
    vectors = unit(3000)
    queries = held_out_queries(unit(3000, seed=5))
    dead = (0, 7, 1999)
    first = segment(tmp_path, vectors[:2000], 0, dead, kind)
    second = segment(tmp_path, vectors[2000:], 2000)
    scores, origin, positions = search_segments([first, second], queries, 5, exhaustive=True)
    nums = np.where(origin == 0, 0, 2000) + positions
    kept = np.setdiff1d(np.arange(3000), dead)
    truth = queries @ vectors[kept].T
    np.testing.assert_allclose(scores, np.sort(truth, axis=1)[:, :-6:-1], atol=1e-6)
    np.testing.assert_array_equal(nums, kept[np.argsort(-truth, axis=1, kind="stable")[:, :5]])
    assert min(union_recall([first, second]).values()) >= 0.95
    own, _, own_position = search_segments([first], vectors[[7]], 1)
    assert own_position[0, 0] != 7 and own[0, 0] < 0.9999
    assert first.live == 1997


def test_fewer_captions_than_asked_for_is_no_error(tmp_path: Path) -> None:
    vectors = unit(3)
    scores, origin, positions = search_segments([segment(tmp_path, vectors, 10, (1,))], vectors[:1], 4)
    assert positions[0].tolist()[2:] == [-1, -1] and origin[0].tolist() == [0, 0, -1, -1]
    assert scores[0, 0] == pytest.approx(1.0) and np.isneginf(scores[0, 2:]).all()
    scores, origin, _ = search_segments([], vectors[:1], 2)
    assert origin.tolist() == [[-1, -1]] and np.isneginf(scores).all()
    restricted = segment(tmp_path, vectors, 20, (1,)).restricted(np.array([True, True, False]))
    assert restricted.live == 1


def test_entries_are_found_by_position_and_by_number(tmp_path: Path) -> None:
    nums = [3 * i for i in range(2 * ENTRY_GROUP + 5)]
    pq.write_table(entries_table(nums), tmp_path / "e.parquet", row_group_size=ENTRY_GROUP)
    entries = Entries(tmp_path / "e.parquet")
    assert len(entries) == len(nums)
    for position in (0, ENTRY_GROUP - 1, ENTRY_GROUP, len(nums) - 1):
        entry = entries.at(position)
        assert (entry.num, entry.id, entry.caption) == (
            3 * position,
            f"mine-{3 * position}",
            f"caption {3 * position}",
        )
        assert entries.find(3 * position) == position
    assert [entries.find(num) for num in (-1, 1, 3 * ENTRY_GROUP + 1, 10**9)] == [None] * 4
    np.testing.assert_array_equal(entries.nums(), nums)


def published(store: Store, folder: Path, n: int) -> IndexSegment:
    built = build_index(unit(n), 0.9, "Flat")
    faiss.write_index(built.index, str(folder / "i"))
    pq.write_table(entries_table(list(range(n))), folder / "e", row_group_size=ENTRY_GROUP)
    bits = np.packbits(np.arange(n) == 2, bitorder="little").tobytes()
    writer = BankWriter(store)
    return IndexSegment(
        writer.file(folder / "i", "index", ".faiss", n),
        writer.file(folder / "e", "index", ".parquet", n),
        writer.data(b"{}", "index", ".json", 1),
        writer.data(bits, "index", ".bits", 1),
        "Flat",
        n,
        1.0,
    )


@pytest.mark.parametrize("remote", [False, True])
def test_a_published_segment_opens_and_any_damage_is_met_before_it_is_searched(tmp_path: Path, remote: bool) -> None:
    store = open_store("memory://test-index") if remote else open_store(tmp_path / "bank")
    stated = published(store, tmp_path, 20)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    opened = open_segment(store, stated, scratch)
    assert (opened.size, opened.live, opened.entries.at(3).id) == (20, 19, "mine-3")
    assert stated.deleted is not None
    for entry in (stated.index, stated.entries, stated.deleted):
        content = store.read(entry.path)
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 4
        for bad in (bytes(flipped), content[:-1], b""):
            store.put(entry.path, bad)
            with pytest.raises(BankDamaged, match=entry.path):
                open_segment(store, stated, scratch)
        store.delete(entry.path)
        with pytest.raises(BankDamaged, match=f"{entry.path}: missing"):
            open_segment(store, stated, scratch)
        store.put(entry.path, content)
    open_segment(store, stated, scratch)


def test_segments_merge_when_they_are_many_or_worn() -> None:
    assert merge_segments_from([], []) == 0
    assert merge_segments_from([100], [100]) == 1
    assert merge_segments_from([100, 20, 10], [100, 20, 10]) == 3
    assert merge_segments_from([100, 20, 11], [100, 20, 11]) == 1
    assert merge_segments_from([1000, 79, 5], [1000, 100, 5]) == 1
    assert merge_segments_from([1000, 80, 5], [1000, 100, 5]) == 3


def test_a_clip_is_found_with_all_its_captions_across_row_groups(tmp_path: Path) -> None:
    nums = [4, 4, 4, 4, 4, 6, 6, 7, 9, 9]
    columns = {"num": nums, "id": [f"a-{num}" for num in nums], "source": ["a"] * 10, "caption": list("abcdefghij")}
    pq.write_table(pa.table(columns, ENTRIES), tmp_path / "entries.parquet", row_group_size=2)
    entries = Entries(tmp_path / "entries.parquet")
    assert {num: entries.positions(num) for num in (4, 6, 7, 9)} == {
        num: range(nums.index(num), nums.index(num) + nums.count(num)) for num in (4, 6, 7, 9)
    }
    assert entries.find(9) == 8
    assert not any(entries.positions(num) for num in (0, 3, 5, 8, 10))
