"""What a source takes of its lists and where it finds the videos: where, uri, root, cut."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisebank.conditions import parse_where
from noisebank.config import config_from_mapping, to_mapping
from noisebank.errors import ConfigError
from noisebank.options import SourceOptions
from noisebank.sources import check_columns, cut_ranges, open_lists, read_range
from noisebank.sources.block import Block
from noisebank.sources.template import add_rendered
from noisebank.sources.where import filter_reasons
from noisebank.storage import open_store
from tests.support.bank import write_csv

INTERNVID = {"YoutubeID": "dQw4w9WgXcQ", "Start_timestamp": "00:00:05.320", "End_timestamp": "00:01:07.500"}


def rows_of(tmp_path: Path, **source: Any) -> list[dict[str, Any]]:
    """The rows of a source."""
    (options,) = config_from_mapping({"sources": [source]}).sources
    rows: list[dict[str, Any]] = []
    for number, file in enumerate(open_lists(options, open_store(tmp_path / "bank"), "plans/spill-test")):
        header = check_columns(file)
        for part in cut_ranges(file, number):
            for table in read_range(file, part, header, 0):
                rows += table.to_pylist()
    return rows


BLOCK = Block(
    pa.table(
        {
            "score": ["0.3", "0.5", "x", None, " 7e-1", "0.50"],
            "lang": ["en", "de", "fr", None, "True", "de "],
            "width": [1, 2, 3, 4, None, 2],
            "tags": [["a", "b"], ["7"], None, [], ["cab"], ["b"]],
        }
    ),
    {5: "ragged_row: nobody knows"},
)
HELD = {
    ("score", ">= 0.5"): [1, 4],
    ("score", "<0.5"): [0],
    ("score", "== 0.5"): [1],
    ("score", "!= 0.5"): [0, 2, 4],
    ("lang", "in [en, 'de']"): [0, 1],
    ("lang", "not in en, de"): [2, 4],
    ("lang", "true"): [4],
    ("lang", "matches ^[df]"): [1, 2],
    ("width", "> 2"): [2, 3],
    ("width", "2"): [1],
    ("tags", "== b"): [0],
    ("tags", "contains a"): [0, 4],
    ("tags", ">= 6.5"): [1],
}
"""Rows that are as wanted, of those that could be read."""


@pytest.mark.parametrize("condition", HELD)
def test_a_condition_holds_for_the_rows_that_are_as_wanted(condition: tuple[str, str]) -> None:
    options = SourceOptions("table", ("-",), where=parse_where(dict([condition])))
    reasons = filter_reasons(BLOCK, options.conditions).to_pylist()
    assert [i for i, reason in enumerate(reasons[:5]) if reason is None] == HELD[condition]
    assert reasons[5] is None, "a row that cannot be read is not the filter's"


def test_the_reason_names_column_value_and_what_is_wanted() -> None:
    options = SourceOptions("table", ("-",), where=parse_where({"width": [">= 2", "< 4"], "lang": "de"}))
    assert filter_reasons(BLOCK, options.conditions).to_pylist() == [
        "width is 1, wanted: >= 2",
        None,
        "lang is fr, wanted: == de",
        "width is 4, wanted: < 4",
        "width is missing, wanted: >= 2",
        None,
    ]


ODD_CONDITIONS = ["=> 3", "= 3", "=< 3", "~ x", "! x", "=== 3", "!== 3", ">= 1_0", ">= ٣", "< nan"]


@pytest.mark.parametrize(
    "where",
    [
        *({"a": condition} for condition in [">= much", "", "matches (", None, {}, [], *ODD_CONDITIONS]),
        "a",
        7,
    ],
)
def test_a_condition_that_makes_no_sense_is_a_configuration_error(where: Any) -> None:
    with pytest.raises(ConfigError, match=r"sources\[0\]\.where: .* is not allowed; wanted: "):
        config_from_mapping({"sources": [{"kind": "webvid", "path": "a.csv", "where": where}]})


def test_conditions_are_the_same_from_a_flag_and_from_a_plan() -> None:
    document = {"sources": [{"kind": "webvid", "path": "a.csv", "where": {"score": ">= 0.4"}, "limit": 7}]}
    config = config_from_mapping(document)
    assert config.sources[0].filter == "where score >= 0.4, limit 7"
    assert config_from_mapping(to_mapping(config)) == config
    del document["sources"][0]["where"]
    assert config_from_mapping(document, {"sources.webvid.where": "score: >= 0.4"}).sources[0].filter == (
        "where score >= 0.4, limit 7"
    )


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_rows_that_a_source_does_not_take_are_filtered(tmp_path: Path, format: str) -> None:
    path, rows = tmp_path / f"flt.{format}", [INTERNVID | {"Caption": "a dog", "UMT_Score": n} for n in (0.39, 0.4)]
    rows.append(INTERNVID | {"Caption": "", "UMT_Score": 0.1})
    if format == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    found = rows_of(tmp_path, kind="internvid", path=str(path), where={"UMT_Score": ">= 0.4"})
    wanted = "wanted: >= 0.4"
    assert [row["invalid"] for row in found] == [
        f"filtered: UMT_Score is 0.39, {wanted}", None, f"filtered: UMT_Score is 0.1, {wanted}"
    ]  # fmt: skip


def test_a_condition_on_a_column_that_a_list_lacks_names_it(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "list.csv", [["1", "u", "PT5S", "d", "c"]])
    with pytest.raises(ConfigError, match=r"list\.csv: column 'score' is missing; found: videoid, "):
        rows_of(tmp_path, kind="webvid", path=str(path), where={"score": ">= 5"})


def write_tar(path: Path, **members: bytes) -> Path:
    """A tar; ``a_mp4`` is the member ``a.mp4``."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_conditions_on_the_json_of_a_tar(tmp_path: Path) -> None:
    infos = {"a": {"score": 5, "ok": True}, "b": {"score": 4.5, "ok": True}, "c": {"ok": True}}
    members = {f"{key}_json": json.dumps({"caption": key, **info}).encode() for key, info in infos.items()}
    members |= {f"{key}_mp4": b"video" for key in infos}
    path = write_tar(tmp_path / "0.tar", **dict(sorted(members.items())))
    rows = rows_of(tmp_path, kind="webdataset", path=str(path), where={"score": ">= 5", "ok": True})
    reasons = ["filtered: score is 4.5, wanted: >= 5", "filtered: score is missing, wanted: >= 5"]
    assert [row["invalid"] for row in rows] == [None, *reasons]


