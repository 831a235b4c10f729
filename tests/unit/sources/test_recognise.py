"""What init cannot tell it says; what it leaves out it names."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from noisebank.errors import ConfigError
from noisebank.options import SourceOptions
from noisebank.sources import expand
from noisebank.sources.recognise import recognise
from tests.support.bank import write_csv
from tests.support.projects import noisebank


def test_a_list_of_unknown_columns_names_them(tmp_path: Path) -> None:
    write_csv(tmp_path / "list.csv", [["1", "2"]], ["foo", "bar"])
    with pytest.raises(
        ConfigError, match=r"list\.csv: its columns are of no layout that is known.*: foo, bar; write a"
    ):
        recognise(tmp_path / "list.csv")
    with pytest.raises(ConfigError, match=r"neither videos nor a list of them, nor tars, were found: .*foo, bar"):
        recognise(tmp_path)
    with pytest.raises(ConfigError, match="nowhere: no such file or folder"):
        recognise(tmp_path / "nowhere")


def test_a_list_with_usual_names_of_columns_is_a_table(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", [["x/a.mp4", "a dog"]], ["path", "text"])
    write_csv(tmp_path / "val.csv", [["x/b.mp4", "a cat"]], ["path", "text"])
    found = recognise(tmp_path)
    assert found.source == {"kind": "table", "uri": "path", "caption": "text", "path": str(tmp_path / "train.csv")}
    assert (found.others, found.rows, found.usable, found.videos) == (("val.csv",), 1, 1, 0)


def test_tars_that_count_from_0_each_are_told_apart(tmp_path: Path) -> None:
    for name in ("0", "1"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for member in ("000.mp4", "000.txt"):
                info = tarfile.TarInfo(member)
                info.size = 4
                tar.addfile(info, io.BytesIO(b"text"))
    assert recognise(tmp_path).source == {
        "kind": "webdataset", "path": str(tmp_path / "*.tar"), "id": "{tar}_{key}",
    }  # fmt: skip


def test_tars_and_lists_in_a_folder_whose_name_has_what_a_glob_means(tmp_path: Path) -> None:
    tars, lists = tmp_path / "tars[1]", tmp_path / "lists[1]"
    lists.mkdir()
    tars.mkdir()
    with tarfile.open(tars / "0.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("000.mp4"))
    assert expand(SourceOptions("webdataset", (recognise(tars).source["path"],))) == [str(tars / "0.tar")]
    for name in ("train-00000-of-00002.csv", "train-00001-of-00002.csv"):
        write_csv(lists / name, [["a.mp4", "a dog"]], ["path", "text"])
    (lists / "a.mp4").write_bytes(b"v")
    found = recognise(lists)
    assert (found.rows, found.videos, found.others) == (2, 2, ())


def test_a_configuration_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", [["x/a.mp4", "a dog"]], ["path", "text"])
    (tmp_path / "bank.yaml").write_text("mine")
    ran = noisebank("init", tmp_path, "-o", tmp_path / "bank.yaml")
    assert ran.exit_code == 2 and "exists already" in ran.stderr
    assert (tmp_path / "bank.yaml").read_text() == "mine"
