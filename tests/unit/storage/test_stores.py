"""Stores: atomic create, content-named files, names that cannot leave the bank."""

import hashlib
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from noisebank.errors import BankDamaged, ConfigError, NoiseBankError, StoreError, UnsupportedStore
from noisebank.storage import BankWriter, FileEntry, Store, local, open_store
from noisebank.storage.files import data_path, is_intact


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank" if request.param == "local" else f"memory://{tmp_path.name}")


def test_what_is_written_is_read(store: Store, tmp_path: Path) -> None:
    store.put("a/b.bin", b"0123456789")
    source = tmp_path / "source"
    source.write_bytes(b"x" * 3_000_000)
    store.upload(source, "a/c.bin")
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read_range("a/b.bin", 3, 4) == b"3456"
    assert store.read_range("a/b.bin", 8, 100) == b"89"
    assert store.size("a/c.bin") == 3_000_000
    with store.open("a/b.bin") as file:
        file.seek(-3, io.SEEK_END)
        assert (file.read(2), file.tell()) == (b"78", 9)
    assert store.list("a") == ["a/b.bin", "a/c.bin"]
    assert store.list("a/", after="a/b.bin") == ["a/c.bin"]
    assert store.list("nothing") == []
    store.put("a/b.bin", b"new")
    assert store.read("a/b.bin") == b"new"


def test_missing_files(store: Store) -> None:
    for use in (store.read, store.size, store.open, lambda key: store.read_range(key, 0, 1)):
        with pytest.raises(FileNotFoundError):
            use("a/none")
    assert not store.exists("a/none")
    store.delete("a/none")


def test_create_only_if_absent(store: Store) -> None:
    assert store.create("s/1", b"mine")
    assert not store.create("s/1", b"yours")
    assert store.create("s/1", b"mine"), "a repeated create whose first answer was lost is a success"
    assert store.read("s/1") == b"mine"
    store.probe()


def test_a_file_is_replaced_only_as_it_was_seen(store: Store) -> None:
    store.put("s/1", b"damaged")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.replace("s/1", b"damaged", b"%d" % n), range(8)))
    assert won.count(True) == 1
    assert store.read("s/1") == b"%d" % won.index(True)
    with pytest.raises(FileNotFoundError):
        store.replace("s/2", b"", b"new")


