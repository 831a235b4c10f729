"""Lists that are no plain rows: several ranges a row, JSON arrays and documents, tsv."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisebank.errors import ConfigError
from noisebank.sources.json_document import is_document, write_lines
from tests.unit.sources.test_choices import rows_of

RANGES = [["0:00:01.033", "0:00:11.078"], ["0:00:12.000", "0:00:13.500"]]
CAPTIONS = ["a dog, which isn't ours", "a cat"]
SCORES = [0.45, 0.3]
PANDA = {"videoID": "abc", "url": "https://example.org/abc.mp4"}


def write_panda(path: Path, *rows: dict[str, Any]) -> dict[str, Any]:
    """A list with cells that are lists, as its format has them, and a source of it."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return {"kind": "table", "path": str(path), "uri": "url", "caption": "caption", "range": "timestamp"}


def panda(**columns: Any) -> dict[str, Any]:
    return PANDA | {"timestamp": RANGES, "caption": CAPTIONS, "matching_score": SCORES} | columns


@pytest.mark.parametrize("name", ["panda.csv", "json.csv", "panda.jsonl", "panda.parquet"])
def test_a_row_of_ranges_is_one_clip_an_entry(tmp_path: Path, name: str) -> None:
    spelt = json.dumps if name == "json.csv" else (lambda value: value)  # (a csv has lists as Python spells them)
    row = {key: spelt(value) if isinstance(value, list) else value for key, value in panda().items()}
    source = write_panda(tmp_path / name, row)
    rows = rows_of(tmp_path, **source, id="videoID")
    assert [(row["id"], row["start_ms"], row["end_ms"], row["caption"]) for row in rows] == [
        ("table-abc-1033-11078", 1033, 11_078, CAPTIONS[0]),
        ("table-abc-12000-13500", 12_000, 13_500, CAPTIONS[1]),
    ]
    assert {row["uri"] for row in rows} == {PANDA["url"]}
    filtered = rows_of(tmp_path, **source, where={"matching_score": "> 0.43"})
    assert [row["invalid"] for row in filtered] == [None, "filtered: matching_score is 0.3, wanted: > 0.43"]


def test_other_numbers_of_captions_than_of_ranges_cost_their_row_alone(tmp_path: Path) -> None:
    bad = [panda(caption=["one"]), panda(timestamp=[]), panda(timestamp="soon"), panda(timestamp=[["1"]])]
    rows = rows_of(tmp_path, **write_panda(tmp_path / "panda.jsonl", panda(), *bad, panda(videoID="x", url="x.mp4")))
    assert [row["invalid"] for row in rows] == [
        None,
        None,
        "bad_range: 2 ranges and 1 of caption",
        "bad_range: [start, end], or a list of such, is wanted, not '[]'",
        "bad_range: [start, end], or a list of such, is wanted, not 'soon'",
        "bad_range: [start, end], or a list of such, is wanted, not '[[\"1\"]]'",
        None,
        None,
    ]
    assert [row["position"] for row in rows] == [0, 0, 1, 2, 3, 4, 5, 5], "all clips of a row stand in that row"


@pytest.mark.parametrize(
    "cell", ["[[['0','1'],['2','3']]]", "[{'a': 1}, '2']", "['0', ['1', '2']]", "[(1, 2), (3, 4)]"]
)
def test_a_range_of_other_than_two_times_costs_its_row_alone(tmp_path: Path, cell: str) -> None:
    bad, good = (PANDA | {"timestamp": times, "caption": "a dog"} for times in (cell, "['0', '1']"))
    rows = rows_of(tmp_path, **write_panda(tmp_path / "panda.csv", bad, good))
    assert [(row["invalid"] or "").partition(":")[0] for row in rows] == ["bad_range", ""]


def test_a_caption_that_spells_what_is_no_text_costs_its_row_alone(tmp_path: Path) -> None:
    rows = [PANDA | {"timestamp": "[['0', '1']]", "caption": text} for text in (r'["\ud800", "x"]', '["a dog"]')]
    found = rows_of(tmp_path, **write_panda(tmp_path / "panda.csv", *rows))
    assert [row["caption"] for row in found] == [r'["\ud800", "x"]', "a dog"]


def test_one_range_a_row_has_one_caption(tmp_path: Path) -> None:
    row = PANDA | {"timestamp": "['0:00:01', '0:00:02.5']", "caption": "[music] a band"}
    (row,) = rows_of(tmp_path, **write_panda(tmp_path / "koala.csv", row))
    assert (row["start_ms"], row["end_ms"], row["caption"], row["invalid"]) == (1000, 2500, "[music] a band", None)


def test_a_cell_is_never_evaluated(tmp_path: Path) -> None:
    row = PANDA | {"timestamp": "[__import__('os').mkdir('x'), 2]", "caption": "a dog"}
    (row,) = rows_of(tmp_path, **write_panda(tmp_path / "koala.csv", row))
    assert row["invalid"].startswith("bad_range: ")


ROWS = [{"vid": "a", "caption": 'one "[{,'}, {"vid": "b", "caption": "two"}]
SOURCE = {"kind": "table", "uri": "{vid}.mp4", "caption": "caption", "id": "vid"}


