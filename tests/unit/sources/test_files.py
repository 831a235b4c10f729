"""Every kind of list gives rows of one shape; what cannot be used is marked with its reason."""

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisebank.errors import ConfigError
from noisebank.ids import clip_number, xxh64
from noisebank.options import SourceOptions
from noisebank.sources import check_columns, cut_ranges, expand, open_lists, read_range
from noisebank.sources.files import expand_braces
from noisebank.storage import open_store
from noisebank.video.uris import parse_member
from schemas.rows import LISTED
from tests.support.bank import write_csv


def read(source: SourceOptions, tmp_path: Path, range_bytes: int = 1 << 24) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, file in enumerate(open_lists(source, open_store(tmp_path / "bank"), "plans/spill-test")):
        header = check_columns(file)
        for part in cut_ranges(file, number, range_bytes):
            for table in read_range(file, part, header, 0):
                assert table.schema.equals(LISTED)
                rows += table.to_pylist()
    assert [row["position"] for row in rows] == sorted({row["position"] for row in rows})
    return rows


def webvid(path: object) -> SourceOptions:
    return SourceOptions("webvid", (str(path),))


def reasons(rows: list[dict[str, Any]]) -> list[str | None]:
    return [row["invalid"] and row["invalid"].split(":")[0] for row in rows]


@pytest.mark.parametrize(
    "header",
    [
        ["videoid", "name", "page_idx", "page_dir", "duration", "contentUrl"],
        ["videoid", "contentUrl", "duration", "page_dir", "name"],
    ],
)
def test_webvid_in_both_published_layouts(tmp_path: Path, header: list[str]) -> None:
    values = {
        "videoid": "1023", "name": 'A dog, "running"\non the beach', "page_idx": "3", "page_dir": "x",
        "duration": "PT00H01M05S", "contentUrl": "https://example.org/1023.mp4",
    }  # fmt: skip
    path = write_csv(tmp_path / "list.csv", [[values[name] for name in header]], header)
    (row,) = read(webvid(path), tmp_path)
    assert row["id"] == "webvid-1023-0-65000"
    assert row["num"] == clip_number(row["id"])
    assert (row["uri"], row["start_ms"], row["end_ms"]) == ("https://example.org/1023.mp4", 0, 65_000)
    assert row["caption"] == 'A dog, "running"\non the beach'
    assert row["caption_hash"] == xxh64(row["caption"])
    assert row["video"] == xxh64("https://example.org/1023.mp4\x000\x0065000")
    assert row["source"] == xxh64("webvid") & 0xFFFFFFFF
    assert row["invalid"] is None


def test_webvid_rows_that_cannot_be_used_name_the_value(tmp_path: Path) -> None:
    good = ["1", "https://example.org/1.mp4", "PT00H00M05S", "d", "a caption"]
    edits = {0: "", 1: " ", 2: "5 seconds", 4: "  \t"}
    rows = [good, *([*good[:i], value, *good[i + 1 :]] for i, value in edits.items())]
    rows.append([*good[:2], "PT00H00M00S", *good[3:]])
    found = read(webvid(write_csv(tmp_path / "list.csv", rows)), tmp_path)
    assert reasons(found) == [None, "missing_id", "missing_uri", "bad_duration", "empty_caption", "bad_duration"]
    assert "'5 seconds'" in found[3]["invalid"]
    assert found[4]["id"] == "webvid-1-0-5000"
    unknown = [row["id"] for i, row in enumerate(found) if i in (1, 2, 3, 5)]
    assert len(set(unknown)) == 4 and all(id.startswith("webvid-invalid-") for id in unknown)
    again = read(webvid(tmp_path / "list.csv"), tmp_path, range_bytes=1)
    assert [row["id"] for row in again] == [row["id"] for row in found]


