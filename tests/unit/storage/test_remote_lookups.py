"""What lookups ask of an object store, counted in front of it; and what a folder on this machine saves."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from noisebank import NoiseBank
from noisebank.errors import BankDamaged, ConfigError
from noisebank.storage import Store, open_store
from tests.support.bank import build
from tests.support.emulators import Emulator
from tests.support.minilm import MINILM
from tests.support.proxy import Proxy, Request

FIRST = {f"a-{i}": f"a dog runs on the beach, take {i}" for i in range(16)}
SECOND = {"b-0": "a tram crosses the bridge", "b-1": "bees on a meadow"}

pytestmark = pytest.mark.engines


def make_bank(cloud: Emulator, name: str, dtype: str = "float16") -> Store:
    """A bank of two noise shards."""
    store = open_store(f"{cloud.url}/{name}")
    build(store, FIRST, dtype=dtype)
    build(store, SECOND, dtype=dtype)
    return store


def data_requests(proxy: Proxy) -> list[Request]:
    """Those for tables, indices and records."""
    return [request for request in proxy.requests if "snapshots" not in request.path + request.query]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_record_of_a_shard_never_touched_costs_one_range_request(cloud: Emulator, tmp_path: Path, dtype: str) -> None:
    store = make_bank(cloud, tmp_path.name, dtype)
    bank = NoiseBank.open(store.url)
    bank.noise(id="a-0")
    cloud.proxy.requests.clear()
    bank.noise(id="b-1")
    (request,) = cloud.proxy.requests
    assert (request.method, request.range[:6]) == ("GET", "bytes=")
    assert f"{tmp_path.name}/noise/toy/" in request.path


def test_sixteen_records_go_out_together(s3: Emulator, tmp_path: Path) -> None:
    bank = NoiseBank.open(make_bank(s3, tmp_path.name).url)
    bank.noise(id="b-0")
    s3.proxy.requests.clear()
    s3.proxy.meeting = threading.Barrier(16)
    s3.proxy.misbehave = lambda request: "meet"
    assert bank.noise(id=[*FIRST], eta=math.inf).shape[0] == 16
    assert len(s3.proxy.requests) == 16


def test_a_second_process_with_the_cache_asks_for_no_record_and_no_table(s3: Emulator, tmp_path: Path) -> None:
    store = make_bank(s3, tmp_path.name)
    code = f"""
import math
from noisebank import NoiseBank
bank = NoiseBank.open({store.url!r}, embedder={MINILM!r})
print(bank.search("bees", k=1)[0].id, bank.inverted("b-0").noise.sum().item())
print(bank.noise(id=["a-3", "b-1"], eta=math.inf).sum().item())
"""
    outputs, asked = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOISEBANK_CACHE", str(tmp_path / "cache"))
        for _ in range(2):
            s3.proxy.requests.clear()
            outputs.append(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
            asked.append(data_requests(s3.proxy))
    assert outputs[0] == outputs[1] and outputs[0].startswith(b"b-1 ")
    assert asked[0] and asked[1] == []


def test_a_cache_that_was_damaged_is_renewed(s3: Emulator, tmp_path: Path) -> None:
    store = make_bank(s3, tmp_path.name)
    without = NoiseBank.open(store.url)
    cache = tmp_path / "cache"
    for damage in (b"", b"x" * 100_000):
        bank = pickle.loads(pickle.dumps(NoiseBank.open(store.url, cache=cache, embedder=MINILM)))
        assert torch.equal(bank.noise(id="b-1", eta=math.inf), without.noise(id="b-1", eta=math.inf))
        assert bank.search("bees", k=1)[0].id == "b-1"
        copies = [path for path in cache.rglob("*") if path.is_file()]
        assert {path.relative_to(cache).parts[1] for path in copies} >= {"noise", "records", "parts", "index"}
        for path in copies:
            path.write_bytes(damage)


def test_damage_in_the_store_is_no_damage_of_the_cache(s3: Emulator, tmp_path: Path) -> None:
    store = make_bank(s3, tmp_path.name)
    bank = NoiseBank.open(store.url, cache=tmp_path / "cache")
    for key in store.list("noise/toy"):
        if key.endswith(".arrow"):
            store.put(key, bytes(store.size(key)))
    for _ in range(2):
        with pytest.raises(BankDamaged, match=r"record . differs from its checksum"):
            bank.noise(id="b-1")
    assert not list((tmp_path / "cache").rglob("*.ranges/*"))


def test_a_cache_where_no_folder_can_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cache '.*file/cache': Not a directory; name a folder"):
        open_store("memory://cached", tmp_path / "file/cache")
