"""Shards: equal samples give equal bytes, webdataset reads them, and tars of others are understood."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import webdataset

from noisebank.errors import BankDamaged, RowFailure
from noisebank.format.shards import ForeignSample, ShardSample, read_foreign_shard, read_shard, write_shard

SAMPLES = [
    ShardSample(
        "webvid-1-0-5000", b"mp4 one", "a dog, “running”\non the beach", {"id": "webvid-1-0-5000", "fps": 3.125}
    ),
    ShardSample("x-" + "v" * 150, b"", "", {"uri": "a b.mp4", "start_ms": None}),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "a.tar", iter(SAMPLES)) == 2
    assert [*read_shard(tmp_path / "a.tar")] == SAMPLES


def test_equal_samples_give_equal_bytes_and_other_ones_do_not(tmp_path: Path) -> None:
    shuffled = [ShardSample(s.id, s.mp4, s.caption, dict(reversed(s.info.items()))) for s in SAMPLES]
    for name, samples in {"a": SAMPLES, "b": shuffled, "c": SAMPLES[::-1]}.items():
        write_shard(tmp_path / name, samples)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()
    with tarfile.open(tmp_path / "a") as tar:
        facts = {(m.mtime, m.mode, m.uid, m.gid, m.uname, m.gname) for m in tar}
        assert facts == {(0, 0o444, 0, 0, "", "")}
        assert [m.name.partition(".")[2] for m in tar] == ["json", "mp4", "txt"] * 2


def test_webdataset_reads_it(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    read = [*webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)]
    assert [(s["__key__"], s["mp4"], s["txt"].decode(), json.loads(s["json"])) for s in read] == [
        (s.id, s.mp4, s.caption, s.info) for s in SAMPLES
    ]


@pytest.mark.parametrize("id", ["", "a.b", "../a", "/etc/passwd"])
def test_ids_that_would_not_come_back_are_refused(tmp_path: Path, id: str) -> None:
    with pytest.raises(ValueError, match="dot or a slash"):
        write_shard(tmp_path / "a.tar", [ShardSample(id, b"", "")])


def test_an_id_may_not_come_twice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="repeated"):
        write_shard(tmp_path / "a.tar", [SAMPLES[0], SAMPLES[0]])


def test_a_damaged_shard_is_told(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    data = (tmp_path / "a.tar").read_bytes()
    for name, broken in {
        "cut": data[:600],
        "no tar": b"x" * 2048,
        "flipped header": data[:10] + b"\xff" + data[11:],
        "no caption": data[: data.index(b"webvid-1-0-5000.txt")] + bytes(1024),
    }.items():
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(BankDamaged, match="noisebank verify"):
            list(read_shard(tmp_path / name))


def test_a_missing_shard_is_damage(tmp_path: Path) -> None:
    with pytest.raises(BankDamaged, match=r"a\.tar: missing; run verify"):
        list(read_shard(tmp_path / "a.tar"))


def foreign(members: dict[str, bytes], **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        tar.addfile(_symlink("evil.mp4", "/etc/passwd"))
    buffer.seek(0)
    return buffer


def _symlink(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def test_tars_of_others() -> None:
    file = foreign(
        {
            "000/clip.one.mp4": b"video 1",
            "000/clip.txt": b" a cat\n",
            "000/clip.json": b'{"caption": "not this", "n": 1}',
            "b.json": b'{"text": "a bird"}',
            "b.webm": b"video 2",
            "c.mp4": b"video 3",
            "c.json": b"not json",
            "d.txt": b"no video",
            "e.MP4": b"video 5",
            "e.json": b'{"caption": 7, "text": "five"}',
        }
    )
    samples = [*read_foreign_shard(file)]
    assert [(s.key, s.caption, s.invalid) for s in samples] == [
        ("000/clip", "a cat", ""),
        ("b", "a bird", ""),
        ("c", "", "bad_json: c.json: Expecting value: line 1 column 1 (char 0)"),
        ("d", "no video", ""),
        ("e", "five", ""),
    ]
    data = file.getvalue()
    assert [data[s.offset : s.offset + s.size] for s in samples] == [
        b"video 1",
        b"video 2",
        b"video 3",
        b"",
        b"video 5",
    ]
    assert [s.name for s in samples] == ["000/clip.one.mp4", "b.webm", "c.mp4", "", "e.MP4"]


def test_every_member_with_the_ending_of_a_video_is_a_sample() -> None:
    members = ("a.video", "a.txt", "b.webm", "b.mp4", "b.txt", "c.left.mp4", "c.right.mp4", "c.v1.json", "d.mp4.txt")
    samples = [*read_foreign_shard(foreign(dict.fromkeys(members, b"text")))]
    assert [(s.key, s.name, s.caption) for s in samples] == [
        ("a", "a.video", "text"),
        ("b", "b.mp4", "text"),
        ("b.webm", "b.webm", "text"),
        ("c", "c.left.mp4", ""),
        ("c.right", "c.right.mp4", ""),
    ]


def test_a_caption_of_txt_beats_that_of_json() -> None:
    file = foreign({"a/x.mp4": b"v", "a/x.txt": "größe\n".encode(), "a/x.json": b'{"caption": "other"}'})
    (sample,) = read_foreign_shard(file)
    assert sample == ForeignSample("a/x", "a/x.mp4", 512, 1, "größe")


def test_captions_that_are_lists_are_several_and_a_json_that_tells_nothing_is_named() -> None:
    jsons = {
        "a": b'{"caption": ["a dog", " an old dog"]}',
        "b": b"[1]",
        "c": b'{"text": [{"en": "x"}]}',
        "d": b'{"n": 1}',
    }
    jsons["e"] = b" " * (1 << 20) + b"{}"
    file = foreign({name: data for key in jsons for name, data in ((f"{key}.mp4", b"v"), (f"{key}.json", jsons[key]))})
    assert [(s.caption, s.invalid) for s in read_foreign_shard(file)] == [
        (["a dog", "an old dog"], ""),
        ("", "bad_json: b.json: an object is wanted"),
        ("", "bad_json: c.json: a list of texts is wanted as caption"),
        ("", ""),
        ("", "too_large: e.json has 1048578 bytes, at most 1048576 are read"),
    ]


def test_names_and_captions_that_are_no_utf8_cost_their_sample() -> None:
    members = {
        "é.mp4": b"v", "é.txt": b"latin-1", "a.mp4": b"v", "a.txt": b"\xff\xfe", "b.mp4": b"v", "b.txt": b"good",
        "b.json": b"\xff", "c.mp4": b"v", "c.json": b'{"caption": "\\ud83d"}', "d.mp4": b"v", "d.json": b'"\xe9"',
    }  # fmt: skip
    latin1 = foreign(members, format=tarfile.GNU_FORMAT, encoding="latin-1")
    assert [(s.key, s.name, s.caption, s.invalid) for s in read_foreign_shard(latin1)] == [
        ("", "", "", r"bad_utf8: unexpected end of data in the name b'\xe9'"),
        ("a", "a.mp4", "", "bad_utf8: invalid start byte in the caption of 'a'"),
        ("b", "b.mp4", "good", ""),
        ("c", "c.mp4", "", "bad_utf8: surrogates not allowed in the caption of 'c'"),
        ("d", "d.mp4", "", "bad_utf8: invalid continuation byte in the caption of 'd'"),
    ]


@pytest.mark.parametrize("key", ["GNU.sparse.map", "GNU.sparse.size"])
def test_a_header_that_tarfile_chokes_on_ends_the_tar(key: str) -> None:
    file = foreign({"a.mp4": b"v" * 600, "b.txt": b"a dog"})
    odd = tarfile.TarInfo("c.mp4")
    odd.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "5"} | {key: "0,x"}
    with tarfile.open(fileobj=file, mode="a", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(odd)
    file.seek(0)
    reading = read_foreign_shard(file, "x.tar")
    assert next(reading).key == "a"
    with pytest.raises(RowFailure, match=r"bad_tar: x\.tar: invalid literal"):
        list(reading)


def test_what_is_no_tar_is_told_after_what_could_be_read() -> None:
    with pytest.raises(RowFailure, match=r"bad_tar: x\.tar"):
        list(read_foreign_shard(io.BytesIO(b"no tar" * 1000), "x.tar"))
    whole = foreign({"a.mp4": b"v" * 600, "b.mp4": b"w" * 600}).getvalue()
    reading = read_foreign_shard(io.BytesIO(whole[: 512 + 1024 + 512 + 100]))
    assert next(reading).key == "a"
    with pytest.raises(RowFailure):
        list(reading)