@pytest.mark.parametrize("spelt", ["array", "indented", "lines", "one line", "gzip", "list", "members"])
def test_a_json_file_may_be_an_array_a_document_or_lines(tmp_path: Path, spelt: str) -> None:
    path, source = tmp_path / "list.json", SOURCE
    if spelt in ("lines", "one line"):
        path.write_text("\n".join(json.dumps(row) for row in (ROWS if spelt == "lines" else ROWS[:1])))
    elif spelt == "list":
        path.write_text(json.dumps({"info": {"year": 2016}, "videos": ROWS}, indent=1))
    elif spelt == "members":
        path.write_text(json.dumps({row["vid"]: {"caption": row["caption"]} for row in ROWS}))
        source = source | {"uri": "{key}.mp4", "id": "key"}
    else:
        path.write_text(json.dumps(ROWS, indent=2 if spelt == "indented" else None))
    if spelt == "gzip":
        path = tmp_path / "list.json.gz"
        path.write_bytes(gzip.compress((tmp_path / "list.json").read_bytes()))
    rows = rows_of(tmp_path, **source, path=str(path))
    wanted = [("table-a", "a.mp4", 'one "[{,'), ("table-b", "b.mp4", "two")]
    assert [(row["id"], row["uri"], row["caption"]) for row in rows] == wanted[: 1 if spelt == "one line" else 2]


def test_a_bad_element_of_an_array_costs_itself_and_a_cut_one_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(b'[{"vid": "a", "caption": "one"}, 7, {"vid": "\xff", "caption": "x"}, {"vid": "b", "capt')
    rows = rows_of(tmp_path, **SOURCE, path=str(path))
    assert [(row["invalid"] or "").partition(":")[0] for row in rows] == ["", "bad_json", "bad_utf8", "bad_json"]


@pytest.mark.parametrize(
    ("behind", "problem"),
    [
        ('[{"vid": "a", "caption": "one"}]\n[{"vid": "b", "caption": "two"}]\n', None),
        ('[{"vid": "a", "caption": "one"}]\n{"vid": "b", "caption": "two"}', "behind the end of the array: {"),
        ('[{"vid": "a", "caption": "one"},\n', "the array has no end"),
    ],
)
def test_what_follows_an_array_and_an_end_that_it_lacks_are_rows(
    tmp_path: Path, behind: str, problem: str | None
) -> None:
    (tmp_path / "list.json").write_text(behind)
    first, second = rows_of(tmp_path, **SOURCE, path=str(tmp_path / "list.json"))
    assert first["invalid"] is None
    assert (second["invalid"] is None) if problem is None else (problem in second["invalid"])


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "list.json",
            '{"videos": [{"vid": "a", "caption',
            r"nor is it a whole JSON document; it begins with '{\"videos",
        ),
        ("list.json", "[]", "there is no row in it"),
        ("list.json", "", "there is no row in it"),
        ("list.csv", "", "there is no row in it"),
    ],
)
def test_a_list_without_a_row_says_so(tmp_path: Path, name: str, text: str, problem: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"source table: .*{name}: .*{problem}"):
        rows_of(tmp_path, **SOURCE, path=str(tmp_path / name))


def test_an_array_is_read_element_by_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisebank.sources.json_document._CHUNK", 7)
    array = [{"n": 12.50, "text": "ö\n" * 9}, {"n": [1, {"a": None}]}]
    (tmp_path / "list.json").write_text(json.dumps(array, indent=1))
    assert is_document(tmp_path / "list.json")
    write_lines(tmp_path / "list.json", tmp_path / "lines")
    lines = (tmp_path / "lines").read_text().splitlines()
    assert [json.loads(line) for line in lines] == array


MSRVTT = {
    "info": {"contributor": "MSRA"},
    "videos": [{"video_id": "video0", "start time": 137.72, "url": "u"}, {"video_id": "video1", "url": "u"}],
    "sentences": [
        {"caption": "a car", "video_id": "video0", "sen_id": 1},
        {"caption": "a cat", "video_id": "video1", "sen_id": 2},
        {"caption": "a red car", "video_id": "video0", "sen_id": 3},
        {"caption": "nobody", "video_id": "video9", "sen_id": 4},
    ],
}


def test_the_lists_of_a_document_are_joined_by_the_key_that_they_share(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps(MSRVTT))
    write_lines(tmp_path / "list.json", tmp_path / "lines")
    rows = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [(row["video_id"], row["caption"]) for row in rows] == [
        ("video0", ["a car", "a red car"]),
        ("video1", ["a cat"]),
        ("video9", ["nobody"]),
    ]
    assert rows[0]["start time"] == "137.72" and "start time" not in rows[1]


def test_a_document_whose_lists_nothing_joins_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps({"images": [{"id": 1}], "annotations": [{"image_id": 1}]}))
    with pytest.raises(ConfigError, match=r"list\.json: its lists images, annotations share no key"):
        rows_of(tmp_path, **SOURCE, path=str(tmp_path / "list.json"))


def test_a_tsv_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text('vid\tcaption\na\ta dog, "old", barks\nb\t"two\nlines"\nc\tone\ttoo many\nd\t5" screen\n')
    rows = rows_of(tmp_path, **SOURCE, path=str(path))
    captions = ['a dog, "old", barks', "two\nlines", "", '5" screen']
    assert [row["caption"] for row in rows] == captions
    assert [(row["invalid"] or "").partition(":")[0] for row in rows] == ["", "", "ragged_row", ""]
