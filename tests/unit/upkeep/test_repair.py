"""Repair drops damaged shards, and nothing else, from a new snapshot."""

from pathlib import Path

import numpy as np
import pytest

from noisebank.describe import snapshot_files
from noisebank.errors import BankDamaged, ConfigError
from noisebank.format.index_deletions import read_deleted, read_nums
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.receipts import find_receipt
from noisebank.format.tables import OverlayTable
from noisebank.ids import clip_number
from noisebank.storage import Store, open_store
from noisebank.upkeep.repair import repair
from noisebank.upkeep.verify import verify
from tests.support.bank import SET, Made, make, publish, remove


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


@pytest.fixture
def shards(store: Store) -> list[Made]:
    made = [make(store, {f"a-{i}": f"{i}" for i in range(4)}), make(store, {f"b-{i}": f"{i}" for i in range(3)})]
    for shard in made:
        publish(store, shard.delta)
    publish(store, remove(["a-0"]))
    return made


def flip(store: Store, path: str) -> None:
    data = bytearray(store.read(path))
    data[len(data) // 2] ^= 1
    store.put(path, bytes(data))


def held(store: Store, snapshot: Snapshot, column: str) -> set[int]:
    rows = OverlayTable(store, snapshot.rows).read().to_pylist()
    return {row["num"] for row in rows if row[column] and row["status"] == 0}


def recorded(store: Store, snapshot: Snapshot) -> set[int]:
    return {r["num"] for r in OverlayTable(store, snapshot.records[SET]).read().to_pylist() if r["file"]}


def searchable(store: Store, snapshot: Snapshot) -> set[int]:
    live = [read_nums(store, segment)[~read_deleted(store, segment)] for segment in snapshot.index]
    return set(np.concatenate(live).tolist())


ALL = {clip_number(id) for id in ("a-1", "a-2", "a-3", "b-0", "b-1", "b-2")}
REST = {clip_number(id) for id in ("b-0", "b-1", "b-2")}


@pytest.mark.parametrize(
    ("stage", "file", "clips", "captions", "records"),
    [
        ("clips", 0, REST, ALL, ALL),
        ("clips", 1, REST, ALL, ALL),
        ("captions", 0, ALL, REST, ALL),
        ("noise", 0, ALL, ALL, REST),
        ("index", 0, ALL, REST, ALL),
        ("index", 1, ALL, REST, ALL),
    ],
)
def test_only_what_is_damaged_goes(
    store: Store, shards: list[Made], stage: str, file: int, clips: set[int], captions: set[int], records: set[int]
) -> None:
    receipt = shards[0].receipts[stage]
    flip(store, receipt.files[file].path)
    repaired = repair(store, verify(store))
    assert (repaired.number, repaired.operation, repaired.in_bank) == (4, "repair", 3)
    assert held(store, repaired, "clip_file") == clips
    assert held(store, repaired, "caption_file") == captions
    assert recorded(store, repaired) == records
    assert searchable(store, repaired) == captions
    assert receipt.files[file].path not in {entry.path for entry in snapshot_files(store, repaired)}
    assert find_receipt(store, receipt.stage, receipt.inputs) is None, "so that the shard is made again"
    report = verify(store)
    assert report.ok, report.damaged


@pytest.mark.parametrize("missing", [False, True])
def test_what_is_made_again_heals_the_bank(store: Store, shards: list[Made], missing: bool) -> None:
    path = shards[0].receipts["noise"].files[0].path
    if missing:
        store.delete(path)
    else:
        flip(store, path)
    repair(store, verify(store))
    again = make(store, {f"a-{i}": f"{i}" for i in range(4)})
    healed = publish(store, again.delta)
    assert healed.in_bank == 7
    for number in (1, 3, 5):
        assert verify(store, number).ok, "the same content under the same name: old snapshots are whole again too"


def test_a_damaged_bitmap_drops_its_segment(store: Store, shards: list[Made]) -> None:
    segment = next(segment for segment in read_snapshot(store).index if segment.deleted)
    flip(store, segment.deleted.path)
    repaired = repair(store, verify(store))
    assert len(repaired.index) == 1
    assert searchable(store, repaired) == held(store, repaired, "caption_file") == REST
    assert verify(store).ok


def test_nothing_damaged_commits_nothing(store: Store, shards: list[Made]) -> None:
    store.put("clips/holiday.tar", b"foreign")
    report = verify(store)
    assert not report.ok
    assert repair(store, report) == read_snapshot(store, 3)
    assert store.exists("clips/holiday.tar")


@pytest.mark.parametrize("kind", ["rows", "records", "parts"])
def test_what_sources_cannot_give_back_is_refused(store: Store, shards: list[Made], kind: str) -> None:
    path = snapshot_files(store, read_snapshot(store), kind)[0].path
    flip(store, path)
    with pytest.raises(BankDamaged, match=f"{path}.*restore it from a copy"):
        repair(store, verify(store))
    assert read_snapshot(store).number == 3


def test_only_the_newest_is_repaired(store: Store, shards: list[Made]) -> None:
    flip(store, shards[0].receipts["noise"].files[0].path)
    with pytest.raises(ConfigError, match="snapshot 2 is not the newest"):
        repair(store, verify(store, 2))
    assert read_snapshot(store).number == 3


def test_a_damaged_snapshot_is_refused(store: Store, shards: list[Made]) -> None:
    flip(store, "snapshots/00000003.json")
    with pytest.raises(BankDamaged, match="restore it from a copy"):
        repair(store, verify(store))
