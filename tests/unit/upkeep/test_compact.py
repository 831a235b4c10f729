"""Compaction: fewer, fuller shards with the same rows and the same noise; purging leaves no trace in the files."""

import dataclasses
import itertools
import json
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisebank.commits.delta import Delta
from noisebank.describe import describe, snapshot_files
from noisebank.errors import BankDamaged, JobFailed, SnapshotExpired
from noisebank.format.index_deletions import read_deleted, read_nums
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.noise_file import NoiseShard, RecordLayout
from noisebank.format.parts import read_parts
from noisebank.format.receipts import find_receipt
from noisebank.format.shards import read_shard
from noisebank.format.tables import OverlayTable
from noisebank.ids import clip_number, xxh64
from noisebank.search.segments import open_segment, search_segments
from noisebank.storage import BankWriter, Store, open_store
from noisebank.upkeep.compact import compact
from noisebank.upkeep.repack import FileRows, repack_records
from noisebank.upkeep.verify import verify
from tests.support.bank import SET, address_of, decoded_files, failure, make, publish, remove
from tests.support.made_up import SHAPE, mp4_of, record_of, vector_of


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank" if request.param == "local" else f"memory://{tmp_path.name}")


def contents(store: Store, snapshot: Snapshot, scratch: Path) -> dict[int, tuple[str, bytes, str, list[float]]]:
    """What a snapshot holds of each row, read through its tables: id, mp4, embedded caption, noise."""
    parts = {kind: read_parts(store, entries).to_pylist() for kind, entries in snapshot.parts.items()}
    files = {kind: {row["key"]: row for row in rows} for kind, rows in parts.items()}
    records = OverlayTable(store, snapshot.records[SET])
    found = {}
    for row in OverlayTable(store, snapshot.rows).read().to_pylist():
        if row["status"] == 5:
            continue
        tar = scratch / "x.tar"
        tar.write_bytes(store.read(files["clips"][row["clip_file"]]["path"]))
        sample = next(itertools.islice(read_shard(tar), row["clip_row"], None))
        with store.open(files["captions"][row["caption_file"]]["path"]) as file:
            caption = pq.read_table(file).to_pylist()[row["caption_row"]]
        with store.open(files["sidecars"][row["clip_file"]]["path"]) as file:
            side = [good for good in pq.read_table(file).to_pylist() if good["clip_row"] >= 0][row["clip_row"]]
        assert row["num"] == clip_number(sample.id) == caption["num"] == side["num"]
        assert side["clip_row"] == row["clip_row"]
        _, file, at, checksum, _ = records.find(row["num"])
        noise = files[f"noise/{SET}"][file]
        shard = NoiseShard(store, noise["path"], noise["rows"], SHAPE, "float16", RecordLayout.from_info(noise))
        value = shard.record(at, checksum).flatten().tolist()
        found[row["num"]] = (sample.id, sample.mp4, caption["caption"], value)
    return found


def count(store: Store, snapshot: Snapshot, kind: str) -> int:
    return len(snapshot_files(store, snapshot, kind))


def test_many_small_shards_become_one(store: Store, tmp_path: Path) -> None:
    for i in range(5):
        publish(store, make(store, {f"a-{i}{j}": f"caption {i}{j}" for j in range(3)}).delta)
    before = read_snapshot(store)
    compacted = compact(store, maxcount=100)
    assert (compacted.number, compacted.operation, compacted.in_bank) == (6, "compact", 15)
    for kind in ("clips", "sidecars", "captions", "noise"):
        assert (count(store, before, kind), count(store, compacted, kind)) == (5, 1)
    assert contents(store, compacted, tmp_path) == contents(store, before, tmp_path)
    assert compacted.index == before.index
    report = verify(store)
    assert report.ok, report.damaged
    assert compact(store, maxcount=100) == compacted, "a second compaction has nothing to do"


def test_full_shards_stay_and_new_ones_are_not_overfull(store: Store, tmp_path: Path) -> None:
    publish(store, make(store, {f"a-{i}": f"{i}" for i in range(10)}).delta)
    full = {entry.path for entry in snapshot_files(store, read_snapshot(store), "clips")}
    for i in range(5):
        publish(store, make(store, {f"b-{i}{j}": f"{i}{j}" for j in range(4)}).delta)
    before = read_snapshot(store)
    compacted = compact(store, maxcount=10)
    tars = snapshot_files(store, compacted, "clips")
    assert full < {entry.path for entry in tars}
    assert sorted(entry.rows for entry in tars) == [4, 8, 8, 10]
    assert contents(store, compacted, tmp_path) == contents(store, before, tmp_path)
    assert verify(store).ok


