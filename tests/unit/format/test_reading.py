"""Tables whose columns are not those of their folder: the file and the column are named, and what mends it."""

from pathlib import Path

import pyarrow as pa
import pytest

from noisebank.errors import BankDamaged
from noisebank.format.reading import read_table, verified_table
from noisebank.format.schemas import CLIPS, RECORDS, ROWS
from noisebank.format.tables import OverlayTable, write_segment
from noisebank.storage import BankWriter, FileEntry, Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


def damage(schema: pa.Schema, column: str, how: str) -> pa.Table:
    """A table of one row with a column of another name, or of another type."""
    row = {"num": 1}
    table = pa.Table.from_pylist([row], schema)
    at = schema.get_field_index(column)
    if how == "name":
        return table.rename_columns([name if name != column else f"{name[:-1]}~" for name in schema.names])
    return table.set_column(at, column, pa.array([1.5]))


def write(store: Store, table: pa.Table, folder: str, suffix: str) -> FileEntry:
    entry = write_segment(BankWriter(store), folder, table, suffix)
    assert entry is not None
    return entry


@pytest.mark.parametrize("how", ["name", "type"])
def test_a_damaged_column_is_named(store: Store, how: str) -> None:
    sidecar = write(store, damage(CLIPS, "caption_hash", how), "clips", ".parquet")
    rows = write(store, damage(ROWS, "clip_file", how), "rows", ".arrow")
    records = write(store, damage(RECORDS, "checksum", how), "records/toy", ".arrow")
    for entry, column, reads in (
        (sidecar, "caption_hash", [lambda e: verified_table(store, e), lambda e: read_table(store, e.path)]),
        (sidecar, "caption_hash", [lambda e: verified_table(store, e, ["num", "caption_hash"])]),
        (rows, "clip_file", [lambda e: OverlayTable(store, [e]).read(), lambda e: read_table(store, e.path)]),
        (records, "checksum", [lambda e: OverlayTable(store, [e]).find(1), lambda e: OverlayTable(store, [e]).read()]),
    ):
        for read in reads:
            with pytest.raises(BankDamaged, match=f"{entry.path}: column '{column}' is missing.*; run verify"):
                read(entry)
    assert read_table(store, sidecar.path, ["num", "caption"]).column_names == ["num", "caption"]


def test_files_of_a_plan_are_planned_anew(store: Store) -> None:
    entry = write(store, damage(ROWS, "clip_file", "name"), "plans/abc", ".arrow")
    with pytest.raises(BankDamaged, match=r"'clip_file' .*; run the build again, which plans anew"):
        OverlayTable(store, [entry], schema=ROWS).read()
    store.delete(entry.path)
    with pytest.raises(BankDamaged, match="missing; run the build again, which plans anew"):
        read_table(store, entry.path)
