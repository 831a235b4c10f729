"""Commits: atomic, rebased when disjoint, refused when not, and never losing a file or a row."""

import math
import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from noisebank.commits.commit import clip_names, read_touched
from noisebank.commits.delta import Delta
from noisebank.errors import BankDamaged, SnapshotConflict, UnsupportedStore
from noisebank.format import tables
from noisebank.format.index_deletions import read_deleted, read_nums
from noisebank.format.manifest import Snapshot, latest_snapshot, read_snapshot, snapshot_numbers
from noisebank.format.parts import part_entries, read_parts
from noisebank.format.tables import OverlayTable
from noisebank.ids import clip_number
from noisebank.storage import Store, open_store
from tests.support.bank import FINGERPRINTS, SET, failure, make, publish, remove
from tests.support.made_up import SHAPE
from tests.support.races import check_race, commit_many, in_bank, searchable


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank" if request.param == "local" else f"memory://{tmp_path.name}")


def paths(store: Store, snapshot: Snapshot, kind: str) -> list[str]:
    return [entry.path for entry in part_entries(read_parts(store, snapshot.parts[kind]))]


def test_a_first_commit(store: Store) -> None:
    made = make(store, {"a-1": "one", "a-2": "two"}, failed=["b-9"])
    snapshot = publish(store, made.delta, counts={"new": 3})
    assert (snapshot.number, snapshot.parent, snapshot.in_bank) == (1, None, 2)
    assert snapshot.sources == {"a": 2, "b": 1}
    assert snapshot.record_counts == {SET: 2}
    assert snapshot.failure_counts == {"http_404": 1}
    assert snapshot.counts == {"new": 3}
    assert set(snapshot.parts) == {"clips", "sidecars", "captions", f"noise/{SET}"}
    for stage, kind in [("clips", "clips"), ("captions", "captions"), ("noise", f"noise/{SET}")]:
        assert paths(store, snapshot, kind) == [made.receipts[stage].files[0].path]
    part = read_parts(store, snapshot.parts[f"noise/{SET}"]).to_pylist()[0]
    layout = made.receipts["noise"].info
    assert part["data_offset"] == layout["data_offset"] > 0
    assert (part["stride"], part["scale_offset"]) == (layout["stride"], None) == (2 * math.prod(SHAPE), None)
    assert part["inputs"] == made.receipts["noise"].inputs
    files = [e for kind in snapshot.parts for e in part_entries(read_parts(store, snapshot.parts[kind]))]
    assert snapshot.data_bytes == sum(store.size(entry.path) for entry in files)
    assert read_touched(store, snapshot).tolist() == sorted(clip_number(id) for id in ("a-1", "a-2", "b-9"))
    failed = OverlayTable(store, snapshot.failures, ("num", "stage")).read().to_pylist()[0]
    assert (failed["id"], failed["first_snapshot"], failed["last_snapshot"]) == ("b-9", 1, 1)
    assert searchable(store, snapshot) == sorted([clip_number("a-1"), clip_number("a-2")])


def test_updates_lie_over_what_was(store: Store) -> None:
    first = publish(store, make(store, {"a-1": "one", "a-2": "two", "a-3": "three"}).delta)
    second = publish(store, make(store, {"a-2": "two, again", "a-4": "four"}).delta)
    third = publish(store, remove(["a-3"]))
    assert [snapshot.in_bank for snapshot in (first, second, third)] == [3, 4, 3]
    assert in_bank(store, third) == {clip_number(id) for id in ("a-1", "a-2", "a-4")}
    assert in_bank(store, first) == {clip_number(id) for id in ("a-1", "a-2", "a-3")}, "old snapshots stay as they were"
    assert searchable(store, second) == sorted(clip_number(f"a-{i}") for i in (1, 2, 3, 4)), "each caption once"
    assert searchable(store, third) == sorted(clip_number(f"a-{i}") for i in (1, 2, 4))
    assert third.sources == {"a": 3}
    assert len(paths(store, third, "clips")) == 2


def test_files_that_nothing_refers_to_leave(store: Store) -> None:
    first = publish(store, make(store, {"a-1": "one", "a-2": "two"}).delta)
    second = publish(store, make(store, {"a-1": "eins", "a-2": "zwei"}).delta)
    assert len(paths(store, second, "clips")) == 1
    assert paths(store, second, "clips") != paths(store, first, "clips")
    assert len(second.index) == 1
    third = publish(store, remove(["a-1", "a-2"]))
    assert third.parts == dict.fromkeys(first.parts, ())
    assert (third.in_bank, third.data_bytes, third.index, third.sources) == (0, 0, (), {})


def test_nothing_changed_commits_nothing(store: Store) -> None:
    first = publish(store, make(store, {"a-1": "one"}).delta)
    assert publish(store, Delta()) == first
    assert snapshot_numbers(store) == [1]