def test_tars_get_the_captions_that_hold_now(store: Store, tmp_path: Path) -> None:
    publish(store, make(store, {f"a-{i}": f"old {i}" for i in range(6)}).delta)
    before = publish(store, recaption(store, "a-2", "new caption"))
    compacted = compact(store, maxcount=4)
    assert contents(store, compacted, tmp_path) == contents(store, before, tmp_path)
    (entry,) = snapshot_files(store, compacted, "clips")
    (tmp_path / "x.tar").write_bytes(store.read(entry.path))
    samples = {sample.id: sample for sample in read_shard(tmp_path / "x.tar")}
    assert (samples["a-2"].caption, samples["a-2"].info["caption"]) == ("new caption", "new caption")
    assert (samples["a-1"].caption, samples["a-1"].info["caption"]) == ("old 1", "old 1")
    with store.open(snapshot_files(store, compacted, "sidecars")[0].path) as file:
        side = {row["id"]: row for row in pq.read_table(file).to_pylist()}
    assert side["a-2"]["caption_hash"] == xxh64("new caption")
    assert snapshot_files(store, compacted, "noise") == snapshot_files(store, before, "noise"), "noise stays"
    assert compact(store, maxcount=4) == compacted


def test_tars_that_are_merged_get_them_too(store: Store, tmp_path: Path) -> None:
    for name in "abc":
        publish(store, make(store, {f"{name}-{i}": f"old {name}{i}" for i in range(3)}).delta)
    publish(store, recaption(store, "a-2", "new caption"))
    compacted = compact(store, maxcount=100)
    (entry,) = snapshot_files(store, compacted, "clips")
    (tmp_path / "x.tar").write_bytes(store.read(entry.path))
    texts = {sample.id: sample.caption for sample in read_shard(tmp_path / "x.tar")}
    assert (len(texts), texts["a-2"], texts["b-2"]) == (9, "new caption", "old b2")
    assert compact(store, maxcount=100) == compacted


def test_half_dead_shards_are_rewritten(store: Store, tmp_path: Path) -> None:
    publish(store, make(store, {f"a-{i}": f"{i}" for i in range(10)}).delta)
    publish(store, remove([f"a-{i}" for i in range(4)]))
    assert compact(store, maxcount=10).number == 2, "six of ten are alive"
    publish(store, remove(["a-4", "a-5"]))
    before = read_snapshot(store)
    compacted = compact(store, maxcount=10)
    assert [entry.rows for entry in snapshot_files(store, compacted, "clips")] == [4]
    assert contents(store, compacted, tmp_path) == contents(store, before, tmp_path)
    assert describe(store, compacted)["bytes"] < describe(store, before)["bytes"]


def recaption(store: Store, id: str, caption: str) -> Delta:
    """A new caption for a clip that stays as it is."""
    new = make(store, {id: caption})
    rows = OverlayTable(store, read_snapshot(store).rows).find(clip_number(id))
    table = new.delta.rows[0]
    for name, value in zip(table.column_names, rows, strict=True):
        if name in ("clip_file", "clip_row", "video"):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, table.schema.field(at), pa.array([value], table.schema.field(at).type))
    return Delta([table], {}, (), [new.receipts["captions"], new.receipts["index"]], new.delta.index)


def test_purging_leaves_no_byte_of_a_removed_row(store: Store, tmp_path: Path) -> None:
    captions = {f"a-{i}": f"words of clip number {i}" for i in range(10)} | {"a-taken-down": "taken down"}
    publish(store, make(store, captions, failed=["a-lost"]).delta)
    publish(store, recaption(store, "a-5", "other words"))
    gone = remove(["a-taken-down", "a-lost"])
    publish(store, dataclasses.replace(gone, failures=[failure("a-lost", code="")]))
    before = contents(store, read_snapshot(store), tmp_path)
    traces = {
        "id": b"a-taken-down",
        "id of a failed row": b"a-lost",
        "caption": captions["a-taken-down"].encode(),
        "replaced caption": captions["a-5"].encode(),
        "video": mp4_of(address_of("a-taken-down", captions["a-taken-down"])),
        "vector": vector_of(captions["a-taken-down"]).tobytes(),
        "replaced vector": vector_of(captions["a-5"]).tobytes(),
        "noise": record_of("a-taken-down").half().numpy().tobytes(),
    }
    assert all(any(trace in data for data in decoded_files(store).values()) for trace in traces.values())
    purged = compact(store, purge=True)
    assert contents(store, purged, tmp_path) == before
    assert read_snapshot(store, 4).operation == "compact", "its own snapshot is clean, and stays"
    for number in (1, 2, 3):
        with pytest.raises(SnapshotExpired):
            read_snapshot(store, number)
    assert verify(store).ok
    for key, data in decoded_files(store).items():
        assert [what for what, trace in traces.items() if trace in data] == [], key
    live = [read_nums(store, segment)[~read_deleted(store, segment)] for segment in purged.index]
    assert sorted(np.concatenate(live).tolist()) == sorted(before)
    assert verify(store, 4).ok
    assert compact(store, purge=True) == purged, "nothing is left to do"