def test_unsafe_video_ids_are_made_safe_and_stay_different(tmp_path: Path) -> None:
    rows = [[video, "u", "PT5S", "d", "c"] for video in ("a.b", "a_b", "a/b")]
    ids = [row["id"] for row in read(webvid(write_csv(tmp_path / "list.csv", rows)), tmp_path)]
    assert len(set(ids)) == 3
    assert not any(set(id) & set("./") for id in ids)


INTERNVID = {
    "YoutubeID": "dQw4w9WgXcQ", "Start_timestamp": "00:00:05.320", "End_timestamp": "00:01:07.500", "Caption": "a dog",
}  # fmt: skip


def internvid_rows() -> list[dict[str, Any]]:
    return [
        INTERNVID | {"Aesthetic_Score": 4.2, "UMT_Score": None},
        INTERNVID | {"Start_timestamp": "0:70:00"},
        INTERNVID | {"End_timestamp": "00:00:05.320"},
        INTERNVID | {"Caption": None, "UMT_Score": 0.3},
        INTERNVID | {"YoutubeID": ""},
        INTERNVID | {"Start_timestamp": None},
    ]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_internvid(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"InternVid.{format}"
    if format == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in internvid_rows()))
    else:
        pq.write_table(pa.Table.from_pylist(internvid_rows()), path, row_group_size=2)
    rows = read(SourceOptions("internvid", (str(path),)), tmp_path)
    assert rows[0]["id"] == "internvid-dQw4w9WgXcQ-5320-67500"
    assert (rows[0]["uri"], rows[0]["start_ms"], rows[0]["end_ms"]) == ("youtube:dQw4w9WgXcQ", 5320, 67_500)
    assert reasons(rows) == [None, "bad_time", "bad_time", "empty_caption", "missing_uri", "bad_time"]
    assert "'0:70:00'" in rows[1]["invalid"]


def test_jsonl_lines_that_are_no_objects_cost_one_row_each(tmp_path: Path) -> None:
    good = json.dumps(INTERNVID)
    path = tmp_path / "list.jsonl"
    lines = [good, "{broken", "[1]", "", good, '{"YoutubeID": {"a": 1}}']
    path.write_bytes("\n".join(lines).encode() + b'\n{"Caption": "\xff"}\n{"Caption": "\\ud83d"}\n')
    rows = read(SourceOptions("internvid", (str(path),)), tmp_path)
    assert reasons(rows) == [None, "bad_json", "bad_json", None, "bad_json", "bad_utf8", "bad_utf8"]


def test_jsonl_whose_first_lines_lack_a_key_or_are_nested_deeply(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    lines = ["[" * 100_000, json.dumps({"YoutubeID": "dQw4w9WgXcQ"}), json.dumps(INTERNVID)]
    path.write_text("\n".join(lines))
    rows = read(SourceOptions("internvid", (str(path),)), tmp_path)
    assert reasons(rows) == ["bad_json", "bad_time", None]


def test_jsonl_does_not_depend_on_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps(INTERNVID | {"Caption": f"line {i} \n é"}) + "\n" for i in range(50)))
    source = SourceOptions("internvid", (str(path),))
    captions = [row["caption"] for row in read(source, tmp_path, range_bytes=10)]
    assert captions == [f"line {i} \n é" for i in range(50)]


TABLE = {"id": "clip", "uri": "path", "caption": "text", "start": "t0", "end": "t1"}


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_tables_by_column_names(tmp_path: Path, format: str) -> None:
    rows = [
        {"clip": "007", "path": "v/a.mp4", "text": "first", "t0": "1.5", "t1": "00:00:04.250"},
        {"clip": "008", "path": "v/a.mp4", "text": "second", "t0": "2", "t1": "x"},
        {"clip": "009", "path": "v/b.mp4", "text": "third", "t0": "", "t1": ""},
    ]
    path = tmp_path / f"list.{format}"
    if format == "csv":
        write_csv(path, [list(row.values()) for row in rows], list(rows[0]))
    elif format == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    found = read(SourceOptions("table", (str(path),), "mine", **TABLE), tmp_path)
    assert [row["id"] for row in found] == ["mine-007", found[1]["id"], "mine-009"]
    assert [(row["start_ms"], row["end_ms"]) for row in found] == [(1500, 4250), (2000, None), (None, None)]
    assert reasons(found) == [None, "bad_time", None]


