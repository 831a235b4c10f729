"""Lists of prompts: one shape whatever the format, and a bad row costs itself alone."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisebank.errors import ConfigError
from noisebank.ids import xxh64
from noisebank.prompts import LONGEST_PROMPT, list_bytes, read_prompts, read_usable

PROMPTS = ["a dog, running", 'a "cat"', "ein Hund läuft", "собака бежит"]
ROWS = [{"prompt": prompt, "id": f"p{i}", "image": f"{i}.png"} for i, prompt in enumerate(PROMPTS)]


def write(path: Path) -> Path:
    if path.suffix == ".txt":
        path.write_text("\n".join(PROMPTS), "utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        quoted = ['"' + row["prompt"].replace('"', '""') + '"' for row in ROWS]
        lines = [f"{row['image']},{prompt},{row['id']}" for row, prompt in zip(ROWS, quoted, strict=True)]
        path.write_text("\n".join(["image,prompt,id", *lines]), "utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    table = read_prompts(write(tmp_path / f"prompts{suffix}"), also=("image", "mask"))
    assert table.drop(["invalid", "mask"]).to_pylist() == ROWS
    assert table.column("invalid").null_count == table.column("mask").null_count == len(ROWS)
    assert {field.type for field in table.schema} == {pa.string()}


def test_a_text_file_has_one_prompt_a_line_and_ids_that_follow_from_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffa dog\r\n\r\n  a cat \n\na dog".encode())
    rows = read_prompts(tmp_path / "a.txt").to_pylist()
    assert [row["prompt"] for row in rows] == ["a dog", "  a cat ", "a dog"]
    assert [row["id"] for row in rows] == [f"{xxh64(row['prompt']):016x}" for row in rows]


def test_several_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(f"of {name}\n")
    assert read_prompts(tmp_path / "*.txt").column("prompt").to_pylist() == ["of a.txt", "of b.txt"]


def test_a_bad_row_keeps_its_place_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    lines = [b'{"prompt": "good", "id": 7}', b"{", b'{"id": "mute"}', b'{"prompt": "\xff"}', b'{"prompt": ["x", "y"]}']
    lines.append(json.dumps({"prompt": "x" * (LONGEST_PROMPT + 1)}).encode())
    path.write_bytes(b"\n".join(lines))
    rows = read_prompts(path).to_pylist()
    codes = [row["invalid"] and row["invalid"].partition(":")[0] for row in rows]
    assert codes == [None, "bad_json", "empty_prompt", "bad_utf8", "bad_list", "long_prompt"]
    assert [row["id"] for row in rows[:3:2]] == ["7", "mute"]
    (tmp_path / "bad.txt").write_bytes(b"good\n\xff\xfe\n")
    assert [bool(row["invalid"]) for row in read_prompts(tmp_path / "bad.txt").to_pylist()] == [False, True]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.txt", "\n \n", "there is none in it"),
        ("none.csv", "", "there is none in it"),
        ("none.jsonl", "", "there is none in it"),
        ("header.csv", "prompt,id\n", "there is none in it"),
        ("other.csv", "text,id\na,b\n", "column 'prompt' is missing; found: text, id"),
        ("twice.csv", "prompt,prompt\na,b\n", "is there twice"),
        ("other.jsonl", '{"text": "a"}\n', "column 'prompt' is missing; found: text"),
        ("prompts.md", "a dog", "ends in one of .csv"),
        ("damaged.parquet", "PAR1", "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_one_is_refused(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("path", "said"), [("gone.txt", "no such file"), ("https://example.org/a.txt", "download it first")]
)
def test_a_list_that_is_elsewhere_is_refused(path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_prompts(path)


HOSTILE = ['a dog, "quoted"', "two\nlines", "\ufeffmarked", "a\u2028b", " spaced ", "{json}", "ends in\r", "日本", "x"]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "id": f"p{i}", "image": "/a b.png" if i else ""} for i, prompt in enumerate(HOSTILE)]
    path = tmp_path / "far.jsonl"
    path.write_bytes(list_bytes(path.name, [*rows, rows[0]]))
    assert read_usable(str(path)) == (rows, [])
    lines = [row | {"image": ""} for row in rows if row["prompt"] not in ("two\nlines", "\ufeffmarked", "ends in\r")]
    path = tmp_path / "far.txt"
    path.write_bytes(list_bytes(path.name, lines))
    assert [row["prompt"] for row in read_usable(str(path))[0]] == [row["prompt"] for row in lines]


@pytest.mark.parametrize("prompt", ["two\nlines", "\ufeffmarked", "ends in\r", "of an image"])
def test_what_a_line_cannot_hold_is_refused(prompt: str) -> None:
    row = {"prompt": prompt, "id": "", "image": "a.png" if "image" in prompt else ""}
    with pytest.raises(ConfigError, match=r"far\.txt: a line cannot hold .*; name a \.jsonl"):
        list_bytes("far.txt", [row])
    with pytest.raises(ConfigError, match=r"ends in \.txt or \.jsonl"):
        list_bytes("far.csv", [row])


def test_rows_that_cannot_be_used_are_named_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": " ", "id": "blank"}\n{"prompt": "a", "image": "b/c.png"}\n{\n')
    usable, invalid = read_usable(str(tmp_path / "a.jsonl"))
    assert [(row["prompt"], row["image"]) for row in usable] == [("a", str(tmp_path / "b" / "c.png"))]
    assert [(row["row"], row["code"]) for row in invalid] == [(1, "empty_prompt"), (3, "bad_json")]
    assert invalid[0] | {"message": ""} == {"row": 1, "id": "blank", "code": "empty_prompt", "message": ""}
    (tmp_path / "b.txt").write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match=r"b\.txt: no row can be used; row 1 is bad_utf8"):
        read_usable(str(tmp_path / "b.txt"))
