"""A folder of videos with captions beside them is a source."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from noisebank.errors import ConfigError
from tests.unit.sources.test_choices import rows_of


def write(folder: Path, **files: bytes) -> Path:
    """A folder; ``sub__a_mp4`` is ``sub/a.mp4`` in it."""
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_a_folder_is_listed_with_the_captions_beside_its_videos(tmp_path: Path) -> None:
    info = {"caption": ["a bird", "a red bird"], "score": 7}
    files = {
        "a_mp4": b"v", "a_txt": b"\xef\xbb\xbf a dog\n", "sub__b_webm": b"v", "sub__b_json": json.dumps(info).encode(),
        "c_mp4": b"v", "notes_txt": b"no video", "_hidden_mp4": b"v", "d_mp4": b"v", "d_txt": b"\xff", "e_MP4": b"v",
        "e_json": b"not json", "f_avi": b"v", "f_mp4": b"v", "f_txt": b"twice",
    }  # fmt: skip
    rows = rows_of(tmp_path, kind="folder", path=str(write(tmp_path / "mine", **files)), name="mine")
    found = {row["uri"]: (row["caption"], (row["invalid"] or "").partition(":")[0]) for row in rows}
    assert found == {
        "a.mp4": ("a dog", ""),
        "c.mp4": ("", "empty_caption"),
        "b'd.mp4'": ("", "bad_utf8"),
        "e.MP4": ("", "bad_json"),
        "f.avi": ("twice", ""),
        "f.mp4": ("twice", "same_key"),
        "sub/b.webm": ("a bird", ""),
    }
    by_uri = {row["uri"]: row for row in rows}
    assert by_uri["a.mp4"]["id"] == "mine-a"
    assert by_uri["sub/b.webm"]["captions"] == info["caption"]


def test_linked_folders_are_followed_and_listed_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", a_mp4=b"v", sub__b_mp4=b"v")
    write(tmp_path / "elsewhere", c_mp4=b"v", deep__d_mp4=b"v")
    for link, target in {"all": folder, "away": tmp_path / "elsewhere", "a_sub": folder / "sub"}.items():
        (folder / link).symlink_to(target)
    (tmp_path / "elsewhere/back").symlink_to(tmp_path)
    rows = rows_of(tmp_path / "bank", kind="folder", path=str(folder))
    assert [row["uri"] for row in rows] == ["a.mp4", "away/c.mp4", "away/deep/d.mp4", "sub/b.mp4"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, scandir = write(tmp_path / "mine", a_mp4=b"v", sub__b_mp4=b"v"), os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # (root may read all)
    with pytest.raises(ConfigError, match=r"folder .*/mine/sub: Permission denied"):
        rows_of(tmp_path, kind="folder", path=str(folder))


def test_a_caption_is_a_regular_file_of_a_size(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", a_mp4=b"v", b_mp4=b"v", b_txt=b"x" * ((1 << 20) + 1))
    os.mkfifo(folder / "a.txt")
    rows = rows_of(tmp_path, kind="folder", path=str(folder))
    assert [row["invalid"] for row in rows] == [
        "missing_file: a.txt: not a regular file",
        "too_large: b.txt: more than 1048576 bytes, which is no caption",
    ]


def test_the_name_of_a_folder_may_have_what_a_glob_means(tmp_path: Path) -> None:
    folder = write(tmp_path / "take[1]*?", a_mp4=b"v", a_txt=b"a dog")
    (row,) = rows_of(tmp_path, kind="folder", path=str(folder))
    assert (row["uri"], row["caption"]) == ("a.mp4", "a dog")


def test_conditions_on_the_json_beside_a_video(tmp_path: Path) -> None:
    files = {"a_mp4": b"v", "b_mp4": b"v", "b_json": b'{"caption": "b", "score": 7}'}
    rows = rows_of(tmp_path, kind="folder", path=str(write(tmp_path / "mine", **files)), where={"score": ">= 5"})
    assert [row["invalid"] for row in rows] == ["filtered: score is missing, wanted: >= 5", None]


def test_a_folder_without_videos_or_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"folder .*mine: no video in it"):
        rows_of(tmp_path, kind="folder", path=str(write(tmp_path / "mine", a_txt=b"a dog")))
    with pytest.raises(ConfigError, match=r"source folder: path '.*/nowhere': no such folder"):
        rows_of(tmp_path, kind="folder", path=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"sources\[0\]\.uri: not for a folder; its files say that"):
        rows_of(tmp_path, kind="folder", path=str(tmp_path), uri="x")
