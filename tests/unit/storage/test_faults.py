"""Connections that break, servers that are busy or silent: nothing half-written is read, and errors say what happened.

The server is a real one; a proxy in front of it misbehaves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from noisebank.errors import RowFailure, StoreError
from noisebank.format.manifest import read_snapshot
from noisebank.options import FetchOptions, SourceOptions
from noisebank.sources.files import expand
from noisebank.storage import Store, clients, open_store
from noisebank.video.fetch import fetch
from tests.support.bank import make, publish
from tests.support.emulators import Emulator
from tests.support.proxy import Request, times
from tests.support.races import in_bank
from tests.support.servers import AnyMethodHandler, LoopbackServer

MANY = 1000

pytestmark = pytest.mark.engines


@pytest.fixture
def store(cloud: Emulator, tmp_path: Path) -> Store:
    store = open_store(f"{cloud.url}/{tmp_path.name}")
    assert not store.exists("anything")  # (the first contact)
    return store


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of several parts."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(20_000_000))
    return path


def writes(request: Request) -> bool:
    return request.method in ("PUT", "POST")


def reads(request: Request) -> bool:
    return request.method == "GET"


@pytest.mark.parametrize("fault", ["503", "cut request", "lose answer"])
def test_an_upload_survives_a_few_faults(cloud: Emulator, store: Store, large: Path, fault: str) -> None:
    cloud.proxy.misbehave = times(2, fault, writes)
    store.upload(large, "a/large")
    assert store.fetch("a/large", large.parent / "copy").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("fault", ["503", "cut answer"])
def test_reading_survives_a_few_faults(cloud: Emulator, store: Store, large: Path, fault: str) -> None:
    store.upload(large, "a/large")
    cloud.proxy.misbehave = times(2, fault, reads)
    assert store.read("a/large") == large.read_bytes()
    cloud.proxy.misbehave = times(2, fault, reads)
    assert store.fetch("a/large", large.parent / "copy").read_bytes() == large.read_bytes()
    cloud.proxy.misbehave = times(2, fault, reads)
    assert store.read_range("a/large", 5, 1_000_000) == large.read_bytes()[5:1_000_005]
    cloud.proxy.misbehave = times(2, fault, reads)
    assert store.list("a") == ["a/large"]


def test_an_answer_that_is_cut_off_for_good_is_named_with_the_tries(s3: Emulator, tmp_path: Path) -> None:
    store = open_store(f"{s3.url}/{tmp_path.name}")
    store.put("a/b", b"12")
    s3.proxy.requests.clear()
    s3.proxy.misbehave = lambda request: "cut answer"
    for key, use in {"a/b": lambda: store.read("a/b"), "a": lambda: store.list("a")}.items():
        with pytest.raises(StoreError, match=rf"^{store.url}/{key}: the answer was cut off, 7 tries$"):
            use()
        assert len(s3.proxy.requests) == 7
        s3.proxy.requests.clear()


def test_an_upload_that_is_cut_off_for_good_is_never_seen(cloud: Emulator, store: Store, large: Path) -> None:
    seen: set[int] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.update(file.bytes for file in store.scan("a"))

    cloud.proxy.misbehave = times(
        MANY, "cut request", lambda request: writes(request) and bool(request.query or "a/" in request.path)
    )
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        with pytest.raises(StoreError, match=rf"^{store.url}/a/large: (PUT|POST) at http://127.*, \d+ tr(y|ies)$"):
            store.upload(large, "a/large")
        over.set()
        looking.result()
    assert seen == set()
    assert not store.exists("a/large")
    cloud.proxy.misbehave = None
    store.upload(large, "a/large")
    assert store.size("a/large") == large.stat().st_size


def test_a_slow_link_is_waited_for_and_nothing_half_is_seen(cloud: Emulator, store: Store, large: Path) -> None:
    cloud.proxy.misbehave = lambda request: "slow" if writes(request) else ""
    seen: set[int] = set()
    with ThreadPoolExecutor(1) as pool:
        uploading = pool.submit(store.upload, large, "a/large")
        while not uploading.done():
            seen.update(file.bytes for file in store.scan("a"))
        uploading.result()
    assert seen <= {large.stat().st_size}
    assert store.fetch("a/large", large.parent / "copy").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("fault", ["lose answer", "503", "cut request"])
def test_a_commit_survives_a_few_faults(cloud: Emulator, store: Store, fault: str) -> None:
    publish(store, make(store, {"a-1": "one"}).delta)
    delta = make(store, {"a-2": "two"}).delta
    cloud.proxy.misbehave = times(1, fault, lambda request: writes(request) and "snapshots" in request.path)
    snapshot = publish(store, delta)
    assert snapshot.number == 2
    assert in_bank(store, read_snapshot(store)) == in_bank(store, snapshot)


def test_a_busy_store_is_named_with_its_code_and_the_tries(
    s3: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(clients._RETRY, "max_retries", 2)
    clients._connect.cache_clear()
    store = open_store(f"{s3.url}/{tmp_path.name}")
    s3.proxy.misbehave = lambda request: "503"
    what = r": 503 Service Unavailable: SlowDown: Please reduce your request rate\., 3 tries$"
    uses: dict[str, Callable[[], object]] = {
        "a/b": lambda: store.read("a/b"),
        "a/c": lambda: store.put("a/c", b"1"),
        "a/d": lambda: store.create("a/d", b"1"),
        "a": lambda: store.list("a"),
    }
    for key, use in uses.items():
        with pytest.raises(StoreError, match=rf"^{store.url}/{key}: (GET|PUT) at http://127\.0\.0\.1:\d+{what}"):
            use()
    with pytest.raises(StoreError, match=rf"^{store.url}/\*\.csv: HEAD at .*: 503 Service Unavailable, 3 tries$"):
        expand(SourceOptions("webvid", (f"{store.url}/*.csv",)))
    with pytest.raises(RowFailure, match=rf"connection: {store.url}/a\.mp4: GET at .*{what}") as failed:
        fetch(f"{store.url}/a.mp4", tmp_path / "out", FetchOptions())
    assert failed.value.retryable
    clients._connect.cache_clear()


class _Silent(AnyMethodHandler):
    """Takes requests and never answers."""

    def answer_any(self) -> None:
        self.close_connection = True
        self.server.owner.closing.wait(60)


@pytest.mark.parametrize("endpoint", ["refuses", "is silent"])
def test_an_endpoint_that_does_not_answer_is_given_up_soon(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LoopbackServer(_Silent) as server:
        if endpoint == "refuses":
            server._server.socket.close()
        for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "c"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        said = r"no connection \(tcp connect error\)" if endpoint == "refuses" else "no answer in time"
        for use in (
            lambda: open_store("s3://silent/bank").read("a"),
            lambda: expand(SourceOptions("webvid", ("s3://silent/list.csv",))),
        ):
            with pytest.raises(StoreError, match=rf"^s3://silent.*: HEAD at {server.url}: {said}, [12] tr(y|ies)$"):
                use()
        with pytest.raises(RowFailure, match=f"connection: s3://silent.*: {said}"):
            fetch("s3://silent/a.mp4", tmp_path / "out", FetchOptions())


def test_the_first_contact_takes_less_than_ten_seconds() -> None:
    tries = 1 + int(clients._FIRST_RETRY["max_retries"])
    assert tries * clients._FIRST_CLIENT["timeout"] <= timedelta(seconds=9)