def test_a_commit_of_failures_alone(store: Store) -> None:
    publish(store, make(store, {"a-1": "one"}).delta)
    second = publish(store, Delta(failures=[failure("a-7", "timeout")]))
    known = failure("a-7", "timeout", first_snapshot=2, attempts=2)
    third = publish(store, Delta(failures=[known]))
    row = OverlayTable(store, third.failures, ("num", "stage")).read().to_pylist()[0]
    assert (second.failure_counts, row["first_snapshot"], row["last_snapshot"], row["attempts"]) == (
        {"timeout": 1},
        2,
        3,
        2,
    )
    healed = publish(store, Delta(failures=[failure("a-7", "")]))
    assert healed.failure_counts == {}
    assert healed.failures == (), "merged to the bottom, what is healed is gone"


def test_a_commit_step_that_runs_twice(store: Store) -> None:
    delta = make(store, {"a-1": "one"}).delta
    first = publish(store, delta, newest=False, run_id="mine")
    publish(store, make(store, {"b-1": "x"}).delta)
    assert publish(store, delta, newest=False, run_id="mine") == first
    assert snapshot_numbers(store) == [1, 2]


def test_disjoint_writers_both_land(store: Store) -> None:
    parent = publish(store, make(store, {"a-1": "one"}).delta)
    mine, theirs = make(store, {"a-2": "two"}), make(store, {"b-2": "zwei"}, failed=["b-3"])
    publish(store, theirs.delta, parent, newest=False)
    landed = publish(store, mine.delta, parent, newest=False)
    assert (landed.number, landed.parent, landed.in_bank) == (3, 2, 3)
    assert in_bank(store, landed) == {clip_number(id) for id in ("a-1", "a-2", "b-2")}
    assert len(paths(store, landed, "clips")) == 3
    assert searchable(store, landed) == sorted(clip_number(id) for id in ("a-1", "a-2", "b-2"))
    assert landed.failure_counts == {"http_404": 1}


def test_disjoint_writers_of_an_empty_bank(store: Store) -> None:
    mine, theirs = make(store, {"a-2": "two"}), make(store, {"b-2": "zwei"})
    publish(store, theirs.delta, None, newest=False)
    assert publish(store, mine.delta, None, newest=False).in_bank == 2


def test_overlapping_writers_conflict_by_name(store: Store) -> None:
    parent = publish(store, make(store, {"a-1": "one", "a-2": "two"}).delta)
    theirs = publish(store, make(store, {"a-1": "eins"}, failed=["a-8"]).delta, parent, newest=False)
    with pytest.raises(SnapshotConflict, match=r"changes 2 of the same clips: .*a-1.*run the build again") as caught:
        publish(store, make(store, {"a-1": "uno", "a-3": "tre"}, failed=["a-8"]).delta, parent, newest=False)
    assert "a-8" in str(caught.value)
    assert caught.value.exit_code == 3
    assert read_snapshot(store) == theirs
    again = publish(store, make(store, {"a-1": "uno", "a-3": "tre"}).delta)
    assert in_bank(store, again) == {clip_number(f"a-{i}") for i in (1, 2, 3)}


def test_writers_with_other_options_conflict(store: Store) -> None:
    parent = publish(store, make(store, {"a-1": "one"}).delta)
    publish(store, make(store, {"b-1": "eins"}).delta, parent, newest=False)
    other = {**FINGERPRINTS, "noise/second": "n2"}
    landed = publish(store, make(store, {"a-2": "two"}).delta, parent, newest=False, fingerprints=other)
    assert landed.fingerprints["noise"] == {SET: "n1", "second": "n2"}
    with pytest.raises(SnapshotConflict, match="other options or models for captions"):
        publish(
            store,
            make(store, {"a-9": "x"}).delta,
            parent,
            newest=False,
            fingerprints={**FINGERPRINTS, "captions": "t2"},
        )


def test_a_merged_index_is_rebased_over_what_others_changed(store: Store) -> None:
    publish(store, make(store, {f"a-{i}": f"{i}" for i in range(4)}).delta)
    parent = publish(store, make(store, {"a-4": "4"}).delta)
    publish(store, make(store, {"a-0": "changed", "b-1": "new"}).delta, parent, newest=False)
    publish(store, remove(["a-1"]))
    mine = make(store, {"a-5": "5"}).delta
    whole = make(store, {f"a-{i}": f"{i}" for i in range(6)}).delta.index
    replaces = frozenset(segment.index.path for segment in parent.index)
    merged = Delta(mine.rows, mine.records, mine.failures, mine.receipts, whole, replaces)
    landed = publish(store, merged, parent, newest=False)
    assert len(landed.index) == 2
    assert searchable(store, landed) == sorted(clip_number(id) for id in ("a-0", "a-2", "a-3", "a-4", "a-5", "b-1"))
    theirs = landed.index[0]
    assert read_nums(store, theirs)[~read_deleted(store, theirs)].tolist() == sorted(
        [clip_number("a-0"), clip_number("b-1")]
    )


