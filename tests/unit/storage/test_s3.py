"""The same promises on an S3 server with real conditional puts; skipped where versitygw is not installed.

``make versitygw`` installs it, then ``NOISEBANK_COMMITS=100 pytest tests/unit/storage/test_s3.py`` is the full race.
"""

import multiprocessing
import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from noisebank.format.manifest import read_snapshot
from noisebank.storage import open_store
from noisebank.upkeep.compact import compact
from noisebank.upkeep.vacuum import vacuum
from noisebank.upkeep.verify import verify
from tests.support.bank import make, publish
from tests.support.races import check_race, commit_many

GATEWAY = shutil.which("versitygw", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
COMMITS = int(os.environ.get("NOISEBANK_COMMITS", "5"))

pytestmark = pytest.mark.skipif(GATEWAY is None, reason="versitygw is not installed")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = tmp_path_factory.mktemp("s3")
    (root / "bucket").mkdir()
    keys = {"ROOT_ACCESS_KEY": "test", "ROOT_SECRET_KEY": "testtest"}
    server = subprocess.Popen(
        [str(GATEWAY), "--quiet", "--port", f"127.0.0.1:{port}", "posix", str(root)], env={**os.environ, **keys}
    )
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "testtest",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        _wait_for(port)
        yield "s3://bucket"
    server.terminate()
    server.wait()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("versitygw did not start")


def test_files(bucket: str, tmp_path: Path) -> None:
    store = open_store(f"{bucket}/files")
    store.probe()
    store.put("a/b", b"0123456789")
    assert (store.read("a/b"), store.read_range("a/b", 8, 100), store.size("a/b")) == (b"0123456789", b"89", 10)
    large = tmp_path / "large"
    large.write_bytes(os.urandom(20_000_000))
    store.upload(large, "a/large")
    with store.open("a/large") as file:
        file.seek(-5, 2)
        assert file.read() == large.read_bytes()[-5:]
    assert store.list("a") == ["a/b", "a/large"]
    assert store.list("a", after="a/b") == ["a/large"]
    for use in (store.read, store.size, store.open, lambda key: store.read_range(key, 0, 1)):
        with pytest.raises(FileNotFoundError):
            use("none")
    store.delete("a/large")
    store.delete("a/large")
    assert not store.exists("a/large")


def test_one_winner(bucket: str) -> None:
    store = open_store(f"{bucket}/winners")
    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(lambda i: store.create("s/1", b"%d" % i), range(20)))
    assert won.count(True) == 1
    first = b"%d" % won.index(True)
    assert store.read("s/1") == first
    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(lambda i: store.replace("s/1", first, b"new %d" % i), range(20)))
    assert won.count(True) == 1
    assert store.read("s/1") == b"new %d" % won.index(True)


def test_two_processes_commit_at_once(bucket: str) -> None:
    url = f"{bucket}/race"
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=commit_many, args=(url, source, COMMITS)) for source in "ab"]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    check_race(open_store(url), COMMITS)


def test_the_life_of_a_bank(bucket: str) -> None:
    store = open_store(f"{bucket}/life")
    for i in range(3):
        publish(store, make(store, {f"a-{i}": f"{i}"}).delta)
    assert compact(store).in_bank == 3
    assert vacuum(store).expired == (3, 2, 1)
    report = verify(store)
    assert report.ok, report.damaged
    assert read_snapshot(store).in_bank == 3
