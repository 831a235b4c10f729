"""Dropping a noise set: a snapshot without it. Nothing else of the bank changes, and its files go with a vacuum."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisebank.describe import describe, snapshot_files
from noisebank.errors import BankNotFound, SnapshotConflict, UnknownNoiseSet
from noisebank.format.manifest import Snapshot, latest_snapshot, read_snapshot
from noisebank.format.tables import OverlayTable
from noisebank.storage import Store, open_store
from noisebank.upkeep import drop as drop_module
from noisebank.upkeep.drop import drop_set
from noisebank.upkeep.vacuum import vacuum
from noisebank.upkeep.verify import verify
from tests.support.bank import FINGERPRINTS, Bank, webvid_row, write_csv

OTHER = "noise/other"
BOTH = FINGERPRINTS | {OTHER: "x1"}


def ids(*videos: int) -> list[str]:
    return sorted(f"webvid-{video}-0-5000" for video in videos)


BROKEN = {OTHER: {ids(1)[0]: ("nan", False)}, "noise/toy": {ids(2)[0]: ("nan", False)}}


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    """A bank of six clips in two sets, in each of which one of them has no record."""
    bank = Bank(tmp_path)
    bank.fingerprints = BOTH
    bank.build(listed(bank, 6), BROKEN)
    return bank


def listed(bank: Bank, count: int) -> Path:
    return write_csv(bank.folder / "list.csv", [webvid_row(video) for video in range(count)])


def recorded(store: Store, snapshot: Snapshot, name: str) -> list[dict[str, Any]]:
    return OverlayTable(store, snapshot.records[name]).read().to_pylist()


def test_the_records_of_the_set_are_gone_and_all_else_is_as_it_was(bank: Bank) -> None:
    before, records = read_snapshot(bank.store), {}
    for name in ("toy", "other"):
        records[name] = recorded(bank.store, before, name)
    dropped = drop_set(bank.store, "other")
    assert (dropped.number, dropped.parent, dropped.operation) == (2, 1, "drop")
    assert (before.noise_sets, dropped.noise_sets) == (("toy", "other"), ("toy",))
    assert (before.in_bank, dropped.in_bank) == (4, 5)
    assert (before.record_counts, dropped.record_counts) == ({"toy": 5, "other": 5}, {"toy": 5})
    assert dropped.stage_fingerprints == FINGERPRINTS
    assert dropped.models == {**before.models, "noise": {"toy": before.models["noise"]["toy"]}}
    assert dropped.parts == {kind: entries for kind, entries in before.parts.items() if kind != OTHER}
    assert (dropped.rows, dropped.index, dropped.sources) == (before.rows, before.index, before.sources)
    assert dropped.records == {"toy": before.records["toy"]}
    assert list(describe(bank.store, dropped)["noise"]) == ["toy"]
    for number in (1, 2):
        report = verify(bank.store, number)
        assert report.ok, report.damaged
    assert {name: recorded(bank.store, read_snapshot(bank.store, 1), name) for name in records} == records


def test_failures_of_the_set_are_gone_and_others_stay(bank: Bank) -> None:
    assert sorted(bank.failures()) == [(ids(1)[0], OTHER), (ids(2)[0], "noise/toy")]
    dropped = drop_set(bank.store, "other")
    assert sorted(bank.failures()) == [(ids(2)[0], "noise/toy")]
    assert dropped.failure_counts == {"nan": 1}


def test_a_vacuum_removes_its_files_and_no_others(bank: Bank) -> None:
    files = {entry.path for entry in snapshot_files(bank.store, read_snapshot(bank.store), OTHER)}
    dropped = drop_set(bank.store, "other")
    kept = {entry.path for entry in snapshot_files(bank.store, dropped)}
    done = vacuum(bank.store)
    assert done.expired == (1,)
    assert files and files <= {*done.files}
    assert bank.store.list(OTHER) == []
    assert all(bank.store.exists(path) for path in kept)
    report = verify(bank.store)
    assert report.ok, report.damaged


def test_a_build_without_the_set_has_nothing_to_do_and_one_with_it_inverts_again(bank: Bank) -> None:
    path = listed(bank, 6)
    drop_set(bank.store, "other")
    vacuum(bank.store)
    bank.fingerprints = FINGERPRINTS
    assert bank.plan(path).is_empty
    bank.fingerprints = BOTH
    plan = bank.plan(path)
    assert bank.todo_ids(plan) == {OTHER: ids(*range(6))}
    assert {row["attempt"] for row in bank.todo(plan, OTHER)} == {1}
    again = bank.commit(plan, bank.make(plan))
    assert again is not None and (again.in_bank, again.record_counts) == (5, {"toy": 5, "other": 6})
    assert verify(bank.store).ok and bank.plan(path).is_empty


def test_until_a_vacuum_a_build_with_the_set_takes_back_what_was_finished(bank: Bank) -> None:
    path, before = listed(bank, 6), read_snapshot(bank.store)
    drop_set(bank.store, "other")
    plan = bank.plan(path)
    assert bank.todo_ids(plan) == {}
    again = bank.commit(plan, [])
    assert again is not None
    assert recorded(bank.store, again, "other") == recorded(bank.store, before, "other")
    assert sorted(bank.failures()) == [(ids(1)[0], OTHER), (ids(2)[0], "noise/toy")]
    assert verify(bank.store).ok and bank.plan(path).is_empty


def test_a_build_with_the_set_that_was_overtaken_by_the_drop_stops(bank: Bank) -> None:
    plan = bank.plan(listed(bank, 7))
    receipts = bank.make(plan)
    dropped = drop_set(bank.store, "other")
    with pytest.raises(SnapshotConflict, match=rf"snapshot 2 was committed meanwhile .* for {OTHER}; run the build ag"):
        bank.commit(plan, receipts)
    assert latest_snapshot(bank.store) == dropped
    bank.fingerprints = FINGERPRINTS
    bank.build(listed(bank, 7))
    assert read_snapshot(bank.store).record_counts == {"toy": 6}


@pytest.fixture
def before_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Sets what somebody else does between the reading and the commit of a drop."""

    def set_deed(deed: Callable[[], object]) -> None:
        commit = drop_module.commit

        def overtaken(*arguments: Any) -> Snapshot:
            deed()
            return commit(*arguments)

        monkeypatch.setattr(drop_module, "commit", overtaken)

    return set_deed


