"""The same promises on a disk and on real servers of S3, Google's and Azure's; those not installed are skipped.

``NOISEBANK_COMMITS=100 pytest tests/unit/storage/test_object_stores.py`` is the full race.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from noisebank.errors import BankNotFound, StoreError, UnsupportedStore
from noisebank.format.manifest import read_snapshot, snapshot_numbers
from noisebank.options import FetchOptions, SourceOptions
from noisebank.sources.files import expand, open_lists
from noisebank.storage import Store, open_store
from noisebank.upkeep.compact import compact
from noisebank.upkeep.vacuum import vacuum
from noisebank.upkeep.verify import verify
from noisebank.video.fetch import fetch
from tests.support.bank import make, publish
from tests.support.emulators import Emulator, emulator
from tests.support.races import check_race, commit_many

COMMITS = int(os.environ.get("NOISEBANK_COMMITS", "5"))
LARGE = 20_000_000
BIG = 250_000_000

pytestmark = pytest.mark.engines


@pytest.fixture(params=["local", "s3", "gs", "az"])
def store(request: pytest.FixtureRequest, start_emulator: Callable[[str], Emulator], tmp_path: Path) -> Iterator[Store]:
    if request.param == "local":
        yield open_store(tmp_path / "bank")
        return
    with start_emulator(request.param).found() as running:
        yield open_store(f"{running.url}/{tmp_path.name}")


def test_files(store: Store, tmp_path: Path) -> None:
    store.probe()
    store.put("a/b", b"0123456789")
    assert (store.read("a/b"), store.read_range("a/b", 8, 100), store.size("a/b")) == (b"0123456789", b"89", 10)
    assert store.read_ranges("a/b", [(7, 2), (0, 1)]) == [b"78", b"0"]
    large = tmp_path / "large"
    large.write_bytes(os.urandom(LARGE))
    store.upload(large, "a/large")
    assert store.fetch("a/large", tmp_path / "copies").read_bytes() == large.read_bytes()
    with store.open("a/large") as file:
        file.seek(-5, 2)
        assert file.read() == large.read_bytes()[-5:]
    assert store.list("a") == ["a/b", "a/large"]
    assert store.list("a", after="a/b") == ["a/large"]
    store.put("empty", b"")
    assert store.fetch("empty", tmp_path / "copies").read_bytes() == b""
    for use in (store.read, store.size, store.open, lambda key: store.read_range(key, 0, 1)):
        with pytest.raises(FileNotFoundError, match="none"):
            use("none")
    store.delete("a/large")
    store.delete("a/large")
    assert not store.exists("a/large")


def test_one_winner(store: Store) -> None:
    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(lambda i: store.create("s/1", b"%d" % i), range(20)))
    assert won.count(True) == 1
    first = b"%d" % won.index(True)
    assert store.read("s/1") == first
    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(lambda i: store.replace("s/1", first, b"new %d" % i), range(20)))
    assert won.count(True) == 1
    assert store.read("s/1") == b"new %d" % won.index(True)


def test_two_processes_commit_at_once(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=commit_many, args=(store.url, source, COMMITS)) for source in "ab"]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    check_race(store, COMMITS)


def test_the_life_of_a_bank(store: Store) -> None:
    with pytest.raises(BankNotFound):
        read_snapshot(store)
    for i in range(3):
        publish(store, make(store, {f"a-{i}": f"{i}"}).delta)
    assert compact(store).in_bank == 3
    assert vacuum(store).expired == (3, 2, 1)
    report = verify(store)
    assert report.ok, report.damaged
    assert read_snapshot(store).in_bank == 3


def test_lists_and_videos_are_found_as_the_bank_is(store: Store, tmp_path: Path) -> None:
    store.put("lists/01.csv", b"id,uri,caption\n1,a.mp4,one\n")
    store.put("lists/02.csv", b"id,uri,caption\n2,b.mp4,two\n")
    source = SourceOptions("table", (f"{store.url}/lists/*.csv",), uri="uri", caption=("caption",))
    assert expand(source) == [f"{store.url}/lists/0{number}.csv" for number in (1, 2)]
    first, second = open_lists(source, store, "plans")
    with second.open() as file:
        assert (first.size, file.read()) == (27, store.read("lists/02.csv"))
    fetched = fetch(f"{store.url}/lists/01.csv", tmp_path / "out", FetchOptions())
    assert fetched.path.read_bytes() == store.read("lists/01.csv")


def test_big_files_are_not_held_in_memory(s3: Emulator, tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from noisebank.storage import open_store
store, large = open_store("{s3.url}/{tmp_path.name}"), Path({str(tmp_path / "large")!r})
store.put("small", b"1")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
with large.open("wb") as file:
    file.truncate({BIG})
store.upload(large, "big")
copy = store.fetch("big", large.parent / "copy")
assert (store.size("big"), copy.stat().st_size) == ({BIG}, {BIG})
print(peak() - before)
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(ran.stdout) * 1024 < BIG // 2


def test_a_bucket_that_is_not_there_is_named(cloud: Emulator) -> None:
    store = open_store(f"{cloud.url.partition('://')[0]}://nobody-made-it/bank")
    with pytest.raises(StoreError, match=r"^\w+://nobody-made-it/bank/a: PUT at http://127.*: 404 .*, 1 try$"):
        store.put("a", b"1")


def test_a_store_that_lets_every_writer_win_is_refused(tmp_path: Path) -> None:
    with emulator("gs", tmp_path, conditions=False) as careless, careless.found():
        store = open_store(f"{careless.url}/bank")
        with pytest.raises(UnsupportedStore, match=r"gs://bucket/bank: 9 of 9 writers were told .* the same file"):
            publish(store, make(store, {"a-1": "one"}).delta)
        assert snapshot_numbers(store) == []