def test_a_small_update_writes_little(store: Store) -> None:
    publish(store, make(store, {f"a-{i}": f"caption {i}" for i in range(2000)}).delta)
    before = {key: store.size(key) for key in store.list("")}
    made = make(store, {f"a-{i}": f"caption {i}" for i in range(2000, 2020)})
    publish(store, made.delta)
    written = sum(store.size(key) for key in store.list("") if key not in before)
    assert written < 0.06 * sum(before.values()), "1% more rows, and constant parts of small files"
    rows = [key for key in store.list("rows") if key not in before]
    assert [store.size(key) < 5000 for key in rows] == [True]


def test_segments_and_parts_stay_few(store: Store) -> None:
    for i in range(20):
        publish(store, make(store, {f"a-{i}": f"{i}"}).delta)
    snapshot = read_snapshot(store)
    assert in_bank(store, snapshot) == {clip_number(f"a-{i}") for i in range(20)}
    assert max(map(len, [snapshot.rows, snapshot.records[SET], *snapshot.parts.values()])) <= 5


def test_names_of_numbers(store: Store) -> None:
    snapshot = publish(store, make(store, {"a-1": "one"}, failed=["a-2"]).delta)
    nums = np.array([clip_number("a-1"), clip_number("a-2"), 5])
    assert clip_names(store, [snapshot], nums) == ["a-1", "a-2", "number 5"]


def test_a_damaged_base_stops_the_commit(store: Store) -> None:
    snapshot = publish(store, make(store, {"a-1": "one"}).delta)
    store.delete(snapshot.rows[0].path)
    with pytest.raises(BankDamaged, match="missing"):
        publish(store, make(store, {"a-2": "two"}).delta)
    assert snapshot_numbers(store) == [1]


def test_a_careless_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    original = obstore.put
    monkeypatch.setattr(obstore, "put", lambda *a, mode="", **o: original(*a, **o))
    store = open_store("memory://careless-bank")
    with pytest.raises(UnsupportedStore):
        publish(store, make(store, {"a-1": "one"}).delta)
    assert snapshot_numbers(store) == []


def test_the_order_of_rows_is_the_numbers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 3)
    snapshot = publish(store, make(store, {f"a-{i}": f"{i}" for i in range(20)}).delta)
    publish(store, make(store, {f"a-{i}": f"again {i}" for i in range(0, 20, 3)}).delta)
    rows = OverlayTable(store, read_snapshot(store).rows).read()
    assert rows.column("num").to_pylist() == sorted(clip_number(f"a-{i}") for i in range(20))
    changed = [row["num"] for row in rows.to_pylist() if row["caption_file"] not in _captions(store, snapshot)]
    assert changed == sorted(clip_number(f"a-{i}") for i in range(0, 20, 3))


def _captions(store: Store, snapshot: Snapshot) -> list[int]:
    return read_parts(store, snapshot.parts["captions"]).column("key").to_pylist()


def test_two_threads_commit_at_once(store: Store) -> None:
    threads = [threading.Thread(target=commit_many, args=(store.url, source, 8)) for source in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_race(store, 8)


def test_two_processes_commit_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=commit_many, args=(str(tmp_path), source, 8)) for source in "ab"]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    check_race(open_store(tmp_path), 8)


def test_two_writers_of_the_same_clips_at_once(store: Store) -> None:
    parent = publish(store, make(store, {"a-0": "zero"}).delta)
    outcomes: list[object] = []

    def write(caption: str) -> None:
        try:
            outcomes.append(publish(store, make(store, {"a-1": caption}).delta, parent, newest=False))
        except SnapshotConflict as error:
            outcomes.append(error)

    threads = [threading.Thread(target=write, args=(caption,)) for caption in ("mine", "yours")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Snapshot", "SnapshotConflict"]
    assert latest_snapshot(store) in outcomes


def test_deltas_may_be_generators_of_pieces(store: Store) -> None:
    made = make(store, {f"a-{i}": f"{i}" for i in range(10)})
    whole = made.delta.rows[0]

    class Pieces:
        def __iter__(self):
            return (whole.slice(i, 3) for i in range(0, 10, 3))

    pieces = Delta(Pieces(), made.delta.records, made.delta.failures, made.delta.receipts, made.delta.index)
    snapshot = publish(store, pieces)
    assert pa.Table.equals(OverlayTable(store, snapshot.rows).read(), whole)
