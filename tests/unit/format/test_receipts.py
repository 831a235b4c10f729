"""Receipts: a shard is finished when its receipt exists, and only then."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from noisebank.errors import BankDamaged
from noisebank.format.receipts import (
    Failure,
    Receipt,
    find_receipt,
    find_receipts,
    finish,
    inputs_hash,
    list_receipts,
)
from noisebank.format.sealed import seal, unseal
from noisebank.storage import BankWriter, Store, open_store

FAILURE = Failure(5, "webvid-5", "webvid", "a.mp4", "clips", "http_404", "gone", False, 1)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank" if request.param == "local" else f"memory://{tmp_path.name}")


def receipt(store: Store, tmp_path: Path, content: bytes = b"tar") -> Receipt:
    path = tmp_path / content.decode()
    path.write_bytes(content)
    entry = BankWriter(store).file(path, "clips", ".parquet", 2)
    return Receipt("clips", "ab" * 16, "f00d", (entry,), 2, (FAILURE,), {"frames": 16})


def test_a_receipt_survives_the_round_trip(store: Store, tmp_path: Path) -> None:
    assert find_receipt(store, "clips", "ab" * 16) is None
    mine = receipt(store, tmp_path)
    assert finish(store, mine) == mine
    assert find_receipt(store, "clips", "ab" * 16) == mine
    assert list_receipts(store, "clips") == ["ab" * 16]


def test_the_first_of_two_attempts_counts(store: Store, tmp_path: Path) -> None:
    attempts = [receipt(store, tmp_path, b"attempt%d" % i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(lambda attempt: finish(store, attempt), attempts))
    assert all(winner == counted[0] for winner in counted)
    assert counted[0] in attempts
    assert find_receipt(store, "clips", "ab" * 16) == counted[0]


@pytest.mark.parametrize("damage", ["flip", "cut", "swapped", "another type", "file gone", "file cut"])
def test_a_receipt_that_cannot_be_trusted_is_not_one(store: Store, tmp_path: Path, damage: str) -> None:
    mine = finish(store, receipt(store, tmp_path))
    data = store.read(mine.path)
    if damage == "flip":
        store.put(mine.path, data.replace(b'"rows": 2', b'"rows": 3', 1))
    elif damage == "cut":
        store.put(mine.path, data[:-9])
    elif damage == "swapped":
        store.put(mine.path, dataclasses.replace(mine, inputs="cd" * 16).to_bytes())
    elif damage == "another type":
        store.put(mine.path, seal({**unseal(data, mine.path), "rows": "2"}))
    elif damage == "file gone":
        store.delete(mine.files[0].path)
    else:
        store.put(mine.files[0].path, b"ta")
    before = {path: store.read(path) for path in store.list("clips")}
    assert find_receipt(store, "clips", mine.inputs) is None
    assert {path: store.read(path) for path in store.list("clips")} == before, "looking removes nothing"
    again = finish(store, receipt(store, tmp_path, b"again"))
    assert find_receipt(store, "clips", mine.inputs) == again


def test_a_file_of_another_content_counts_until_it_is_read_again(store: Store, tmp_path: Path) -> None:
    mine = finish(store, receipt(store, tmp_path))
    store.put(mine.files[0].path, b"tAr")
    assert find_receipt(store, "clips", mine.inputs) == mine
    assert find_receipt(store, "clips", mine.inputs, verify=True) is None
    again = finish(store, receipt(store, tmp_path, b"again"))
    assert again.files != mine.files, "a receipt of a damaged file does not win"
    assert find_receipt(store, "clips", mine.inputs, verify=True) == again


@pytest.mark.parametrize("damaged", ["receipt", "file"])
def test_of_two_attempts_over_a_damaged_receipt_one_takes_its_place(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    mine = finish(store, receipt(store, tmp_path))
    store.put(mine.path if damaged == "receipt" else mine.files[0].path, b"{}")
    first, second = receipt(store, tmp_path, b"first"), receipt(store, tmp_path, b"second")
    read, counted = store.read, []

    def read_while_another_finishes(key: str) -> bytes:
        data = read(key)
        if not counted:
            counted.append(finish(open_store(store.url), first))
        return data

    monkeypatch.setattr(store, "read", read_while_another_finishes)
    assert finish(store, second) == first == counted[0]
    assert find_receipt(store, "clips", mine.inputs) == first


def test_receipts_that_lack_what_their_stage_needs_count_for_nothing(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = receipt(store, tmp_path)
    records = dataclasses.replace(whole, stage="noise/a", files=(), info={"tar": f"clips/{'0' * 32}.tar"})
    index = dataclasses.replace(whole, stage="index", info={"segment": {}, "replaces": []})
    odd = {
        "names no sidecar": dataclasses.replace(whole, files=()),
        "info.tar: missing": dataclasses.replace(records, info={}),
        "info.tar: 7 is not allowed": dataclasses.replace(records, info={"tar": 7}),
        "'../x' is not the name": dataclasses.replace(records, info={"tar": "../x"}),
        "info.segment.index: missing": index,
        "info.segment: missing": dataclasses.replace(index, info={"replaces": []}),
        "more than 64 bits": dataclasses.replace(whole, failures=(dataclasses.replace(FAILURE, num=1 << 70),)),
        "too large": dataclasses.replace(whole, failures=(dataclasses.replace(FAILURE, attempts=1 << 40),)),
        "surrogates not allowed": dataclasses.replace(whole, failures=(dataclasses.replace(FAILURE, id="\ud800"),)),
    }
    for says, document in odd.items():
        caplog.clear()
        store.put(document.path, document.to_bytes())
        assert find_receipt(store, document.stage, document.inputs) is None
        assert says in caplog.text and document.path in caplog.text
    assert finish(store, records) == records == find_receipt(store, "noise/a", whole.inputs)


def test_stages_below_a_stage_are_their_own(store: Store, tmp_path: Path) -> None:
    mine = receipt(store, tmp_path)
    finish(store, Receipt("noise/a", "cd" * 16, "f", mine.files, 1))
    assert list_receipts(store, "noise/a") == ["cd" * 16]
    assert list_receipts(store, "noise") == []


def test_inputs_hash_depends_on_values_alone() -> None:
    ids, starts = pa.array(["a", "b", "c"]), pa.array([1, None, 3])
    value = inputs_hash("f", ids, starts)
    assert len(value) == 32
    assert value == inputs_hash("f", pa.chunked_array([ids[:1], ids[1:]]), pa.array([0, 1, None, 3])[1:])
    others = [
        inputs_hash("g", ids, starts),
        inputs_hash("f", ids, pa.array([1, 2, 3])),
        inputs_hash("f", pa.array(["a", "bc", ""]), starts),
        inputs_hash("f", ids),
        inputs_hash("f", ids, pa.array([1, None, 3], pa.int16())),
    ]
    assert len({value, *others}) == 6


def test_many_receipts_come_in_order_and_what_they_share_is_held_once(store: Store, tmp_path: Path) -> None:
    mine = receipt(store, tmp_path)
    described = [
        dataclasses.replace(mine, inputs=f"{i:032x}", info={"model": {"levels": [1.0, 2.0]}, "offset": i})
        for i in range(40)
    ]
    for each in described:
        finish(store, each)
    found = list(find_receipts(store, (("clips", each.inputs) for each in reversed(described))))
    assert found == described[::-1]
    assert len({id(each.info["model"]) for each in found}) == 1


@pytest.mark.parametrize("lost", ["the receipt", "its file"])
def test_a_receipt_that_has_disappeared_from_among_many_is_damage(store: Store, tmp_path: Path, lost: str) -> None:
    mine = finish(store, receipt(store, tmp_path))
    store.delete(mine.path if lost == "the receipt" else mine.files[0].path)
    says = f"{mine.path}: a finished shard has disappeared or is damaged; run the build again"
    with pytest.raises(BankDamaged, match=says):
        list(find_receipts(store, [("clips", mine.inputs)]))
