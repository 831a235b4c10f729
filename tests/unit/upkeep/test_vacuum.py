"""Vacuum removes what nothing refers to, never what a kept snapshot, a running build or a later one needs."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from noisebank.describe import snapshot_files
from noisebank.errors import BankDamaged, BankNotFound, ConfigError, SnapshotConflict, SnapshotExpired
from noisebank.format.manifest import Snapshot, latest_snapshot, read_snapshot, snapshot_numbers
from noisebank.format.receipts import find_receipt, list_receipts
from noisebank.planning.cut import Task
from noisebank.planning.plan import Plan, refuse
from noisebank.storage import Store, StoredFile, open_store
from noisebank.upkeep import vacuum as vacuum_module
from noisebank.upkeep.vacuum import finish_vacuum, vacuum
from noisebank.upkeep.verify import verify
from tests.support.bank import make, publish, remove


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank" if request.param == "local" else f"memory://{tmp_path.name}")


def files_on_disk(store: Store) -> set[str]:
    return {key for key in store.list("") if not key.startswith("snapshots/")}


def test_what_only_old_snapshots_refer_to_goes(store: Store) -> None:
    first = publish(store, make(store, {"a-1": "one", "a-2": "two"}).delta)
    second = publish(store, make(store, {"a-1": "eins", "a-2": "zwei"}).delta)
    only_first = {entry.path for entry in snapshot_files(store, first)} - {
        e.path for e in snapshot_files(store, second)
    }
    done = vacuum(store)
    assert done.expired == (1,)
    assert only_first <= set(done.files)
    assert not only_first & files_on_disk(store)
    assert (done.snapshot.number, done.snapshot.operation, done.snapshot.vacuum) == (3, "vacuum", 3)
    assert (done.snapshot.in_bank, done.snapshot.sources, done.snapshot.rows) == (2, {"a": 2}, second.rows)
    with pytest.raises(SnapshotExpired):
        read_snapshot(store, 1)
    assert snapshot_numbers(store) == [1, 2, 3]
    for number in (2, 3):
        report = verify(store, number)
        assert report.ok, report.damaged
    assert {e.path for e in snapshot_files(store, done.snapshot)} <= files_on_disk(store)


def test_what_was_removed_is_what_was_announced(store: Store) -> None:
    publish(store, make(store, {"a-1": "one"}).delta)
    publish(store, remove(["a-1"]))
    before = {key: store.size(key) for key in files_on_disk(store)}
    planned = vacuum(store, dry_run=True)
    assert files_on_disk(store) == set(before), "a dry run removes nothing"
    assert snapshot_numbers(store) == [1, 2]
    done = vacuum(store)
    assert (planned.files, planned.bytes, planned.expired) == (done.files, done.bytes, done.expired)
    assert set(before) - files_on_disk(store) == set(done.files)
    assert done.bytes == sum(before[path] for path in done.files) > 0


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_second_vacuum_has_nothing_to_do(store: Store, keep: int) -> None:
    for caption in ("one", "two", "three", "four"):
        publish(store, make(store, {"a-1": caption}).delta)
    first = vacuum(store, keep)
    assert (first.snapshot.number, first.expired) == (5, tuple(range(4 - keep, 0, -1)))
    for _ in range(3):
        again = vacuum(store, keep)
        assert (again.snapshot, again.expired, again.files, again.bytes) == (first.snapshot, (), (), 0)
    assert readable_numbers(store) == [*range(5 - keep, 5), 5]
    for number in readable_numbers(store):
        assert verify(store, number).ok
    with pytest.raises(ConfigError, match="at least 1"):
        vacuum(store, keep=0)


def readable_numbers(store: Store) -> list[int]:
    """Of the snapshots that have not expired."""
    found = []
    for number in snapshot_numbers(store):
        with contextlib.suppress(SnapshotExpired):
            found.append(read_snapshot(store, number).number)
    return found


def test_vacuums_with_nothing_built_in_between_take_no_content_away(store: Store) -> None:
    for caption in ("one", "two", "three"):
        publish(store, make(store, {"a-1": caption}).delta)
    for night in range(4):
        store.put(f"plans/{night}/plan.json", b"{}")  # (so that each of them finds something to remove and commits)
        done = vacuum(store, keep=3, unpublished_seconds=-1)
        assert (done.snapshot.number, done.expired) == (4 + night, ())
    assert readable_numbers(store) == [1, 2, 3, 4, 5, 6, 7]
    publish(store, make(store, {"a-1": "four"}).delta)
    assert vacuum(store, keep=2).expired == (2, 1)
    assert readable_numbers(store) == [3, 4, 5, 6, 7, 8, 9], "3 and the vacuums after it are one content, 8 another"
    assert vacuum(store).expired == (7, 6, 5, 4, 3)
    assert readable_numbers(store) == [8, 9, 10]


def test_a_vacuum_counts_where_its_parent_cannot_be_read_any_more(store: Store) -> None:
    for caption in ("one", "two", "three"):
        publish(store, make(store, {"a-1": caption}).delta)
    assert vacuum(store, keep=2).expired == (1,)
    store.put("snapshots/00000003.json", b"{")
    with pytest.raises(BankDamaged, match=r"snapshots/00000003\.json"):
        vacuum(store, keep=2)
    assert vacuum(store, keep=1).expired == (3, 2)
    assert verify(store, 4).ok and verify(store, 5).ok


def test_no_bank(store: Store) -> None:
    with pytest.raises(BankNotFound):
        vacuum(store)


def test_unpublished_shards_stay_until_they_are_old(store: Store) -> None:
    publish(store, make(store, {"a-1": "one"}).delta)
    running = make(store, {"a-2": "two"})
    orphan = make(store, {"a-3": "three"})
    store.delete(orphan.receipts["captions"].path)
    vacuum(store)
    for receipt in running.receipts.values():
        assert find_receipt(store, receipt.stage, receipt.inputs) == receipt
    landed = publish(store, running.delta)
    assert landed.in_bank == 2
    lost = orphan.receipts["captions"].files[0].path
    assert store.exists(lost), "young files that nothing names may be on their way to a receipt"
    done = vacuum(store, unpublished_seconds=0)
    assert {lost, orphan.receipts["clips"].path} <= set(done.files)
    assert list_receipts(store, "clips") == sorted(receipt["inputs"] for receipt in _published(store)), (
        "receipts of published shards stay"
    )
    assert verify(store).ok


def _published(store: Store) -> list[dict[str, str]]:
    from noisebank.format.parts import read_parts

    return read_parts(store, read_snapshot(store).parts["clips"]).to_pylist()


def test_old_unpublished_work_stays_while_its_build_goes_on(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    publish(store, make(store, {"a-1": "one"}).delta)
    early, late = make(store, {"a-2": "two"}), make(store, {"a-3": "three"})
    long_ago = time.time() - 30 * 24 * 3600
    for receipt in early.receipts.values():
        for path in [receipt.path, *(entry.path for entry in receipt.files)]:
            os.utime(tmp_path / path, (long_ago, long_ago))
    vacuum(store)
    assert find_receipt(store, "clips", early.receipts["clips"].inputs)
    for receipt in late.receipts.values():
        store.delete(receipt.path)
    done = vacuum(store)
    assert early.receipts["clips"].path in done.files
    assert early.receipts["clips"].files[0].path in done.files


def test_plans(store: Store) -> None:
    for name in ("done", "kept", "open", "spill-1"):
        store.put(f"plans/{name}/plan.json", b"{}")
    publish(store, make(store, {"a-1": "one"}).delta, plan="done")
    publish(store, make(store, {"a-2": "two"}).delta, plan="kept")
    vacuum(store)
    assert store.list("plans") == [f"plans/{name}/plan.json" for name in ("kept", "open", "spill-1")]
    vacuum(store, unpublished_seconds=0)
    assert store.list("plans") == ["plans/kept/plan.json"]
    if (folder := store.local_path("plans")) is not None:
        assert [path.name for path in folder.iterdir()] == ["kept"], "no empty folders"


def _plan(store: Store, hash: str, parent: int, *tasks: Task) -> None:
    nothing: dict[str, object] = {key: {} for key in ("config", "fingerprints", "models", "source_names", "counts")}
    nothing |= {"sources": {}, "changes": {}, **dict.fromkeys(("folders", "locations", "claimed"), ())}
    plan = Plan(hash=hash, created="2026", parent=parent, parent_uuid="", tasks={"clips": tasks}, **nothing)
    store.create(plan.path, plan.to_bytes())


def test_the_snapshot_that_a_running_build_updates_stays(store: Store) -> None:
    for caption in ("one", "two", "three"):
        publish(store, make(store, {"a-1": caption}).delta)
    task = Task("clips", (("plans/rows.arrow", 0, 1),))
    _plan(store, "running", 2, task)
    _plan(store, "given-up", 1, task)
    _plan(store, "empty", 1)
    refuse(store, "given-up", "too many failures")
    done = vacuum(store)
    assert (done.expired, done.held) == ((1,), (2,))
    assert verify(store, 2).ok
    again = vacuum(store)
    assert (again.expired, again.held) == ((), (2,)), "nothing more to do"
    assert vacuum(store, unpublished_seconds=0).expired == (2,)
    assert verify(store).ok


def test_an_old_snapshot_that_nobody_can_read_expires(store: Store) -> None:
    for caption in ("one", "two", "three"):
        publish(store, make(store, {"a-1": caption}).delta)
    store.put("snapshots/00000001.json", b"{")
    with pytest.raises(BankDamaged, match=r"snapshots/00000001\.json"):
        vacuum(store, keep=3)
    assert vacuum(store, keep=2).expired == (1,)
    with pytest.raises(SnapshotExpired):
        read_snapshot(store, 1)
    assert snapshot_numbers(store) == [1, 2, 3, 4]
    assert verify(store, 2).ok and verify(store).ok


def test_foreign_files_are_left_alone(store: Store) -> None:
    publish(store, make(store, {"a-1": "one"}).delta)
    store.put("clips/holiday.tar", b"mine")
    vacuum(store, unpublished_seconds=0)
    assert store.read("clips/holiday.tar") == b"mine"


def test_a_writer_stalled_across_a_vacuum_of_its_parent(store: Store) -> None:
    parent = publish(store, make(store, {"a-1": "one"}).delta)
    mine = make(store, {"a-2": "two"})
    vacuum(store)
    assert latest_snapshot(store) == parent, "there was nothing to remove"
    publish(store, make(store, {"b-1": "theirs"}).delta)
    publish(store, make(store, {"b-2": "theirs"}).delta)
    assert vacuum(store).expired == (2, 1)
    with pytest.raises(SnapshotConflict, match="run the build again"):
        publish(store, mine.delta, parent, newest=False)
    again = publish(store, mine.delta)
    assert again.in_bank == 4, "its finished shards were kept"
    assert verify(store).ok


def test_a_writer_rebases_over_another_and_a_vacuum_of_its_parent(store: Store) -> None:
    parent = publish(store, make(store, {"a-1": "one"}).delta)
    mine = make(store, {"a-2": "two"})
    publish(store, make(store, {"b-1": "theirs"}).delta)
    assert vacuum(store).expired == (1,)
    assert publish(store, mine.delta, parent, newest=False).in_bank == 3, "what it has to read is still there"
    assert verify(store).ok


def test_a_writer_rebases_over_a_vacuum_alone(store: Store) -> None:
    publish(store, make(store, {"a-1": "one"}).delta)
    parent = publish(store, make(store, {"a-1": "eins"}).delta)
    mine = make(store, {"a-2": "two"})
    assert vacuum(store).snapshot.number == 3
    landed = publish(store, mine.delta, parent, newest=False)
    assert (landed.number, landed.in_bank, landed.vacuum) == (4, 2, 3)
    assert all(entry.path.endswith("-v3.arrow") for entry in landed.rows[-1:]), "written after the vacuum, named by it"
    assert verify(store).ok


def _killed_before_deleting(store: Store, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    def killed(store: Store, snapshot: Snapshot, *_: object) -> None:
        if snapshot.operation == "vacuum":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vacuum_module, "finish_vacuum", killed)
        with pytest.raises(KeyboardInterrupt):
            vacuum(store)
    return read_snapshot(store)


def test_a_vacuum_between_adoption_and_commit(store: Store) -> None:
    shard = make(store, {"a-1": "one"})
    publish(store, shard.delta)
    parent = publish(store, make(store, {"a-1": "eins"}).delta)
    adopted = make(store, {"a-1": "one"})
    assert adopted.receipts == shard.receipts, "a caption that went back finds its old shard"
    vacuum(store)
    with pytest.raises(SnapshotConflict, match="vacuum removed 7 finished files"):
        publish(store, adopted.delta, parent, newest=False)
    again = make(store, {"a-1": "one"}, vacuum=3)
    landed = publish(store, again.delta)
    assert (landed.number, landed.in_bank) == (4, 1)
    assert verify(store).ok


def test_a_late_deletion_never_hits_what_was_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, make(store, {"a-1": "one"}).delta)
    publish(store, make(store, {"a-1": "eins"}).delta)
    stalled = _killed_before_deleting(store, monkeypatch)
    adopted = make(store, {"a-1": "one"}, vacuum=3)
    with pytest.raises(SnapshotConflict):
        publish(store, adopted.delta, stalled, newest=False)
    again = make(store, {"a-1": "one"}, vacuum=3)
    publish(store, again.delta)
    finish_vacuum(store, stalled)
    assert verify(store).ok
    assert read_snapshot(store).in_bank == 1
    with pytest.raises(SnapshotExpired):
        read_snapshot(store, 1)


def test_a_killed_vacuum_is_finished_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, make(store, {"a-1": "one"}).delta)
    publish(store, make(store, {"a-1": "eins"}).delta)
    only_first = vacuum(store, dry_run=True).files
    _killed_before_deleting(store, monkeypatch)
    assert all(store.exists(path) for path in only_first)
    vacuum(store)
    assert not [path for path in only_first if store.exists(path) and not path.endswith(".json")]
    with pytest.raises(SnapshotExpired):
        read_snapshot(store, 1)


def test_a_vacuum_that_is_overtaken_looks_again_and_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, make(store, {"a-1": "one"}).delta)
    publish(store, make(store, {"a-1": "two"}).delta)
    create, faster = type(store).create, ["three", "four"]

    def overtaken(self: Store, key: str, data: bytes) -> bool:
        if faster and b'"operation":"vacuum"' in data.replace(b'": "', b'":"'):
            publish(store, make(store, {"a-1": faster.pop(0)}).delta)
        return create(self, key, data)

    monkeypatch.setattr(type(store), "create", overtaken)
    with caplog.at_level(logging.INFO, vacuum_module.__name__):
        done = vacuum(store)
    assert (done.snapshot.number, done.expired) == (5, (3, 2, 1))
    lost = [record.message for record in caplog.records]
    assert lost == [f"snapshot {n} was taken by another writer; looking again what may go" for n in (3, 4)]
    assert verify(store).ok


def test_what_came_and_went_while_a_vacuum_was_overtaken_goes_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, make(store, {"a-1": "one"}).delta)
    publish(store, make(store, {"a-1": "two"}).delta)
    create, captions, published = type(store).create, ["three", "four", "five"], []

    def overtaken(self: Store, key: str, data: bytes) -> bool:
        if captions and b'"operation":"vacuum"' in data.replace(b'": "', b'":"'):
            published.append(publish(store, make(store, {"a-1": captions.pop(0)}).delta))
        return create(self, key, data)

    monkeypatch.setattr(type(store), "create", overtaken)
    done = vacuum(store)
    assert (done.snapshot.number, done.expired) == (6, (4, 3, 2, 1))
    kept = {entry.path for entry in snapshot_files(store, done.snapshot)} | {f.path for f in published[-1].own_files}
    gone = {entry.path for snapshot in published for entry in snapshot.own_files} - kept
    assert gone and gone <= set(done.files) and not gone & files_on_disk(store)
    assert list_receipts(store, "clips") == [row["inputs"] for row in _published(store)]
    assert verify(store, 5).ok and verify(store, 6).ok


def test_a_writer_without_pause_does_not_keep_a_vacuum_waiting(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The writer commits while the vacuum lists the bank, every time, and goes on until the vacuum has ended."""
    for caption in ("one", "two", "three"):
        publish(store, make(store, {"a-1": caption}).delta)
    stop, written, listings, scan = threading.Event(), [], 0, type(store).scan

    def write() -> None:
        while not stop.is_set():
            made = make(store, {f"b-{len(written)}": "b"}, vacuum=read_snapshot(store).vacuum)
            written.append(publish(store, made.delta).number)

    def scan_while_others_write(self: Store, prefix: str = "") -> Iterator[StoredFile]:
        nonlocal listings
        if prefix == "" and threading.current_thread() is not writer:
            listings += 1
            assert listings < 10, "it starves"
            until = len(written) + 1
            while len(written) < until and writer.is_alive():
                time.sleep(0.001)
        return scan(self, prefix)

    writer = threading.Thread(target=write)
    monkeypatch.setattr(type(store), "scan", scan_while_others_write)
    with caplog.at_level(logging.INFO, vacuum_module.__name__):
        writer.start()
        try:
            done = vacuum(store)
            assert writer.is_alive()
        finally:
            stop.set()
            writer.join()
    assert 1 <= len(caplog.records) < 10, "races lost"
    assert (done.snapshot.operation, done.snapshot.number) == ("vacuum", read_snapshot(store).vacuum)
    assert {1, 2} <= set(done.expired)
    assert read_snapshot(store).in_bank == 1 + len(written)
    assert snapshot_numbers(store) == sorted([1, 2, 3, *written, done.snapshot.number])
    for number in readable_numbers(store):
        report = verify(store, number)
        assert report.ok, report.damaged


def test_vacuum_while_others_commit(store: Store) -> None:
    publish(store, make(store, {"a-0": "0"}).delta)
    stop = threading.Event()

    def keep_vacuuming() -> None:
        while not stop.is_set():
            vacuum(store, keep=2)

    thread = threading.Thread(target=keep_vacuuming)
    thread.start()
    try:
        for i in range(1, 12):
            for _ in range(5):
                parent = latest_snapshot(store)
                made = make(store, {f"a-{i}": f"{i}", "a-0": f"again {i}"}, vacuum=parent.vacuum)
                try:
                    publish(store, made.delta, parent, newest=False)
                    break
                except SnapshotConflict:
                    continue
            else:
                pytest.fail("five conflicts in a row")
    finally:
        stop.set()
        thread.join()
    report = verify(store)
    assert report.ok, report.damaged
    assert read_snapshot(store).in_bank == 12
    numbers = snapshot_numbers(store)
    assert numbers == list(range(1, len(numbers) + 1))
