"""Several files of records a tar: cut by its rows alone, each a shard of its own, through everything that a bank goes
through. A file takes three records here."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisebank import NoiseBank
from noisebank.describe import snapshot_files
from noisebank.format.manifest import read_snapshot
from noisebank.format.receipts import list_receipts
from noisebank.planning import cut
from noisebank.planning.cut import records_a_file
from noisebank.planning.plan import read_task
from noisebank.storage import Store
from noisebank.upkeep.compact import compact
from noisebank.upkeep.drop import drop_set
from noisebank.upkeep.repair import repair
from noisebank.upkeep.vacuum import vacuum
from noisebank.upkeep.verify import verify
from tests.support.bank import SET, Bank, webvid_row, write_csv
from tests.support.made_up import SHAPE, record_of

STAGE = f"noise/{SET}"
SIZE = 3


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bank:
    monkeypatch.setattr(cut, "MAX_RECORDS_BYTES", SIZE * 2 * math.prod(SHAPE) + 1)
    return Bank(tmp_path)


def listed(bank: Bank, videos: range) -> Path:
    return write_csv(bank.folder / "list.csv", [webvid_row(video) for video in videos])


def sizes(store: Store) -> list[int]:
    return sorted(entry.rows for entry in snapshot_files(store, read_snapshot(store), "noise"))


def check_records(store: Store, count: int) -> None:
    """Every record is the one of its clip, wherever it stands."""
    report = verify(store)
    assert report.ok, report.damaged
    ids = {
        id
        for entry in snapshot_files(store, read_snapshot(store), "noise")
        for id in pa.ipc.open_file(store.read(entry.path)).read_all().column("id").to_pylist()
    }
    opened = NoiseBank.open(store.url)
    stored = {id: opened.inverted(id).noise for id in ids}
    assert len(stored) == count
    assert all((noise == record_of(id).half().float()).all() for id, noise in stored.items())


@given(st.lists(st.integers(1, 200), min_size=4, max_size=4))
def test_a_file_has_at_most_64_mib_of_two_bytes_a_value(shape: list[int]) -> None:
    count, bytes_a_record = records_a_file({"shape": shape}), 2 * math.prod(shape)
    assert count == 1 or count * bytes_a_record <= 1 << 26
    assert (count + 1) * bytes_a_record > 1 << 26
    assert count * math.prod(shape) < (1 << 31) - 1, "Arrow's largest fixed-shape column"


def test_a_tar_has_a_file_for_every_three_of_its_clips(bank: Bank) -> None:
    plan = bank.plan(listed(bank, range(20)), clips={"maxcount": 8})
    assert [task.rows for task in plan.tasks["clips"]] == [7, 7, 6]
    assert plan.todo()[STAGE] == {"rows": 20, "shards": 8}
    bank.commit(plan, bank.make(plan))
    assert sizes(bank.store) == [1, 1, 3, 3, 3, 3, 3, 3]
    assert len(list_receipts(bank.store, STAGE)) == 8
    check_records(bank.store, 20)


def test_a_small_pool_has_shards_for_many_workers(bank: Bank) -> None:
    path = listed(bank, range(1000))
    plan = bank.plan(path)
    assert max(task.rows for task in plan.tasks["clips"]) == 16
    assert plan.todo()["clips"]["shards"] == 63 and plan.todo()[STAGE]["shards"] >= 32
    assert [task.rows for task in bank.plan(path, clips={"maxcount": 500}).tasks["clips"]] == [500, 500]


def test_clips_that_failed_do_not_count(bank: Bank) -> None:
    path = listed(bank, range(7))
    plan = bank.plan(path, clips={"maxcount": 8})
    gone = {f"webvid-{video}-0-5000": ("http_404", False) for video in range(4)}
    bank.commit(plan, bank.make(plan, {"clips": gone}))
    assert sizes(bank.store) == [3]


def test_clips_that_are_there_are_cut_as_new_ones_are(bank: Bank) -> None:
    path = listed(bank, range(20))
    bank.build(path, clips={"maxcount": 8})
    before = _groups(bank)
    bank.fingerprints = {**bank.fingerprints, STAGE: "n2"}
    for bits in (0, 3):
        plan = bank.plan(path, bits=bits, clips={"maxcount": 8})
        tasks = [read_task(bank.store, task).column("num").to_pylist() for task in plan.tasks[STAGE]]
        assert sorted(tasks) == before
        assert plan.todo()[STAGE] == {"rows": 20, "shards": 8}
    bank.commit(plan, bank.make(plan))
    assert _groups(bank) == before
    check_records(bank.store, 20)


def _groups(bank: Bank) -> list[list[int]]:
    """The numbers in each noise file of the newest snapshot."""
    entries = snapshot_files(bank.store, read_snapshot(bank.store), "noise")
    tables = [pa.ipc.open_file(bank.store.read(entry.path)).read_all() for entry in entries]
    return sorted(table.column("num").to_pylist() for table in tables)


def test_what_a_killed_build_inverted_is_kept_file_by_file(bank: Bank) -> None:
    plan = bank.plan(listed(bank, range(14)), clips={"maxcount": 7})
    bank.make(plan)
    receipts = [f"{STAGE}/{inputs}.json" for inputs in list_receipts(bank.store, STAGE)]
    assert len(receipts) == 6
    bank.store.delete(receipts[0])  # (killed before it was written)
    assert len(bank.make(plan)) == 2 + 2 + 6 and len(list_receipts(bank.store, STAGE)) == 6
    bank.store.delete(receipts[0])
    again = bank.plan(listed(bank, range(15)), clips={"maxcount": 7})  # (a list that grew: another plan)
    assert again.hash != plan.hash
    assert len(bank.todo(again, "clips")) == 1
    assert len(bank.todo(again, STAGE)) in (1, SIZE), "what was lost"
    bank.commit(again, bank.make(again))
    check_records(bank.store, 15)


def test_compaction_cuts_as_a_build_does_and_a_second_has_nothing_to_do(bank: Bank) -> None:
    for stop in range(2, 12, 2):
        bank.build(listed(bank, range(stop)))
    assert sizes(bank.store) == [2] * 5
    compacted = compact(bank.store, maxcount=100)
    assert sizes(bank.store) == [2, 3, 3, 3]  # (half of the first has moved: no reason to write the other half anew)
    check_records(bank.store, 10)
    assert compact(bank.store, maxcount=100) == compacted
    assert bank.plan(listed(bank, range(10))).is_empty


def test_files_of_an_older_version_are_read_and_cut_by_compaction(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    path = listed(bank, range(10))
    with monkeypatch.context() as older:
        older.setattr(cut, "MAX_RECORDS_BYTES", 1 << 26)
        bank.build(path)
    assert sizes(bank.store) == [10] and bank.plan(path).is_empty
    compact(bank.store)
    assert sizes(bank.store) == [1, 3, 3, 3]
    check_records(bank.store, 10)


def test_a_purge_leaves_the_rest_of_a_tar_where_it_is(bank: Bank) -> None:
    bank.build(listed(bank, range(10)))
    bank.build(listed(bank, range(9)), max_removed=1)
    compact(bank.store, purge=True)
    check_records(bank.store, 9)
    assert sizes(bank.store) == [3, 3, 3]


def test_a_damaged_file_costs_its_three_records(bank: Bank) -> None:
    path = listed(bank, range(10))
    bank.build(path)
    entry = next(entry for entry in snapshot_files(bank.store, read_snapshot(bank.store), "noise") if entry.rows == 3)
    whole = bank.store.read(entry.path)
    bank.store.delete(entry.path)
    bank.store.put(entry.path, whole[:-1] + bytes([whole[-1] ^ 1]))
    assert [damage.path for damage in verify(bank.store).damaged] == [entry.path]
    repair(bank.store, verify(bank.store))
    plan = bank.plan(path)
    assert {stage: len(bank.todo(plan, stage)) for stage in plan.tasks} == {"clips": 0, "captions": 0, STAGE: 3}
    bank.commit(plan, bank.make(plan))
    check_records(bank.store, 10)
    vacuum(bank.store, keep=1, unpublished_seconds=0)
    check_records(bank.store, 10)


def test_a_dropped_set_takes_all_its_files_along(bank: Bank) -> None:
    bank.build(listed(bank, range(10)))
    drop_set(bank.store, SET)
    vacuum(bank.store, keep=1, unpublished_seconds=0)
    assert [key for key in bank.store.list(STAGE) if key.endswith(".arrow")] == []
    assert verify(bank.store).ok