def test_a_drop_takes_what_others_added_to_the_set_meanwhile(bank: Bank, before_commit: Any) -> None:
    before_commit(lambda: bank.build(listed(bank, 8), {OTHER: {ids(7)[0]: ("nan", False)}}))
    dropped = drop_set(bank.store, "other")
    assert (dropped.number, dropped.record_counts, dropped.in_bank) == (3, {"toy": 7}, 7)
    assert sorted(bank.failures()) == [(ids(2)[0], "noise/toy")]
    assert verify(bank.store).ok


def test_a_drop_stops_where_others_changed_the_same_records_meanwhile(bank: Bank, before_commit: Any) -> None:
    moved = [webvid_row(i, url="https://example.org/moved.mp4" if i == 3 else "") for i in range(6)]
    before_commit(lambda: bank.build(write_csv(bank.folder / "list.csv", moved)))
    with pytest.raises(SnapshotConflict, match=f"changes 1 of the same clips: {ids(3)[0]}; run"):
        drop_set(bank.store, "other")
    assert "other" in read_snapshot(bank.store).records


def test_the_last_set_can_go_too(bank: Bank) -> None:
    drop_set(bank.store, "other")
    dropped = drop_set(bank.store, "toy")
    assert (dropped.noise_sets, dropped.records, dropped.in_bank) == ((), {}, 6)
    assert bank.failures() == {} and verify(bank.store).ok


def test_a_set_that_there_is_not_is_named_with_those_that_there_are(bank: Bank) -> None:
    with pytest.raises(UnknownNoiseSet, match="no noise set 'huge' in snapshot 1; it has other, toy"):
        drop_set(bank.store, "huge")
    assert read_snapshot(bank.store).number == 1
    with pytest.raises(BankNotFound):
        drop_set(open_store(bank.folder / "elsewhere"), "toy")
