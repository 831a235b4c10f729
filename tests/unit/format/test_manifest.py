"""Snapshots: read whole or not at all, and refused when they are damaged, expired or from the future."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from noisebank.decode import decode
from noisebank.errors import BankDamaged, BankNotFound, ConfigError, SnapshotExpired, UnsupportedFormat
from noisebank.format.manifest import (
    Snapshot,
    expired_stub,
    latest_snapshot,
    open_apart,
    read_snapshot,
    snapshot_numbers,
    snapshot_path,
)
from noisebank.format.sealed import seal, unseal
from noisebank.storage import Store, open_store
from tests.support.bank import make, publish


@dataclass
class _Document:
    a: int


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


@pytest.fixture
def snapshot(store: Store) -> Snapshot:
    return publish(store, make(store, {"a-1": "one", "a-2": "two"}).delta)


def test_what_is_no_bank_is_kept_apart_from_banks(store: Store, tmp_path: Path) -> None:
    assert open_apart(store.url, "clips").url == store.url
    publish(store, make(store, {"a-1": "one"}).delta)
    with pytest.raises(ConfigError, match=r"bank: a bank is there; clips are kept in a folder of their own"):
        open_apart(store.url, "clips")


def test_a_snapshot_survives_the_round_trip(store: Store, snapshot: Snapshot) -> None:
    assert read_snapshot(store) == snapshot
    assert read_snapshot(store, 1) == snapshot
    assert latest_snapshot(store) == snapshot
    assert snapshot_numbers(store) == [1]
    assert json.loads(store.read("snapshots/00000001.json"))["in_bank"] == 2


def test_no_bank(store: Store) -> None:
    assert latest_snapshot(store) is None
    with pytest.raises(BankNotFound, match="noisebank build"):
        read_snapshot(store)


def test_no_such_snapshot(store: Store, snapshot: Snapshot) -> None:
    with pytest.raises(BankNotFound, match="no snapshot 7; the latest is 1"):
        read_snapshot(store, 7)


def test_an_expired_snapshot_says_so(store: Store, snapshot: Snapshot) -> None:
    store.put(snapshot.path, expired_stub(snapshot, by=4))
    with pytest.raises(SnapshotExpired, match="snapshot 1 was removed by vacuum"):
        read_snapshot(store, 1)
    assert snapshot_numbers(store) == [1], "its number stays taken"


def test_a_newer_format_is_refused(store: Store, snapshot: Snapshot) -> None:
    document = unseal(store.read(snapshot.path), "x") | {"format": 2, "something": "new"}
    store.put(snapshot.path, seal(document))
    with pytest.raises(UnsupportedFormat, match="format 2"):
        read_snapshot(store)


def test_every_flipped_bit_is_found(store: Store, snapshot: Snapshot) -> None:
    data = store.read(snapshot.path)
    for at in range(0, len(data) - 1, 7):
        damaged = bytearray(data)
        damaged[at] ^= 1 << (at % 7)
        try:
            same = json.loads(damaged) == json.loads(data)
        except ValueError:
            same = False
        if same:  # (white space)
            continue
        store.put(snapshot.path, bytes(damaged))
        with pytest.raises(BankDamaged, match="00000001"):
            read_snapshot(store)


@pytest.mark.parametrize("size", [0, 1, 100, -2])
def test_truncated(store: Store, snapshot: Snapshot, size: int) -> None:
    store.put(snapshot.path, store.read(snapshot.path)[:size])
    with pytest.raises(BankDamaged):
        read_snapshot(store)


def test_numbers_that_json_cannot_hold_are_not_written() -> None:
    with pytest.raises(ValueError, match="nan"):
        seal({"recall": float("nan")})


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"recall": NaN, "digest": ""}',
        b'{"a": -Infinity, "digest": ""}',
        b'{"a": 1e999, "digest": ""}',
        b'{"a": %d, "digest": ""}' % (1 << 63),
        b'{"a": 1%s, "digest": ""}' % (b"0" * 5000),
    ],
)
def test_what_json_cannot_say_is_damage(data: bytes) -> None:
    with pytest.raises(BankDamaged, match=r"a\.json: not JSON"):
        unseal(data, "a.json")


def test_damage_says_what_mends_it() -> None:
    for path, remedy in {
        snapshot_path(1): "restore it from a copy",
        f"plans/{'ab' * 16}/plan.json": "run the build again, which plans anew",
        f"noise/a/{'ab' * 16}.json": "run the build again, which makes it again",
    }.items():
        with pytest.raises(BankDamaged, match=f"{path}: .*; {remedy}$"):
            unseal(b"{}", path)
        with pytest.raises(BankDamaged, match=f"{path}.a: missing; {remedy}$"):
            decode({}, _Document, path)


def test_swapped_snapshots_are_found(store: Store, snapshot: Snapshot) -> None:
    publish(store, make(store, {"a-3": "three"}).delta)
    store.put(snapshot_path(1), store.read(snapshot_path(2)))
    with pytest.raises(BankDamaged, match="says that it is snapshot 2"):
        read_snapshot(store, 1)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "rows/mine.arrow"])
def test_a_manifest_cannot_name_files_outside(store: Store, snapshot: Snapshot, path: str) -> None:
    document = unseal(store.read(snapshot.path), "x")
    document["rows"][0]["path"] = path
    store.put(snapshot.path, seal(document))
    with pytest.raises(BankDamaged, match="not the name"):
        read_snapshot(store)


def test_missing_members_are_named(store: Store, snapshot: Snapshot) -> None:
    document = unseal(store.read(snapshot.path), "x")
    del document["rows"]
    store.put(snapshot.path, seal(document))
    with pytest.raises(BankDamaged, match="rows"):
        read_snapshot(store)


def test_a_snapshot_of_before_does_not_say_what_its_stages_came_to(store: Store, snapshot: Snapshot) -> None:
    document = unseal(store.read(snapshot.path), "x")
    del document["stages"]
    store.put(snapshot.path, seal(document))
    assert read_snapshot(store) == replace(snapshot, stages={})
