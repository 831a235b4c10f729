"""CSV ranges hold whole records wherever they are cut, and one bad row costs one row."""

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noisebank.sources.block import whole_records
from noisebank.sources.csv_text import last_record_end, parse, quotes_of, read_header, record_ends

HEADER = ["a", "b", "c"]
TEXT = st.text(st.sampled_from('ab ,"\n\ré狗'), max_size=12)


def encoded(rows: list[list[str]], terminator: str) -> bytes:
    file = io.StringIO()
    quoting = csv.QUOTE_ALL if terminator == "\n" else csv.QUOTE_MINIMAL  # (with \n alone the writer leaves \r bare)
    csv.writer(file, lineterminator=terminator, quoting=quoting).writerows(rows)
    return file.getvalue().encode()


def read_all(data: bytes, range_bytes: int) -> tuple[list[list[str]], dict[int, str]]:
    rows, bad = [], {}
    file = io.BytesIO(data)
    _, start = read_header(file)
    covered = start
    for offset, length in whole_records(file, start, range_bytes, last_record_end):
        assert offset == covered
        covered += length
        block = parse(data[offset : offset + length], HEADER, HEADER)
        bad |= {len(rows) + i: reason for i, reason in block.bad.items()}
        rows += [list(row.values()) for row in block.table.to_pylist()]
    assert covered == len(data)
    return rows, bad


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=12), st.integers(1, 60), st.sampled_from(["\n", "\r\n"]))
@example([('"', "\n", '""'), ("", "x", '\n"\n')], 1, "\n")
@example([("a\nb", '"', ",")] * 3, 7, "\r\n")
def test_any_cut_gives_the_rows_that_were_written(rows: list[tuple[str, str, str]], range_bytes: int, end: str) -> None:
    wanted = [list(row) for row in rows]
    found, bad = read_all(encoded([HEADER, *wanted], end), range_bytes)
    assert bad == {}
    assert found == wanted


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('ab,"\n'), max_size=60), st.integers(1, 30))
def test_rows_do_not_depend_on_the_cut_even_where_quotes_are_stray(text: str, range_bytes: int) -> None:
    data = b"a,b,c\n" + text.encode()
    assert read_all(data, range_bytes) == read_all(data, 1 << 20)


def test_a_range_never_ends_inside_a_quoted_caption_with_newlines() -> None:
    data = b'1,"one\ntwo",x\n2,"a\n\n\nb",y\n'
    cut = [last_record_end(data[:n]) for n in range(len(data) + 1)]
    assert set(cut) == {0, 14, len(data)}
    assert record_ends(data, final=True) == [14, len(data)]


def test_a_stray_opening_quote_costs_its_row_and_no_other() -> None:
    data = b'a,b,c\n1,fine,x\n2,"never closed,x\n3,"closed, well",x\n4,5" screen,x\n'
    found, bad = read_all(data, 1 << 20)
    assert found == [["1", "fine", "x"], [None] * 3, ["3", "closed, well", "x"], ["4", '5" screen', "x"]]
    assert list(bad) == [1]
    assert bad[1].startswith("ragged_row: 2 fields where the header has 3") and "never closed" in bad[1]


def test_bad_utf8_and_ragged_rows_cost_one_row_each() -> None:
    good = b"".join(b"%d,caption,x\n" % i for i in range(10_000))
    data = b"a,b,c\n" + good + b"x,\xff\xfe,x\n" + b"only,two\n" + good + b"1,2,3,4\n"
    found, bad = read_all(data, 1 << 20)
    assert len(found) == 20_003
    assert {i: reason.split(":")[0] for i, reason in bad.items()} == {
        10_000: "bad_utf8",
        10_001: "ragged_row",
        20_002: "ragged_row",
    }
    assert found[9_999] == ["9999", "caption", "x"] and found[10_002] == ["0", "caption", "x"]


def test_a_long_record_that_does_not_parse_costs_one_row() -> None:
    data = b"a,b,c\n1,2,3\n" + b"x" * 100_000 + b",\xff,x\n4,5,6\n"
    found, bad = read_all(data, 1 << 20)
    assert (found[0], found[2], list(bad)) == (["1", "2", "3"], ["4", "5", "6"], [1])


def test_empty_lines_are_no_rows_and_an_open_end_is() -> None:
    found, bad = read_all(b"a,b,c\n\n1,2,3\n\n\n4,5,6", 4)
    assert (found, bad) == ([["1", "2", "3"], ["4", "5", "6"]], {})


def test_numbers_stay_text() -> None:
    assert read_all(b"a,b,c\n007,1e5,\n", 100)[0] == [["007", "1e5", ""]]


def test_a_byte_order_mark_is_no_part_of_the_first_column() -> None:
    assert read_header(io.BytesIO(b'\xef\xbb\xbf"a","b c",d\n1,2,3\n')) == (["a", "b c", "d"], 15)


@pytest.mark.parametrize(("data", "regular"), [(b'1,"a""b",2\n', True), (b'1,5" x,2\n', False), (b"", True)])
def test_regular_quotes(data: bytes, regular: bool) -> None:
    assert quotes_of(data, final=True).regular is regular
