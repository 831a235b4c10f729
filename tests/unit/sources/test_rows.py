"""What a row of a list comes to depends on that row: not on its neighbours, nor on how the file is cut."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noisebank.options import SourceOptions
from noisebank.sources import check_columns, csv_text, cut_ranges, read_range
from noisebank.sources.list_file import ListFile
from noisebank.sources.times import times_ms

SOURCE = SourceOptions("table", ("-",), "t", id="id", uri="uri", caption="text", start="t0", end="t1")
COLUMNS = ["id", "uri", "text", "t0", "t1", "other"]
ORDINARY = ["7", "v/a.mp4", "a dog", "1.5", "00:00:07.000", ""]
TIMES = st.sampled_from(
    [
        "", "7", "1.5", ".5", "5.", "1e1", "1.5E-1", "+5", "-0", "-1", " 5", "00:00:05.320", "1:05", "00:70:00.000",
        "nan", "inf", "0x5", "1000000000", "1000000001", "1" * 400, "9" * 12, "0000000000.0", "x", "\u0663",
    ]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(st.sampled_from('ab 1.,"\n\r\ufeff\0\x85é狗'), max_size=6),
    st.sampled_from(["007", "1.0", "-0", "1e20", "12345678901234567", "\ufeff1", "null", "x" * 140_000]),
)


def rows_of(path: Path, range_bytes: int = 1 << 24) -> list[dict[str, Any]]:
    """The rows of a list but for what says where they stand."""
    file = ListFile(SOURCE, str(path), path.stat().st_size, path.suffix[1:])
    parts = cut_ranges(file, 0, range_bytes)
    tables = [table for part in parts for table in read_range(file, part, check_columns(file), 0)]
    return pa.concat_tables(tables).drop_columns(["position"]).to_pylist() if tables else []


def check_rows(folder: Path, suffix: str, head: bytes, records: list[bytes], range_bytes: int) -> None:
    """Alone, among all others, and among ordinary ones (which are left out), a record gives the same row."""
    path = folder / f"list.{suffix}"

    def read(*records: bytes, range_bytes: int = 1 << 24) -> list[dict[str, Any]]:
        path.write_bytes(head + b"".join(records))
        return [row for row in rows_of(path, range_bytes) if row["id"] != "t-7"]

    alone = [row for record in records for row in read(record)]
    assert read(*records) == alone
    assert read(*records, range_bytes=range_bytes) == alone
    ordinary = record_of(suffix, ORDINARY)
    assert read(*(part for record in records for part in (ordinary, record))) == alone


def record_of(suffix: str, fields: list[Any]) -> bytes:
    if suffix == "jsonl":
        return json.dumps(dict(zip(COLUMNS, fields, strict=True))).encode() + b"\n"
    file = io.StringIO()
    csv.writer(file, lineterminator="\r\n").writerow(fields)
    return file.getvalue().encode()


CSV_RECORDS = st.one_of(
    st.tuples(TEXTS, TEXTS, TEXTS, TIMES, TIMES, TEXTS).map(lambda fields: record_of("csv", [*fields])),
    st.sampled_from(
        [
            b"only,two\n", b"1,a,b,,,\xff\n", b"1,\xff,b,,,x\n", b"1,a\rb,c,,,\n", b"1,a,b,,,x\r2,c,d,,,y\n", b"\n",
            b'1,5" screen,b,,,x\n', b"\xef\xbb\xbf1,a,b,,,x\n", b"1,a,b,1,2,\n", b"1,a,b,,,x\r\r\n", b" \n",
            b"1,a,b,,," + b"x" * 140_000 + b"\n",
        ]
    ),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(CSV_RECORDS, max_size=6), st.integers(1, 200))
@example([record_of("csv", ["1", "a", "b", ".5", "", ""]), record_of("csv", ["2", "a", "b", "00:00:07.0", "", ""])], 1)
@example([b"1,a,b,,,\xff\n", b"only,two\n"], 1)
@example([b"1,a,b,,,x\r2,c,d,,,y\n", b"only,two\n"], 1)
@example([b"\xef\xbb\xbf1,a,b,,,x\n", record_of("csv", ORDINARY)], 1)
@example([b"1,a,b,,," + b"x" * 140_000 + b"\n", b"only,two\n"], 1)
def test_a_csv_row_depends_on_itself(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], range_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("csv", numbered=True)
    check_rows(folder, "csv", record_of("csv", COLUMNS), records, range_bytes)


SCALARS = st.one_of(TEXTS, TIMES, st.none(), st.booleans(), st.integers(), st.floats(), st.just([{"a": 1}]))
JSON_RECORDS = st.one_of(
    st.tuples(SCALARS, SCALARS, SCALARS, SCALARS, SCALARS, SCALARS).map(lambda row: record_of("jsonl", [*row])),
    st.sampled_from(
        [
            b"null\n", b"[1]\n", b"{broken\n", b"\n", b'{"id": "\xff"}\n', b'{"id": "a"} {"id": "b"}\n', b'{"id": 1,\n',
            b'{"id": "a", "other": Inf}\n', b'{"id": "a", "id": "b", "uri": "u"}\n', b'{"uri": "\\ud800"}\n', b"{}\n",
            b'\xef\xbb\xbf{"id": "a", "uri": "u", "text": "x"}\n', b'{"id": 1, "other": ' + b"[" * 100_000 + b"\n",
        ]
    ),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(JSON_RECORDS, max_size=6), st.integers(1, 200))
@example([record_of("jsonl", [1.0, *ORDINARY[1:]]), record_of("jsonl", ["x", *ORDINARY[1:]])], 1)
@example([record_of("jsonl", [1.5, *ORDINARY[1:]]), record_of("jsonl", [12345678901234567, *ORDINARY[1:]])], 1 << 20)
def test_a_json_row_depends_on_itself(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], range_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("jsonl", numbered=True)
    head = record_of("jsonl", ORDINARY)  # (which names the columns)
    check_rows(folder, "jsonl", head, records, range_bytes)


def test_numbers_of_json_are_text_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    written = ["1.0", "2.5", "12345678901234567", "1e20", '"007"', "-0"]
    path.write_text("".join(f'{{"id": {id}, "uri": "u", "text": "x", "t0": 1e1, "t1": 12.5}}\n' for id in written))
    rows = rows_of(path)
    assert [row["invalid"] for row in rows] == [None] * 6
    ids = ["t-1_0-", "t-2_5-", "t-12345678901234567", "t-1e20", "t-007", "t--0"]
    assert all(row["id"].startswith(id) for row, id in zip(rows, ids, strict=True))
    assert {(row["start_ms"], row["end_ms"]) for row in rows} == {(10_000, 12_500)}


@given(st.lists(TIMES, min_size=1, max_size=8))
def test_a_time_depends_on_itself(texts: list[str]) -> None:
    milliseconds, bad = times_ms(pa.array(texts))
    alone = [times_ms(pa.array([text])) for text in texts]
    assert milliseconds.to_pylist() == [value[0].as_py() for value, _ in alone]
    assert bad.tolist() == [bool(is_bad[0]) for _, is_bad in alone]


def test_ordinary_rows_are_read_in_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any) -> None:
        raise AssertionError("row by row")

    monkeypatch.setattr(csv_text, "_parse_rows", refused)
    monkeypatch.setattr("noisebank.sources.times.time_ms", refused)
    rows = [record_of("csv", [str(i), "u", '"a, b"', "1.5", "00:00:07.000", ""]) for i in range(100)]
    block = csv_text.parse(b"".join(rows), COLUMNS, COLUMNS)
    assert block.table.column("id").to_pylist() == [str(i) for i in range(100)]
    for column in ("t0", "t1"):
        assert not times_ms(block.table.column(column).combine_chunks())[1].any()