def test_captions_of_a_tar_that_are_a_list_are_captions_of_one_clip(tmp_path: Path) -> None:
    captions = json.dumps({"caption": ["a dog", "an old dog"]}).encode()
    path = write_tar(tmp_path / "0.tar", a_json=captions, a_mp4=b"video", b_mp4=b"video", b_txt=b"a cat")
    first, second = rows_of(tmp_path, kind="webdataset", path=str(path))
    assert (first["caption"], first["captions"]) == ("a dog", ["a dog", "an old dog"])
    assert (second["caption"], second["captions"]) == ("a cat", None)


def test_a_tar_without_a_video_is_an_invalid_row(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", a_jpg=b"picture", b_npy=b"numbers")
    (row,) = rows_of(tmp_path, kind="webdataset", path=str(path))
    assert row["invalid"] == "bad_tar: 0.tar: no member is a video, so there is nothing to take from it"


def test_a_template_of_an_id_tells_the_keys_of_tars_apart(tmp_path: Path) -> None:
    for name in ("00", "01"):
        write_tar(tmp_path / f"{name}.tar", a_mp4=b"video", a_txt=b"a dog")
    rows = rows_of(tmp_path, kind="webdataset", path=str(tmp_path / "*.tar"), id="{tar}_{key}")
    assert [row["id"] for row in rows] == ["webdataset-00_a", "webdataset-01_a"]


def test_a_template_says_where_a_webvid_copy_is_and_ids_stay(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "list.csv", [["7", "https://example.org/7.mp4", "PT5S", "000001_000050", "a dog"]])
    (listed,) = rows_of(tmp_path, kind="webvid", path=str(path))
    (copy,) = rows_of(tmp_path, kind="webvid", path=str(path), uri="{page_dir}/{videoid}.mp4")
    assert copy["uri"] == "000001_000050/7.mp4"
    assert (copy["id"], copy["num"], copy["end_ms"]) == (listed["id"], listed["num"], 5000)


def test_a_template_names_the_clips_that_were_cut_of_internvid(tmp_path: Path) -> None:
    path = tmp_path / "flt.jsonl"
    path.write_text(json.dumps(INTERNVID | {"Caption": "a dog"}) + "\n")
    template = "{YoutubeID}_{Start_timestamp}_{End_timestamp}.mp4"
    (row,) = rows_of(tmp_path, kind="internvid", path=str(path), uri=template, cut=True)
    assert row["uri"] == "dQw4w9WgXcQ_00:00:05.320_00:01:07.500.mp4"
    assert (row["id"], row["start_ms"], row["end_ms"]) == ("internvid-dQw4w9WgXcQ-5320-67500", None, None)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (["../x", "1"], "'folder' leads out of its folder: '../x'"),
        (["/etc", "1"], "'folder' leads out of its folder: '/etc'"),
        ([".", "./1"], "its columns lead out of their folder: '../1.mp4'"),
        (["a..b", "1"], "'folder' leads out of its folder: 'a..b'"),
    ],
)
def test_no_value_of_a_template_leads_out_of_its_folder(tmp_path: Path, row: list[str], problem: str) -> None:
    path = write_csv(tmp_path / "list.csv", [["a", "1", "x"], [*row, "y"]], ["folder", "name", "text"])
    source = {"kind": "table", "path": str(path), "uri": "{folder}{name}.mp4", "caption": "text"}
    good, bad = rows_of(tmp_path, **source)
    assert (good["uri"], good["invalid"]) == ("a1.mp4", None)
    assert bad["invalid"].startswith("bad_uri: ") and bad["invalid"].endswith(problem)