def test_a_table_without_ids_derives_them_from_uri_and_range(tmp_path: Path) -> None:
    rows = [["a.mp4", "one", 0.0, 2.5], ["a.mp4", "two", 2.5, 5.0], ["b.mp4", "three", None, None]]
    table = pa.table(dict(zip(("uri", "text", "from", "to"), zip(*rows, strict=True), strict=True)))
    pq.write_table(table, tmp_path / "t.parquet")
    source = SourceOptions("table", (str(tmp_path / "t.parquet"),), "t", None, "uri", "text", "from", "to")
    hashed = [f"{xxh64(uri):016x}" for uri in ("a.mp4", "b.mp4")]
    assert [row["id"] for row in read(source, tmp_path)] == [
        f"t-{hashed[0]}-0-2500",
        f"t-{hashed[0]}-2500-5000",
        f"t-{hashed[1]}",
    ]


def test_parquet_with_bad_utf8_costs_one_row(tmp_path: Path) -> None:
    uris = pa.array([b"a.mp4", b"\xff.mp4", b"c.mp4"]).view(pa.string())
    pq.write_table(pa.table({"uri": uris, "text": ["one", "two", "three"]}), tmp_path / "t.parquet")
    source = SourceOptions("table", (str(tmp_path / "t.parquet"),), "t", None, "uri", "text")
    rows = read(source, tmp_path)
    assert reasons(rows) == [None, "bad_utf8", None]


def test_empty_row_groups_of_parquet_hide_no_rows(tmp_path: Path) -> None:
    table = pa.table({"uri": ["a.mp4", "b.mp4"], "text": ["one", "two"]})
    with pq.ParquetWriter(tmp_path / "t.parquet", table.schema) as writer:
        for rows in (table[:0], table[:1], table[:0], table[:0], table[1:]):
            writer.write_table(rows)
    source = SourceOptions("table", (str(tmp_path / "t.parquet"),), "t", None, "uri", "text")
    assert [(row["position"], row["caption"]) for row in read(source, tmp_path)] == [(0, "one"), (1, "two")]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_duration_in_parquet_is_a_time_whatever_its_unit(tmp_path: Path, unit: str) -> None:
    seconds = pa.array([2, None], pa.duration("s")).cast(pa.duration(unit))
    pq.write_table(pa.table({"uri": ["a.mp4", "b.mp4"], "text": ["one", "two"], "t0": seconds}), tmp_path / "t.parquet")
    source = SourceOptions("table", (str(tmp_path / "t.parquet"),), "t", None, "uri", "text", "t0")
    assert [row["start_ms"] for row in read(source, tmp_path)] == [2000, None]


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_webdataset_tars_of_others(tmp_path: Path) -> None:
    path = tmp_path / "00000.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "000001.mp4", b"video one")
        add(tar, "000001.txt", b"a dog")
        add(tar, "000002.json", json.dumps({"caption": "a cat"}).encode())
        add(tar, "000002.mp4", b"video two!")
        add(tar, "000003.mp4", b"video three")
    rows = read(SourceOptions("webdataset", (str(tmp_path / "{00000..00000}.tar"),), "wds"), tmp_path)
    assert [(row["id"], row["caption"]) for row in rows[:2]] == [("wds-000001", "a dog"), ("wds-000002", "a cat")]
    assert reasons(rows) == [None, None, "empty_caption"]
    member = parse_member(rows[1]["uri"])
    assert member is not None and member.tar == "00000.tar"
    assert path.read_bytes()[member.offset : member.offset + member.size] == b"video two!"


