"""Verification finds every kind of damage to every file, by name; describing says what is there."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from noisebank.describe import describe, diff, snapshot_files
from noisebank.errors import BankNotFound, ConfigError, SnapshotExpired
from noisebank.format.manifest import Snapshot, expired_stub, read_snapshot
from noisebank.storage import Store, open_store
from noisebank.upkeep.verify import verify
from tests.support.bank import SET, make, publish, remove
from tests.support.made_up import SHAPE


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


@pytest.fixture
def snapshot(store: Store) -> Snapshot:
    publish(store, make(store, {f"a-{i}": f"caption {i}" for i in range(5)}, failed=["a-77"]).delta)
    publish(store, make(store, {"a-2": "changed", "b-1": "new"}).delta)
    return publish(store, remove(["a-3"]))


def test_a_whole_bank_is_ok(store: Store, snapshot: Snapshot) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(store, progress=lambda done, total: seen.append((done, total)))
    assert report.ok, report.damaged
    files = snapshot_files(store, snapshot)
    assert (report.files, report.bytes) == (len(files), sum(store.size(entry.path) for entry in files))
    assert seen[-1] == (report.bytes, report.bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert verify(store, 1).ok


def test_no_bank_is_not_a_damaged_one(store: Store) -> None:
    with pytest.raises(BankNotFound):
        verify(store)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "one bit": (
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :],
        "changed",
    ),
    "one byte less": (lambda data: data[:-1], "truncated"),
    "one byte more": (lambda data: data + b"\0", "too long"),
    "empty": (lambda data: b"", "truncated"),
    "deleted": (lambda data: None, "missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_to_every_file_is_named(store: Store, snapshot: Snapshot, damage: str) -> None:
    change, reason = DAMAGES[damage]
    for entry in snapshot_files(store, snapshot):
        data = store.read(entry.path)
        damaged = change(data)
        if damaged is None:
            store.delete(entry.path)
        else:
            store.put(entry.path, damaged)
        report = verify(store)
        assert [found.path for found in report.damaged] == [entry.path]
        assert report.damaged[0].reason.startswith(reason)
        store.put(entry.path, data)
    assert verify(store).ok


def test_swapped_files_are_named(store: Store, snapshot: Snapshot) -> None:
    files = [entry.path for entry in snapshot_files(store, snapshot)]
    pairs = [pair for pair in itertools.pairwise(files) if len({path.partition("/")[0] for path in pair}) == 1]
    assert len(pairs) > 10
    for one, other in pairs:
        contents = store.read(one), store.read(other)
        store.put(one, contents[1])
        store.put(other, contents[0])
        assert {found.path for found in verify(store).damaged} == {one, other}
        store.put(one, contents[0])
        store.put(other, contents[1])


def test_a_damaged_snapshot_is_named(store: Store, snapshot: Snapshot) -> None:
    data = store.read(snapshot.path)
    store.put(snapshot.path, data.replace(b'"in_bank": 5', b'"in_bank": 6'))
    report = verify(store)
    assert not report.ok and report.snapshot is None
    assert [found.path for found in report.damaged] == [snapshot.path]


@pytest.mark.parametrize(
    ("member", "value"),
    [("in_bank", 9), ("sources", {"a": 6}), ("record_counts", {SET: 4}), ("failure_counts", {}), ("data_bytes", 1)],
)
def test_a_manifest_that_disagrees_with_itself(store: Store, snapshot: Snapshot, member: str, value: object) -> None:
    store.put(snapshot.path, dataclasses.replace(snapshot, **{member: value}).to_bytes())
    report = verify(store)
    assert {found.path for found in report.damaged} == {snapshot.path}
    assert any(f"disagrees with its files about {member}" in found.reason for found in report.damaged)


def test_a_manifest_that_lacks_a_part(store: Store, snapshot: Snapshot) -> None:
    parts = {**snapshot.parts, "captions": snapshot.parts["captions"][:-1]}
    store.put(snapshot.path, dataclasses.replace(snapshot, parts=parts).to_bytes())
    assert any("captions: files that rows refer to" in found.reason for found in verify(store).damaged)


def test_a_manifest_with_another_ones_table(store: Store, snapshot: Snapshot) -> None:
    first = read_snapshot(store, 1)
    store.put(snapshot.path, dataclasses.replace(snapshot, rows=first.rows).to_bytes())
    assert {found.path for found in verify(store).damaged} == {snapshot.path}


def test_foreign_files_are_named(store: Store, snapshot: Snapshot, tmp_path: Path) -> None:
    (tmp_path / "bank" / "clips" / "holiday.tar").write_bytes(b"mine")
    (tmp_path / "bank" / "notes.txt").write_bytes(b"mine")
    report = verify(store)
    assert [found.path for found in report.damaged] == ["clips/holiday.tar", "notes.txt"]
    assert all(found.reason.startswith("foreign") for found in report.damaged)


def test_a_gap_in_the_numbers_is_found(store: Store, snapshot: Snapshot) -> None:
    store.delete("snapshots/00000002.json")
    assert [found.path for found in verify(store).damaged] == ["snapshots/00000002.json"]


def test_an_expired_snapshot_cannot_be_verified(store: Store, snapshot: Snapshot) -> None:
    first = read_snapshot(store, 1)
    store.put(first.path, expired_stub(first, 9))
    with pytest.raises(SnapshotExpired):
        verify(store, 1)


def test_files_by_kind(store: Store, snapshot: Snapshot) -> None:
    def suffixes(kind: str) -> list[str]:
        return [Path(entry.path).suffix for entry in snapshot_files(store, snapshot, kind)]

    assert suffixes("clips") == [".tar", ".tar"]
    assert suffixes("sidecars") == [".parquet", ".parquet"]
    assert suffixes("noise") == suffixes(f"noise/{SET}") == [".arrow", ".arrow"]
    assert sorted(suffixes("index")) == [".bits", ".faiss", ".faiss", ".json", ".json", ".parquet", ".parquet"]
    with pytest.raises(ConfigError, match="'tars' is not allowed; one of clips"):
        snapshot_files(store, snapshot, "tars")
    kinds = ("clips", "sidecars", "captions", "noise", "index", "rows", "records", "failures", "parts", "touched")
    assert sorted(e.path for kind in kinds for e in snapshot_files(store, snapshot, kind)) == [
        e.path for e in snapshot_files(store, snapshot)
    ]


def test_description(store: Store, snapshot: Snapshot) -> None:
    found = describe(store, snapshot)
    assert (found["snapshot"], found["parent"], found["rows"]) == (3, 2, 5)
    known = {"records": 5, "shape": list(SHAPE), "dtype": "float16", "model": "toy"}
    assert found["noise"][SET] == known | dict.fromkeys(("inverter", "num_inference_steps", "replay_error"))
    assert found["index"] == {"kind": "Flat", "size": 5, "recall": 1.0}
    assert found["failures"] == {"http_404": 1}
    assert found["bytes"] == sum(entry.bytes for entry in snapshot_files(store, snapshot))


def test_difference(store: Store, snapshot: Snapshot) -> None:
    first = read_snapshot(store, 1)
    found = diff(store, first, snapshot)
    counts = {key: found[key] for key in ("before", "after", "added", "removed", "changed_clips", "changed_captions")}
    assert counts == {"before": 1, "after": 3, "added": 1, "removed": 1, "changed_clips": 1, "changed_captions": 1}
    assert found["noise"] == {SET: {"added": 1, "removed": 1, "changed": 1}}
    assert diff(store, snapshot, snapshot)["added"] == 0
