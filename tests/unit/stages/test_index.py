"""The index stage: one segment a build, merged when there are too many, measured over all of them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisebank.errors import BankDamaged, JobFailed
from noisebank.format.index_deletions import mark_deleted
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.parts import part_entries, read_parts
from noisebank.format.receipts import segment_of
from noisebank.ids import clip_number
from noisebank.options import IndexOptions
from noisebank.reader.pinned import PinnedSnapshot
from noisebank.stages.job import Finished, ShardJob, run_job
from noisebank.storage import BankWriter, Store, open_store
from noisebank.upkeep.purge import rebuild_worn_segments
from tests.support.bank import build, embed, index_job
from tests.support.made_up import embedder

FIRST = {f"mine-{i}": f"a {animal} in a {place}" for i, (animal, place) in enumerate(
    (animal, place)
    for animal in ("dog", "cat", "horse", "crow", "whale")
    for place in ("forest", "kitchen", "city street", "field of snow")
)}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


def run(store: Store, job: ShardJob) -> Finished:
    return run_job(job, BankWriter(store))


def found(store: Store, snapshot: Snapshot, text: str, k: int = 1) -> list[str]:
    pinned = PinnedSnapshot(store, snapshot)
    return [hit.id for hit in pinned.nearest(embedder().embed([text]), k)[0]]


def test_a_segment_is_a_faiss_file_with_its_entries_for_any_reader(store: Store) -> None:
    receipt = run(store, index_job(store, [embed(store, FIRST)], None)).receipt
    segment, replaces = segment_of(receipt)
    assert (segment.kind, segment.size, segment.recall, replaces) == ("Flat", 20, 1.0, frozenset())
    path = store.local_path(segment.index.path)
    index = faiss.read_index(str(path))
    assert (index.ntotal, index.d, index.metric_type) == (20, 384, faiss.METRIC_INNER_PRODUCT)
    entries = pq.read_table(store.local_path(segment.entries.path))
    assert entries.column("num").to_pylist() == sorted(clip_number(id) for id in FIRST)
    _, positions = index.search(embedder().embed(["a horse in a kitchen"]), 1)
    assert entries.column("caption")[positions[0, 0]].as_py() == "a horse in a kitchen"
    info = json.loads(store.read(segment.info.path))
    assert (info["kind"], info["recall"], info["dim"]) == ("Flat", {"1": 1.0, "5": 1.0}, 384)
    assert len({Path(file.path).stem for file in segment.files}) == 1


def test_the_same_captions_from_other_shards_give_the_same_files_and_a_finished_job_is_found(store: Store) -> None:
    ids = sorted(FIRST)
    whole = index_job(store, [embed(store, FIRST)], None)
    first = run(store, whole)
    again = run(store, whole)
    assert first.made and not again.made and again.receipt == first.receipt
    pieces = [embed(store, {id: FIRST[id] for id in part}) for part in (ids[::2], ids[1::2])]
    split = run(store, index_job(store, pieces[::-1], None))
    assert split.made and segment_of(split.receipt)[0] == segment_of(first.receipt)[0]
    assert index_job(store, pieces, None).inputs == index_job(store, pieces[::-1], None).inputs
    assert (
        index_job(store, pieces, None, options=IndexOptions(min_recall=0.9)).inputs
        != index_job(store, pieces, None).inputs
    )


def test_a_small_update_is_a_small_segment_and_replaced_captions_are_not_found(store: Store) -> None:
    build(store, FIRST)
    snapshot = build(store, {"mine-0": "a tram in the rain", "mine-new": "a boat at sea"}, removed=["mine-1"])
    assert [(segment.size, segment.live) for segment in snapshot.index] == [(20, 18), (2, 2)]
    assert found(store, snapshot, "a tram in the rain") == ["mine-0"]
    everything = found(store, snapshot, "a dog in a forest", 50)
    assert sorted(everything) == sorted({*FIRST, "mine-new"} - {"mine-1"})


def test_segments_of_equal_size_are_merged_from_the_captions_files(store: Store) -> None:
    build(store, FIRST)
    more = {
        f"yours-{i}": f"a {thing} on a table" for i, thing in enumerate(["apple", "cup", "book", "lamp", "knife"] * 3)
    }
    merged = build(store, {**more, "mine-0": "a tram in the rain"}, removed=["mine-1"])
    (segment,) = merged.index
    assert (segment.size, segment.live, segment.deleted) == (20 - 1 + 15, 34, None)
    expected = {**FIRST, **more, "mine-0": "a tram in the rain"}
    del expected["mine-1"]
    for id in ("mine-0", "mine-7", "yours-2"):
        assert expected[id] == expected[found(store, merged, expected[id])[0]]
    index = faiss.read_index(str(store.local_path(segment.index.path)))
    entries = pq.read_table(store.local_path(segment.entries.path))
    vectors = embedder().embed(entries.column("caption").to_pylist())
    np.testing.assert_array_equal(index.reconstruct_n(0, 34), vectors)


def test_a_worn_segment_is_rebuilt(store: Store) -> None:
    build(store, FIRST)
    worn = build(store, {}, removed=[f"mine-{i}" for i in range(5)], sets={"toy": []})
    assert [(s.size, s.live) for s in worn.index] == [(20, 15)]
    renewed = build(store, {"mine-new": "a boat at sea"})
    assert [(s.size, s.live) for s in renewed.index] == [(16, 16)]


def test_captions_of_another_model_do_not_mix(store: Store) -> None:
    build(store, FIRST)
    parent = read_snapshot(store)
    some = {"mine-0": FIRST["mine-0"]}
    with pytest.raises(JobFailed, match="19 captions that stay in the bank were embedded with another model"):
        run(store, index_job(store, [embed(store, some, "captions-2")], parent, fingerprint="captions-2"))
    gone = np.array(sorted(clip_number(id) for id in FIRST if id != "mine-0"))
    job = index_job(store, [embed(store, some, "captions-2")], parent, fingerprint="captions-2", gone=gone)
    segment, replaces = segment_of(run(store, job).receipt)
    assert segment.size == 1 and replaces == {parent.index[0].index.path}


def test_a_recall_that_cannot_be_reached_publishes_nothing(store: Store) -> None:
    job = index_job(store, [embed(store, FIRST)], None, options=IndexOptions(min_recall=1.1))
    with pytest.raises(JobFailed, match=r"recall@1 1\.000, recall@5 1\.000 .*min_recall is 1\.1"):
        run(store, job)
    assert store.list("index") == []


def test_damaged_captions_are_not_indexed(store: Store) -> None:
    receipt = embed(store, FIRST)
    path = receipt.files[0].path
    content = bytearray(store.read(path))
    content[len(content) // 2] ^= 1
    store.put(path, bytes(content))
    with pytest.raises(BankDamaged, match=path):
        run(store, index_job(store, [receipt], None))
    store.put(path, bytes(0))
    with pytest.raises(BankDamaged, match=path):
        run(store, index_job(store, [receipt], None))


def test_the_manifest_names_the_captions_that_a_merge_reads(store: Store) -> None:
    snapshot = build(store, FIRST)
    entries = part_entries(read_parts(store, snapshot.parts["captions"]))
    tables = [pq.read_table(pa.BufferReader(store.read(entry.path)), columns=["id"]) for entry in entries]
    assert sorted(pa.concat_tables(tables).column("id").to_pylist()) == sorted(FIRST)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (IndexOptions(), "IVF18,Flat"),
        (IndexOptions(final=True), "HNSW32,Flat"),
        (IndexOptions(min_recall=0.5, memory=1000), "IVF18,SQ8"),
    ],
)
def test_the_options_decide_the_type_and_the_index_answers(
    store: Store, monkeypatch: pytest.MonkeyPatch, options: IndexOptions, kind: str
) -> None:
    monkeypatch.setattr("noisebank.search.index.FLAT_LIMIT", 10)
    job = index_job(store, [embed(store, FIRST)], None, options=options)
    segment, _ = segment_of(run(store, job).receipt)
    assert segment.kind == kind and segment.recall >= options.min_recall
    entries = pq.read_table(store.local_path(segment.entries.path))
    index = faiss.read_index(str(store.local_path(segment.index.path)))
    _, positions = index.search(embedder().embed(["a whale in a forest"]), 1)
    assert entries.column("caption")[positions[0, 0]].as_py() == "a whale in a forest"


@pytest.mark.parametrize(
    ("flat_limit", "full_limit", "options", "kind"),
    [
        (20, 20, IndexOptions(), "Flat"),
        (10, 20, IndexOptions(), r"IVF\d+,Flat"),
        (10, 20, IndexOptions(final=True), "HNSW32,Flat"),
        (10, 10, IndexOptions(min_recall=0.5), r"IVF\d+,SQ8"),
    ],
)
def test_a_purge_rebuilds_a_worn_segment_in_its_type_without_a_byte_of_what_left(
    store: Store, monkeypatch: pytest.MonkeyPatch, flat_limit: int, full_limit: int, options: IndexOptions, kind: str
) -> None:
    monkeypatch.setattr("noisebank.search.index.FLAT_LIMIT", flat_limit)
    monkeypatch.setattr("noisebank.search.index.FULL_LIMIT", full_limit)
    embedded, writer = embed(store, FIRST), BankWriter(store)
    segment, _ = segment_of(run(store, index_job(store, [embedded], None, options=options)).receipt)
    left = ["mine-3", "mine-7", "mine-19"]
    worn = mark_deleted(writer, segment, np.array(sorted(map(clip_number, left))))
    renewed, replaced, _ = rebuild_worn_segments(writer, dataclasses.replace(build(store, FIRST), index=(worn,)))
    assert renewed is not None and replaced == {segment.index.path}
    assert re.fullmatch(kind, renewed.kind) and (renewed.size, renewed.live) == (17, 17)
    assert renewed.recall >= segment.recall

    before, after = (faiss.read_index(str(store.local_path(one.index.path))) for one in (segment, renewed))
    codes = faiss.downcast_index(before.storage) if renewed.kind.startswith("HNSW") else before
    vectors = embedder().embed([FIRST[id] for id in left])
    traces = [code[-codes.code_size :].tobytes() for code in codes.sa_encode(vectors)]
    data = store.read(segment.index.path)
    assert all(trace in data for trace in traces)
    data = store.read(renewed.index.path)
    assert not any(trace in data for trace in [*traces, *(vector.tobytes() for vector in vectors)])
    entries = pq.read_table(store.local_path(renewed.entries.path))
    assert entries.column("id").to_pylist() == sorted(FIRST.keys() - set(left), key=clip_number)

    _, positions = after.search(embedder().embed(entries.column("caption").to_pylist()), 1)
    assert (positions[:, 0] == np.arange(17)).mean() >= renewed.recall