def test_a_purge_takes_what_a_wrong_clock_has_dated_in_the_future(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    publish(store, make(store, {"a-1": "one"}).delta)
    receipts = make(store, {"a-2": "taken down"}).receipts.values()
    unpublished = [path for receipt in receipts for path in (receipt.path, *(entry.path for entry in receipt.files))]
    for leftovers in (unpublished, [".half-a-clip.tmp"]):
        for name in leftovers:
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (time.time() + 3600,) * 2)
        compact(store, purge=True)
        assert not [name for name in leftovers if (tmp_path / name).exists()]


def test_purging_changes_no_answer_of_a_search(store: Store, tmp_path: Path) -> None:
    captions = {f"a-{i}": f"words of clip number {i}" for i in range(40)}
    publish(store, make(store, captions).delta)
    publish(store, recaption(store, "a-5", "other words"))
    publish(store, remove(["a-3", "a-17"]))
    queries = np.stack([vector_of(text) for text in ["other words", *captions.values()]])

    def answers(name: str) -> list[list[tuple[float, str, str]]]:
        (tmp_path / name).mkdir()
        segments = [open_segment(store, segment, tmp_path / name) for segment in read_snapshot(store).index]
        found = []
        for hits in zip(*(array.tolist() for array in search_segments(segments, queries, 50)), strict=True):
            entries = [(score, segments[i].entries.at(at)) for score, i, at in zip(*hits, strict=True) if i >= 0]
            assert len(entries) == 38
            found.append([(score, entry.id, entry.caption) for score, entry in entries])
        return found

    before = answers("before")
    compact(store, purge=True)
    assert answers("after") == before


def test_a_damaged_file_is_not_copied(store: Store) -> None:
    for i in range(2):
        publish(store, make(store, {f"a-{i}": f"{i}"}).delta)
    path = snapshot_files(store, read_snapshot(store), "noise")[0].path
    data = bytearray(store.read(path))
    data[len(data) // 2] ^= 1
    store.put(path, bytes(data))
    with pytest.raises(BankDamaged, match=path):
        compact(store)
    assert read_snapshot(store).number == 2


@pytest.mark.parametrize("kind", ["clips", "sidecars", "captions", f"noise/{SET}"])
def test_a_file_that_no_manifest_part_names(store: Store, kind: str) -> None:
    for i in range(2):
        publish(store, make(store, {f"a-{i}": f"{i}"}).delta)
    snapshot = read_snapshot(store)
    parts = {name: entries for name, entries in snapshot.parts.items() if name != kind}
    store.put(snapshot.path, dataclasses.replace(snapshot, parts=parts).to_bytes())
    with pytest.raises(BankDamaged, match=rf"{kind} file [0-9a-f]{{16}}: .* no manifest part names it; run verify"):
        compact(store)


def test_the_new_shards_are_found_as_if_a_stage_had_made_them(store: Store) -> None:
    for i in range(2):
        publish(store, make(store, {f"a-{i}": f"{i}"}).delta)
    compacted = compact(store)
    for kind, entries in compacted.parts.items():
        for row in read_parts(store, entries).to_pylist():
            receipt = find_receipt(store, row["stage"], row["inputs"])
            assert receipt is not None
            assert row["path"] in [entry.path for entry in receipt.files], kind
    (noise,) = read_parts(store, compacted.parts[f"noise/{SET}"]).to_pylist()
    receipt = find_receipt(store, f"noise/{SET}", noise["inputs"])
    assert receipt.info["tar"] == snapshot_files(store, compacted, "clips")[0].path


def test_webdataset_members_stay_in_order(store: Store, tmp_path: Path) -> None:
    for i in range(3):
        publish(store, make(store, {f"a-{i}": f"{i}"}).delta)
    (entry,) = snapshot_files(store, compact(store), "clips")
    (tmp_path / "x.tar").write_bytes(store.read(entry.path))
    with tarfile.open(tmp_path / "x.tar") as tar:
        names = tar.getnames()
        ids = sorted((f"a-{i}" for i in range(3)), key=clip_number)
        assert names == [f"{id}.{extension}" for id in ids for extension in ("json", "mp4", "txt")]
        assert json.load(tar.extractfile(names[0]))["id"] == ids[0]


def test_records_of_a_column_that_is_empty_in_one_file_are_copied_together(store: Store, tmp_path: Path) -> None:
    def piece(num: int, score: object) -> FileRows:
        row = {"num": num, "id": f"a-{num}", "sha256": "0" * 64, "score": score}
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x.parquet")
        entry = BankWriter(store).file(tmp_path / "x.parquet", "flow/near", ".parquet", 1)
        return FileRows(entry, np.array([0]), np.array([num]), "f")

    made = repack_records(BankWriter(store), "flow/near", [piece(2, 0.5), piece(1, None)], "clips/x.tar")
    (entry,) = made.receipt.files
    assert pq.read_table(pa.BufferReader(store.read(entry.path))).column("score").to_pylist() == [None, 0.5]
    with pytest.raises(JobFailed, match="flow/near: its files have columns of types that do not fit each other"):
        repack_records(BankWriter(store), "flow/near", [piece(2, 0.5), piece(1, "high")], "clips/x.tar")