def test_a_name_or_caption_in_a_tar_that_is_no_utf8_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "00000.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for key, caption in {"café": b"coffee", "a": b"\xff\xfe", "b": b"a dog"}.items():
            add(tar, f"{key}.mp4", b"video")
            add(tar, f"{key}.txt", caption)
    rows = read(SourceOptions("webdataset", (str(path),)), tmp_path)
    assert reasons(rows) == ["bad_utf8", "bad_utf8", None]
    assert rows[0]["id"].startswith("webdataset-invalid-") and r"b'caf\xe9'" in rows[0]["invalid"]
    assert (rows[1]["id"], rows[1]["caption"]) == ("webdataset-a", "")


def test_a_text_without_a_video_is_an_invalid_row(tmp_path: Path) -> None:
    path = tmp_path / "00000.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("a.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add(tar, "a.txt", b"a dog")
        add(tar, "b.jpg", b"a picture")
    (row,) = read(SourceOptions("webdataset", (str(path),)), tmp_path)
    assert (row["id"], row["uri"], reasons([row])) == ("webdataset-a", "", ["missing_uri"])


def test_a_damaged_tar_is_one_invalid_row(tmp_path: Path) -> None:
    path = tmp_path / "cut.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "a.mp4", b"v" * 2000)
        add(tar, "a.txt", b"a dog")
        add(tar, "b.mp4", b"v" * 5000)
    path.write_bytes(path.read_bytes()[:6000])
    rows = read(SourceOptions("webdataset", (str(path),)), tmp_path)
    assert reasons(rows)[-1] == "bad_tar"
    assert "cut.tar" in rows[-1]["invalid"]


