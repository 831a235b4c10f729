"""Overlay tables against a plain dictionary, locally and remotely, whole and in slices."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisebank.errors import BankDamaged
from noisebank.format import tables
from noisebank.format.tables import OverlayTable, merge, merge_from, write_segment
from noisebank.storage import BankWriter, Store, open_store

SCHEMA = pa.schema([("num", pa.int64()), ("value", pa.int32())])


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank" if request.param == "local" else f"memory://{tmp_path.name}")


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 4)
    monkeypatch.setattr(tables, "_SLICE_BATCHES", 2)


def table(rows: dict[int, int]) -> pa.Table:
    return pa.table({"num": sorted(rows), "value": [rows[num] for num in sorted(rows)]}, SCHEMA)


def as_dict(result: pa.Table) -> dict[int, int]:
    return dict(zip(*(result.column(name).to_pylist() for name in ("num", "value")), strict=True))


@pytest.mark.usefixtures("small_batches")
def test_overlay_equals_a_dictionary(store: Store) -> None:
    rng = np.random.default_rng(0)
    model: dict[int, int] = {}
    entries = []
    for segment in range(4):
        changes = {int(num): segment for num in rng.integers(0, 100, 30)}
        model |= changes
        entry = write_segment(BankWriter(store), "toys", table(changes))
        assert entry is not None and entry.rows == len(changes)
        entries.append(entry)
    overlay = OverlayTable(store, entries)
    assert as_dict(overlay.read()) == model
    for lo in range(0, 100, 7):
        for hi in (lo, lo + 1, lo + 20, None):
            wanted = {n: v for n, v in model.items() if lo <= n and (hi is None or n < hi)}
            found = overlay.slice(lo, hi)
            assert as_dict(found) == wanted
            assert found.column("num").to_pylist() == sorted(wanted)
    pieces = list(overlay.slices())
    assert len(pieces) > 2
    assert as_dict(pa.concat_tables(pieces)) == model
    for num in range(-1, 102):
        assert overlay.find(num) == ((num, model[num]) if num in model else None)


def test_largest_numbers(store: Store) -> None:
    top = 2**63 - 1
    entry = write_segment(BankWriter(store), "toys", table({0: 1, top: 2}))
    overlay = OverlayTable(store, [entry])
    assert as_dict(overlay.slice(1)) == {top: 2}
    assert as_dict(overlay.slice(0, top)) == {0: 1}
    assert as_dict(overlay.slice(0, 2**63)) == {0: 1, top: 2}
    assert overlay.find(top) == (top, 2)


@pytest.mark.usefixtures("small_batches")
def test_segments_of_two_keys_in_parquet(store: Store) -> None:
    def failures(rows: list[tuple[int, str, str]]) -> pa.Table:
        return pa.Table.from_pylist([dict(zip(("num", "stage", "code"), row, strict=True)) for row in rows])

    old = failures([(1, "clips", "a"), (7, "clips", "b"), (7, "noise/m", "c"), *((8, f"s{i}", "d") for i in range(9))])
    new = failures([(7, "noise/m", ""), (8, "s4", "e")])
    entries = [write_segment(BankWriter(store), "toys", part, suffix=".parquet") for part in (old, new)]
    found = OverlayTable(store, entries, key=("num", "stage"))
    assert found.slice(2, 8).to_pylist() == failures([(7, "clips", "b"), (7, "noise/m", "")]).to_pylist()
    assert found.slice(8).column("code").to_pylist() == ["d"] * 4 + ["e"] + ["d"] * 4
    assert found.read().num_rows == 12
    assert pq.read_table(store.open(entries[0].path)).equals(old)


@pytest.mark.usefixtures("small_batches")
def test_a_segment_does_not_depend_on_how_its_rows_came(store: Store) -> None:
    whole = table({num: num % 5 for num in range(50)})
    one = write_segment(BankWriter(store), "toys", whole)
    many = write_segment(BankWriter(store), "toys", (whole.slice(i, 3) for i in range(0, 50, 3)))
    assert one == many
    assert pa.ipc.open_file(store.open(one.path)).num_record_batches == 13


def test_rows_out_of_order_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="sorted"):
        write_segment(BankWriter(store), "toys", [table({5: 1}), table({4: 1})])
    with pytest.raises(ValueError, match="sorted"):
        write_segment(BankWriter(store), "toys", pa.table({"num": [2, 1], "value": [0, 0]}, SCHEMA))
    assert store.list("toys") == []


def test_no_rows_make_no_segment(store: Store) -> None:
    assert write_segment(BankWriter(store), "toys", [SCHEMA.empty_table()]) is None
    assert OverlayTable(store, [], schema=SCHEMA).read().equals(SCHEMA.empty_table())
    with pytest.raises(ValueError, match="nothing to merge"):
        OverlayTable(store, []).read()


def test_damaged_segments_are_named(store: Store) -> None:
    entry = write_segment(BankWriter(store), "toys", table({1: 1, 2: 2}))
    data = store.read(entry.path)
    for damaged in (data[: len(data) // 2], b"", b"x" * len(data)):
        store.put(entry.path, damaged)
        for use in (lambda: OverlayTable(store, [entry]).read(), lambda: OverlayTable(store, [entry]).find(1)):
            with pytest.raises(BankDamaged, match=entry.path):
                use()
    store.delete(entry.path)
    with pytest.raises(BankDamaged, match="missing"):
        OverlayTable(store, [entry]).read()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.dictionaries(st.integers(0, 30), st.integers(0, 9), max_size=8), min_size=1, max_size=5))
def test_merge_is_a_union_of_dictionaries(changes: list[dict[int, int]]) -> None:
    model: dict[int, int] = {}
    for change in changes:
        model |= change
    merged = merge([table(change) for change in changes])
    assert list(as_dict(merged).items()) == sorted(model.items())


def test_segments_stay_few_and_a_row_is_rewritten_rarely() -> None:
    sizes: list[int] = []
    written = 0
    for _ in range(1000):
        sizes.append(10)
        first = merge_from(sizes)
        if first < len(sizes):
            sizes[first:] = [sum(sizes[first:])]
            written += sizes[-1]
        assert len(sizes) <= 10
    assert written <= 10 * 1000 * 11
    assert merge_from([]) == 0
    assert merge_from([5]) == 1
    assert merge_from([1_000_000, 10_000]) == 2, "a small update leaves the large segment alone"