@pytest.mark.parametrize(
    ("template", "values", "problem"),
    [
        ("{a}/{b}.mp4", ("file://x", "1"), "'a' leads out of its folder: 'file://x'"),
        ("{a}{b}", ("http:", "/"), "'b' leads out of its folder: '/'"),
        ("{a}/{b}", ("http:/", "x"), "its columns lead out of their folder: 'http://x'"),
        ("https://example.org/{a}/{b}.mp4", ("x", "%2E%2e"), "'b' leads out of its folder: '%2E%2e'"),
        ("{a}{b}", ("x/.", "%2e/y"), "its columns lead out of their folder: 'x/.%2e/y'"),
        ("https://example.org/{a}/{b}.mp4", ("x", "y"), None),
        ("{a}", ("https://example.org/a.mp4", ""), None),
    ],
)
def test_no_value_of_a_template_is_an_address_elsewhere(
    template: str, values: tuple[str, str], problem: str | None
) -> None:
    bad = add_rendered(Block(pa.table({"a": [values[0]], "b": [values[1]]})), template).bad
    assert (bad == {}) if problem is None else bad[0].endswith(problem)


def test_a_template_with_a_brace_left_over_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "list.csv", [["a", "a dog"]], ["name", "text"])
    with pytest.raises(ConfigError, match=r"template '\{name\}\}\.mp4': a brace stands alone"):
        rows_of(tmp_path, kind="table", path=str(path), uri="{name}}.mp4", caption="text")


def test_no_address_leads_out_of_a_root(tmp_path: Path) -> None:
    addresses = ["a.mp4", "a..b/c.mp4", "https://example.org/../a.mp4", "../a.mp4", "x/../../a.mp4", "/etc/a.mp4"]
    path = write_csv(tmp_path / "list.csv", [[uri, "a dog"] for uri in addresses], ["name", "text"])
    source = {"kind": "table", "path": str(path), "uri": "name", "caption": "text"}
    assert not any(row["invalid"] for row in rows_of(tmp_path, **source))
    reasons = [row["invalid"] for row in rows_of(tmp_path, **source, root=str(tmp_path))]
    assert reasons == [None] * 3 + [f"bad_uri: this leads out of the source's root: {uri!r}" for uri in addresses[3:]]


def test_a_template_is_no_format_string() -> None:
    block = Block(pa.table({"a.__class__": ["x"], "b": ["{a}"]}))
    rendered = add_rendered(block, "{a.__class__}/{b}{}.mp4").table
    assert rendered.column("{a.__class__}/{b}{}.mp4").to_pylist() == ["x/{a}{}.mp4"]


def test_a_row_without_a_value_for_its_template_has_no_address(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "list.csv", [["", "a dog"]], ["name", "text"])
    (row,) = rows_of(tmp_path, kind="table", path=str(path), uri="{name}.mp4", caption="text")
    assert row["invalid"].startswith("missing_uri: ")


def test_a_root_that_is_no_folder_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "list.csv", [["1", "u", "PT5S", "d", "c"]])
    with pytest.raises(ConfigError, match=r"source webvid: root '.*/nowhere': no such folder"):
        rows_of(tmp_path, kind="webvid", path=str(path), root=str(tmp_path / "nowhere"))
