"""Columns of videos in Parquet, as Hugging Face datasets writes them: bytes in the file, or paths beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisebank.errors import RowFailure
from noisebank.options import FetchOptions
from noisebank.video.cells import parse_cell
from noisebank.video.fetch import fetch
from tests.unit.sources.test_choices import rows_of

VIDEO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, *videos: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
    """A file of videos, two rows a row group, and a source of it."""
    captions = [f"caption {i}" for i in range(len(videos))]
    table = pa.table({"video": pa.array(videos, VIDEO), "caption": captions})
    pq.write_table(table, path, row_group_size=2, **options)
    return {"kind": "table", "path": str(path), "uri": "video", "caption": "caption"}


@pytest.mark.parametrize("options", [{}, {"write_statistics": False}])
def test_videos_are_the_bytes_of_their_cells_or_where_their_paths_say(tmp_path: Path, options: dict[str, Any]) -> None:
    videos = [{"bytes": b"video %d" % i, "path": f"v{i}.mp4"} for i in range(3)]
    videos += [{"bytes": None, "path": "beside.mp4"}, {"bytes": None, "path": "b.mp4"}, {"bytes": None, "path": None}]
    path = tmp_path / "0.parquet"
    rows = rows_of(tmp_path, **write(path, *videos, None, **options))
    assert [row["uri"] for row in rows[3:]] == ["beside.mp4", "b.mp4", "", ""]
    assert [(row["invalid"] or "").partition(":")[0] for row in rows] == [""] * 5 + ["missing_uri"] * 2
    for number, row in enumerate(rows[:3]):
        assert row["uri"] == f"0.parquet#video@{number}+{path.stat().st_size}"
        fetched = fetch(f"{tmp_path}/{row['uri']}", tmp_path / "fetched", FetchOptions())
        assert fetched.path.read_bytes() == b"video %d" % number


def test_a_file_that_was_rewritten_or_is_gone_gives_no_other_video(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", {"bytes": b"one", "path": None})
    size = (tmp_path / "0.parquet").stat().st_size
    for uri, problem in {
        f"0.parquet#video@0+{size + 1}": "it was rewritten",
        f"1.parquet#video@0+{size}": "No such file",
        f"0.parquet#video@7+{size}": "no bytes in it",
        f"0.parquet#nope@0+{size}": "no such column of videos",
        f"0.parquet#caption@0+{size}": "no such column of videos",
    }.items():
        with pytest.raises(RowFailure, match=rf"missing_file.*#[a-z]+, row [18]: .*{problem}"):
            fetch(f"{tmp_path}/{uri}", tmp_path / "fetched", FetchOptions())


def test_cells_are_taken_where_their_source_has_a_root(tmp_path: Path) -> None:
    source = write(tmp_path / "0.parquet", {"bytes": b"one", "path": None}, {"bytes": None, "path": "/etc/a.mp4"})
    (tmp_path / "root").mkdir()
    cell, elsewhere = rows_of(tmp_path, **source, root=str(tmp_path / "root"))
    assert cell["invalid"] is None and cell["uri"].startswith(f"{tmp_path}/0.parquet#video@0+")
    assert elsewhere["invalid"].startswith("bad_uri: this leads out of ")


def test_a_cell_above_the_limit_is_not_written(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", {"bytes": b"v" * 9, "path": None})
    uri = f"{tmp_path}/0.parquet#video@0+{(tmp_path / '0.parquet').stat().st_size}"
    with pytest.raises(RowFailure, match=r"too_large: .*0\.parquet#video, row 1: 9 bytes, fetch\.max_bytes is 8"):
        fetch(uri, tmp_path / "fetched", FetchOptions(max_bytes=8))
    assert not (tmp_path / "fetched").exists()


def test_the_address_of_a_cell_is_read_back() -> None:
    cell = parse_cell("gs://b/a#x.parquet#my video@3@7+9")
    assert cell is not None
    assert (cell.file, cell.column, cell.row, cell.size) == ("gs://b/a#x.parquet", "my video@3", 7, 9)
    assert parse_cell("a.parquet") is parse_cell("a.mp4#video@1+2") is None
