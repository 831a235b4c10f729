"""Two writers that commit to one bank at once, and what must be true afterwards."""

from __future__ import annotations

import json

import numpy as np

from noisebank.format.index_deletions import read_deleted, read_nums
from noisebank.format.manifest import Snapshot, read_snapshot, snapshot_numbers
from noisebank.format.tables import OverlayTable
from noisebank.ids import clip_number
from noisebank.storage import Store, open_store
from tests.support.bank import make, publish


def in_bank(store: Store, snapshot: Snapshot) -> set[int]:
    rows = OverlayTable(store, snapshot.rows).read().to_pylist()
    return {row["num"] for row in rows if row["clip_file"] and row["status"] != 5}


def searchable(store: Store, snapshot: Snapshot) -> list[int]:
    live = [read_nums(store, s)[~read_deleted(store, s)] for s in snapshot.index]
    return sorted(np.concatenate(live).tolist()) if live else []


def commit_many(url: str, source: str, times: int) -> None:
    """One writer of a race: a clip of its own a commit, always planned on what it knows."""
    store = open_store(url)
    parent = None
    for i in range(times):
        parent = publish(
            store, make(store, {f"{source}-{i}": f"{i}"}).delta, parent, newest=False, run_id=f"{source}{i}"
        )


def check_race(store: Store, times: int) -> None:
    """Every commit of both writers is there, once, without a gap."""
    assert snapshot_numbers(store) == list(range(1, 2 * times + 1))
    last = read_snapshot(store)
    assert in_bank(store, last) == {clip_number(f"{source}-{i}") for source in "ab" for i in range(times)}
    assert last.in_bank == 2 * times
    assert searchable(store, last) == sorted(in_bank(store, last))
    runs = [json.loads(store.read(key))["run_id"] for key in store.list("snapshots")]
    assert sorted(runs) == sorted(f"{source}{i}" for source in "ab" for i in range(times))