def test_a_tar_member_of_negative_size_ends_the_tar(tmp_path: Path) -> None:
    path = tmp_path / "loop.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        add(tar, "a.mp4", b"video")
        add(tar, "a.txt", b"a dog")
        info = tarfile.TarInfo("é.mp4")
        info.size = -512
        tar.addfile(info)
    rows = read(SourceOptions("webdataset", (str(path),)), tmp_path)
    assert rows[-1]["invalid"] == r"bad_tar: loop.tar: member '\udce9.mp4' of -512 bytes"


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_a_missing_column_names_file_column_and_what_is_there(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"list.{format}"
    if format == "csv":
        path.write_text("path,title\n1,2\n")
    elif format == "jsonl":
        path.write_text('{"path": "1", "title": "2"}\n')
    else:
        pq.write_table(pa.table({"path": ["1"], "title": ["2"]}), path)
    (file,) = open_lists(
        SourceOptions("table", (str(path),), uri="path", caption="text"), open_store(tmp_path), "plans/x"
    )
    with pytest.raises(ConfigError, match=rf"list\.{format}: column 'text' is missing; found: path, title"):
        check_columns(file)


RUBBISH = {
    "broken.parquet": b"rubbish",
    "empty.csv": b"",
    "list.xml": b"<list/>",
    "returns.csv": b"path,text\ra.mp4,a dog\r",
    "list.csv.gz": gzip.compress(b"path,text\n" * 1000)[:20] + b"rubbish" * 9,
}


@pytest.mark.parametrize("name", RUBBISH)
def test_a_file_that_is_no_list_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(RUBBISH[name])
    source = SourceOptions("table", (str(path),), uri="path", caption="text")
    with pytest.raises(ConfigError, match=name):
        check_columns(open_lists(source, open_store(tmp_path / "bank"), "plans/x")[0])


def test_a_webdataset_of_compressed_tars_is_refused(tmp_path: Path) -> None:
    (tmp_path / "000.tar.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(ConfigError, match=r"000\.tar\.gz.*ends in \.tar"):
        open_lists(SourceOptions("webdataset", (str(tmp_path / "*.tar.gz"),)), open_store(tmp_path / "bank"), "plans/x")


def test_a_parquet_column_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": ["a.mp4"], "text": [{"a": "dog"}]}), path)
    with pytest.raises(ConfigError, match=r"list\.parquet.*'text'.*struct<"):
        read(SourceOptions("table", (str(path),), uri="path", caption="text"), tmp_path)


def test_a_bad_time_does_not_change_the_id_of_a_row_that_has_one(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "list.csv", [["7", "a.mp4", "a dog", "1:99", "3"]], list(TABLE.values()))
    (row,) = read(SourceOptions("table", (str(path),), "mine", **TABLE), tmp_path)
    assert (row["id"], reasons([row])) == ("mine-7", ["bad_time"])


def test_missing_files_and_globs_without_a_match_are_named(tmp_path: Path) -> None:
    for pattern in ("nothing.csv", "*.csv", "{000..002}.csv"):
        with pytest.raises(ConfigError, match="webvid") as caught:
            expand(webvid(tmp_path / pattern))
        assert pattern in str(caught.value)


def test_globs_brace_ranges_and_lists_keep_their_order(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "part08.csv", "part09.csv", "part10.csv"):
        (tmp_path / name).touch()
    source = SourceOptions("webvid", (str(tmp_path / "part{08..10}.csv"), str(tmp_path / "[ab].csv")))
    found = [Path(path).name for path in expand(source)]
    assert found == ["part08.csv", "part09.csv", "part10.csv", "a.csv", "b.csv"]
    assert expand_braces("{1..2}{01..02}") == ["101", "102", "201", "202"]


@pytest.mark.parametrize(
    ("pattern", "counted"),
    [("{2..1}", "2 1"), ("{10..08}", "10 09 08"), ("{10..8}", "10 9 8"), ("{8..010}", "008 009 010"), ("{0..0}", "0")],
)
def test_brace_ranges_count_as_bash_does(pattern: str, counted: str) -> None:
    assert expand_braces(pattern) == counted.split()


def test_a_file_whose_name_is_no_utf8_is_named(tmp_path: Path) -> None:
    try:
        (tmp_path / "caf\udce9.csv").touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    with pytest.raises(ConfigError, match=r"caf\\udce9\.csv' is not UTF-8; rename it"):
        expand(webvid(tmp_path / "*.csv"))


def test_one_missing_file_of_a_brace_range_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "part0.csv").touch()
    with pytest.raises(ConfigError, match=r"part1\.csv"):
        expand(webvid(tmp_path / "part{0..1}.csv"))


@pytest.fixture
def list_server(tmp_path: Path) -> Iterator[str]:
    import functools
    import http.server
    import threading

    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_lists_behind_http_and_compressed_ones(tmp_path: Path, list_server: str) -> None:
    path = write_csv(tmp_path / "served" / "list.csv", [["1", "a.mp4", "PT5S", "d", "a dog"]])
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    for address in (f"{list_server}/list.csv", str(tmp_path / "packed.csv.gz")):
        (row,) = read(webvid(address), tmp_path)
        assert (row["id"], row["uri"]) == ("webvid-1-0-5000", "a.mp4")
    with pytest.raises(ConfigError, match=r"missing\.csv"):
        read(webvid(f"{list_server}/missing.csv"), tmp_path)


def test_a_list_from_elsewhere_names_no_files_of_this_machine(tmp_path: Path, list_server: str) -> None:
    uris = ["/etc/passwd", "//host/a.mp4", "a.mp4", "https://example.org/a.mp4", "youtube:dQw4w9WgXcQ"]
    listed = [[str(i), uri, "PT5S", "d", "a dog"] for i, uri in enumerate(uris)]
    path = write_csv(tmp_path / "served" / "list.csv", listed)
    rows = read(webvid(f"{list_server}/list.csv"), tmp_path)
    assert reasons(rows) == ["bad_uri", "bad_uri", None, None, None]
    assert rows[0]["invalid"].endswith("may not name files of this machine: '/etc/passwd'")
    assert reasons(read(webvid(path), tmp_path)) == [None] * 5


@pytest.mark.parametrize("query", ["", "?X-Signature=abc", "?X-Signature=a/b", "?next=/c.csv"])
def test_the_query_of_an_address_is_no_part_of_its_name(tmp_path: Path, list_server: str, query: str) -> None:
    path = write_csv(tmp_path / "served" / "plain.csv", [["1", "a.mp4", "PT5S", "d", "a dog"]])
    (tmp_path / "served" / "packed.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    for name in ("plain.csv", "packed.csv.gz"):
        source = webvid(f"{list_server}/{name}{query}")
        assert [row["id"] for row in read(source, tmp_path)] == ["webvid-1-0-5000"]
        (file,) = open_lists(source, open_store(tmp_path / "bank"), "plans/x")
        assert file.folder == list_server


def test_members_of_a_tar_behind_a_signed_address(tmp_path: Path, list_server: str) -> None:
    with tarfile.open(tmp_path / "served" / "000.tar", "w") as tar:
        add(tar, "a.mp4", b"video")
        add(tar, "a.txt", b"a dog")
    source = SourceOptions("webdataset", (f"{list_server}/000.tar?X-Signature=a/b",))
    (row,) = read(source, tmp_path)
    member = parse_member(f"{list_server}/{row['uri']}")
    assert member is not None
    assert (member.tar, member.name, member.size) == (f"{list_server}/000.tar?X-Signature=a/b", "a.mp4", 5)


@pytest.mark.parametrize("bank", ["memory://compressed-lists", "bank"])
def test_lists_are_copied_to_any_bank(tmp_path: Path, bank: str) -> None:
    path = write_csv(tmp_path / "list.csv", [["1", "a.mp4", "PT5S", "d", "a dog"]])
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    store = open_store(bank if "://" in bank else tmp_path / bank)
    (file,) = open_lists(webvid(packed), store, "plans/spill-test")
    assert file.size == path.stat().st_size
    (part,) = cut_ranges(file, 0)
    (table,) = read_range(pickle.loads(pickle.dumps(file)), part, check_columns(file), 0)
    assert table.column("id").to_pylist() == ["webvid-1-0-5000"]


SEVERAL = [["a dog", "", "a puppy", "a dog", None], ["one alone"], [], None, [" "]]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_cells_that_are_lists_are_several_captions(tmp_path: Path, suffix: str) -> None:
    rows = [{"uri": f"{i}.mp4", "text": texts} for i, texts in enumerate(SEVERAL)]
    path = tmp_path / f"list.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    found = read(SourceOptions("table", (str(path),), uri="uri", caption="text"), tmp_path)
    said = [(row["caption"], row["captions"]) for row in found]
    assert said == [("a dog", ["a dog", "a puppy"]), ("one alone", None), ("", None), ("", None), ("", None)]
    assert reasons(found) == [None, None, *["empty_caption"] * 3]
    assert [row["caption_hash"] for row in found[:2]] == [xxh64("a dog\0a puppy"), xxh64("one alone")]


def test_captions_of_several_columns(tmp_path: Path) -> None:
    rows = [["a.mp4", "a dog", "a brown dog runs"], ["b.mp4", "", "a cat"], ["c.mp4", "", ""]]
    path = write_csv(tmp_path / "list.csv", rows, ["uri", "short", "dense"])
    found = read(SourceOptions("table", (str(path),), uri="uri", caption=("short", "dense")), tmp_path)
    said = [(row["caption"], row["captions"], row["invalid"] and row["invalid"][:13]) for row in found]
    assert said[0] == ("a dog", ["a dog", "a brown dog runs"], None)
    assert said[1:] == [("a cat", None, None), ("", None, "empty_caption")]


def test_a_list_where_one_text_is_wanted_costs_its_row(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    uris = ["a.mp4", ["b.mp4"], ["c.mp4", "d.mp4"], [["e"]]]
    path.write_text("".join(json.dumps({"uri": uri, "text": "a dog"}) + "\n" for uri in uris))
    found = read(SourceOptions("table", (str(path),), uri="uri", caption="text"), tmp_path)
    assert [row["uri"] for row in found[:2]] == ["a.mp4", "b.mp4"]
    assert reasons(found) == [None, None, "bad_list", "bad_json"]