def test_one_winner_of_many_threads(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        for i in range(10):
            won = list(pool.map(lambda n, i=i: store.create(f"s/{i}", b"%d" % n), range(20)))
            assert won.count(True) == 1
            assert store.read(f"s/{i}") == b"%d" % won.index(True)
    assert len(store.list("s")) == 10


def _create(url: str, names: int) -> list[bool]:
    store = open_store(url)
    return [store.create(f"s/{i}", str(os.getpid()).encode()) for i in range(names)]


def test_one_winner_of_many_processes(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        won = pool.starmap(_create, [(str(tmp_path), 50)] * 3)
    assert [sum(votes) for votes in zip(*won, strict=True)] == [1] * 50


def test_temporary_files_are_invisible_and_swept(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("a/b", b"x")
    left = tmp_path / "a" / ".b.123.tmp"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    assert store.list("") == ["a/b"]
    assert store.sweep(before=2) == 1
    assert not left.exists()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["b"], "writing leaves no temporary file"


def test_a_folder_goes_with_its_last_file(tmp_path: Path) -> None:
    store = open_store(tmp_path / "bank")
    for key in ("plans/a/plan.json", "plans/a/x.arrow", "plans/b/plan.json", "top"):
        store.put(key, b"")
    store.delete("plans/a/x.arrow")
    assert (tmp_path / "bank/plans/a").is_dir()
    store.delete("plans/a/plan.json")
    assert [path.name for path in (tmp_path / "bank/plans").iterdir()] == ["b"]
    for key in ("plans/b/plan.json", "top", "plans/b/never.json"):
        store.delete(key)
    assert list((tmp_path / "bank").iterdir()) == []


def test_writers_survive_others_who_empty_their_folder(tmp_path: Path) -> None:
    store = open_store(tmp_path / "bank")

    def write_and_delete(writer: int) -> None:
        for i in range(200):
            store.put(f"a/b/{writer}-{i}", b"x")
            assert store.read(f"a/b/{writer}-{i}") == b"x"
            store.delete(f"a/b/{writer}-{i}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_and_delete, range(4)))
    assert list((tmp_path / "bank").iterdir()) == []


def test_writers_survive_others_who_delete_what_they_have_just_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "bank")
    sync_folder, link = local._sync_folder, os.link

    def delete_and_sync(folder: Path) -> None:
        if store.exists("a/b"):
            store.delete("a/b")
        sync_folder(folder)

    def link_in_vain(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        raise FileExistsError(target)  # by the time the writer looks, it is gone

    monkeypatch.setattr(local, "_sync_folder", delete_and_sync)
    store.put("a/b", b"x")
    assert store.create("a/b", b"x")
    assert list((tmp_path / "bank").iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr(os, "link", link_in_vain)
    assert store.create("a/b", b"x")
    assert store.read("a/b") == b"x"


@pytest.mark.parametrize(
    "key", ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".", "a/.hidden", "a\\b", "a b", "a\n"]
)
def test_names_that_could_leave_the_bank_are_refused(store: Store, key: str) -> None:
    with pytest.raises(BankDamaged, match="not the name of a file"):
        store.read(key)
    with pytest.raises(BankDamaged):
        store.put(key, b"")


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"s")
    bank = tmp_path / "bank"
    bank.mkdir()
    (bank / "clips").symlink_to(outside)
    (bank / "link").symlink_to(outside / "secret")
    store = open_store(bank)
    for key in ("clips/secret", "link"):
        with pytest.raises(BankDamaged, match="symbolic link"):
            store.read(key)
    with pytest.raises(BankDamaged, match="symbolic link"):
        store.put("clips/new", b"")
    assert list(outside.iterdir()) == [outside / "secret"]


def test_a_bank_may_itself_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    open_store(tmp_path / "link").put("a", b"1")
    assert (tmp_path / "real" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("url", ["gs://b/a#b", "s3://b/a?x", "ftp://host/x"])
def test_addresses_that_cannot_work(url: str) -> None:
    with pytest.raises(ConfigError, match=url.split(":")[0]):
        open_store(url)


@pytest.mark.parametrize("address", ["", " ", "s3://", "file://"])
def test_no_address_is_not_the_working_directory(address: str) -> None:
    with pytest.raises(ConfigError, match="is empty"):
        open_store(address)


def test_a_file_is_no_bank(tmp_path: Path) -> None:
    file = tmp_path / "bank.yaml"
    file.touch()
    for address in (file, f"file://{file}"):
        with pytest.raises(ConfigError, match=r"bank\.yaml': a file is there, not a folder"):
            open_store(address)


def test_stores_travel_by_address(store: Store) -> None:
    store.put("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"


def test_data_files_are_named_by_their_content(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"hello")
    entry = BankWriter(store).file(path, "noise/m", ".arrow", 3)
    assert entry.path == "noise/m/2cf24dba5fb0a30e26e83b2ac5b9e29e.arrow"
    assert (entry.key, entry.bytes, entry.rows, entry.vacuum) == (0x2CF24DBA5FB0A30E, 5, 3, 0)
    assert store.read(entry.path) == b"hello"
    later = BankWriter(store, vacuum=12).file(path, "noise/m", ".arrow", 3)
    assert later.path == "noise/m/2cf24dba5fb0a30e26e83b2ac5b9e29e-v12.arrow"
    assert (later.key, later.vacuum) == (entry.key, 12)


def test_files_of_a_group_share_a_name_that_all_of_their_content_decides(store: Store, tmp_path: Path) -> None:
    tar, sidecar = tmp_path / "a", tmp_path / "b"
    tar.write_bytes(b"hello")
    sidecar.write_bytes(b"world")
    files = [(tar, ".tar", 3), (sidecar, ".parquet", 4)]
    group = BankWriter(store, vacuum=2).group(files, "clips")
    digests = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in (tar, sidecar))
    name = hashlib.sha256(digests.encode()).hexdigest()[:32]
    assert [entry.path for entry in group] == [f"clips/{name}-v2.tar", f"clips/{name}-v2.parquet"]
    assert [(entry.bytes, entry.rows, store.read(entry.path)) for entry in group] == [
        (5, 3, b"hello"),
        (5, 4, b"world"),
    ]
    assert [entry.sha256 for entry in group] == [digests[:64], digests[64:]]
    sidecar.write_bytes(b"World")
    assert {entry.path for entry in BankWriter(store, vacuum=2).group(files, "clips")}.isdisjoint(
        entry.path for entry in group
    )


def test_small_content_is_stored_as_a_file_would_be(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"hello")
    writer = BankWriter(store, vacuum=3)
    entry = writer.data(memoryview(b"hello"), "index", ".bits", 3)
    assert entry == writer.file(path, "index", ".bits", 3) and store.read(entry.path) == b"hello"
    store.put(entry.path, b"hellO")
    assert writer.data(b"hello", "index", ".bits", 3) == entry and store.read(entry.path) == b"hello"


def test_a_damaged_file_of_the_same_name_is_replaced(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"hello")
    entry = BankWriter(store).file(path, "clips", ".tar", 1)
    store.put(entry.path, b"hellO")
    assert not is_intact(store, entry)
    assert BankWriter(store).file(path, "clips", ".tar", 1) == entry
    assert is_intact(store, entry)


def test_a_foreign_name_is_no_data_file() -> None:
    with pytest.raises(BankDamaged):
        FileEntry("clips/../../x.tar", 1, "", 1)
    with pytest.raises(BankDamaged):
        FileEntry("clips/mine.tar", 1, "", 1)
    assert data_path("clips", "ab" * 32, ".tar") == f"clips/{'ab' * 16}.tar"


def test_a_store_that_ignores_the_condition_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    def put(client: object, key: str, data: bytes, mode: str = "", use_multipart: bool = False) -> None:
        original(client, key, data, use_multipart=use_multipart)

    original = obstore.put
    monkeypatch.setattr(obstore, "put", put)
    with pytest.raises(UnsupportedStore, match="same file"):
        open_store("memory://careless").probe()


def test_a_lost_answer_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore
    from obstore.exceptions import GenericError

    store = open_store("memory://lossy")
    original = obstore.put

    def put_and_lose(*args: object, **options: object) -> None:
        original(*args, **options)
        raise GenericError("timed out")

    monkeypatch.setattr(obstore, "put", put_and_lose)
    assert store.create("s/1", b"mine")
    monkeypatch.setattr(obstore, "put", lambda *a, **k: (_ for _ in ()).throw(GenericError("down")))
    with pytest.raises(StoreError, match="memory://lossy/s/2: down"):
        store.create("s/2", b"mine")


def test_a_forked_child_is_told_instead_of_hanging() -> None:
    store = open_store("memory://forked")
    store.put("a", b"1")
    context = multiprocessing.get_context("fork")
    messages = context.SimpleQueue()

    def use() -> None:
        try:
            store.read("a")
        except NoiseBankError as error:
            messages.put(str(error))

    child = context.Process(target=use)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert "spawn" in messages.get()


def test_local_banks_do_not_need_obstore(tmp_path: Path) -> None:
    program = f"""
import sys
from noisebank.storage import open_store
open_store({str(tmp_path)!r}).put("a", b"1")
assert "obstore" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3])


def test_memory_is_one_tree_a_bucket() -> None:
    open_store("memory://tree/a").put("b/c", b"1")
    assert open_store("memory://tree").read("a/b/c") == b"1"
    assert open_store("memory://tree/a/b").list("") == ["c"]
    assert open_store("memory://tree/a").list("b") == ["b/c"]
