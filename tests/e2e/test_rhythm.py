"""A source may say itself which frames of its videos a clip has; banks of sources that do not are what they were."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from noisebank.config import config_from_mapping, to_mapping
from noisebank.errors import ConfigError
from noisebank.format.shards import read_shard
from noisebank.planning.assemble import ReadRange, scan_lists
from noisebank.planning.listing import rows_digest
from noisebank.planning.survey import Survey
from noisebank.sources.rows import Fields, listed_rows
from noisebank.stages.clips import clip_inputs
from tests.support.projects import Project, done

LOOSE = ["--max_changed", 1]


def rows(rhythm: str = "") -> pa.Table:
    """Two rows of a list, as first tries."""
    texts = (["a", "b"], ["v/a.mp4", "https://example.org/b.mp4"], ["a dog", "a cat"])
    times = (pa.array([None, 1500], pa.int64()), pa.array([None, 7000], pa.int64()))
    listed = listed_rows(Fields(*map(pa.array, texts), *times, ranged=True), "mine", 0, 0, rhythm)
    return listed.append_column("attempt", pa.array([1, 1], pa.int16()))


def test_without_a_rhythm_of_its_own_a_row_is_what_it_was() -> None:
    """Known digests: of rows, of a shard of clips, of a plan."""
    table = rows()
    assert table.column("video").to_pylist() == [10369056983249949189, 6457131804913866263]
    assert clip_inputs("56308d90c4008ddb", table) == "e12e9bd0de98139f50d90ebf93d0ff22"
    config = config_from_mapping({"sources": [{"kind": "webvid", "path": "a.csv"}]})
    assert to_mapping(config)["sources"] == [{"kind": "webvid", "path": ["a.csv"], "name": ""}]
    survey = Survey("", None, "", (), (), ("/lists",), 0, ("clips",), {"clips": "x"}, (), (), ())
    scanned = scan_lists([ReadRange(0, table.num_rows, rows_digest(table))], config, survey)
    assert scanned.hash == "632ace02e8b7f13e462a3ec094602fbd"


def test_a_rhythm_is_part_of_the_row_and_of_its_shard() -> None:
    tables = [rows(), rows("frame_stride=1"), rows("frame_stride=2"), rows("fps=8.0")]
    assert len({table.column("video")[0].as_py() for table in tables}) == 4
    assert len({clip_inputs("f", table) for table in tables}) == 4
    assert all(table.column("num").equals(tables[0].column("num")) for table in tables)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"fps": 8, "frame_stride": 1}, r"sources\[0\].fps: 8.0 and sources\[0\].frame_stride: 1 are both given"),
        ({"frame_stride": 0}, r"sources\[0\].frame_stride: 0 is not allowed; at least 1"),
    ],
)
def test_rhythms_that_are_none(source: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_mapping({"sources": [{"kind": "webvid", "path": "a.csv", **source}]})


def clips(project: Project) -> dict[str, tuple[float, str]]:
    """Frame rate and digest of every clip of the latest snapshot."""
    paths = [project.bank / path for path in project.files() if path.endswith(".tar")]
    found = {sample.id: sample.info for path in paths for sample in read_shard(path)}
    return {id: (info["fps"], info["sha256"]) for id, info in found.items()}


def test_a_rhythm_of_one_source_redoes_its_clips_alone(project: Project) -> None:
    """And when it is taken back, the clips are those of before."""
    listed = project.rows(4)
    project.write_list(listed[:2])
    project.write_list(listed[2:], "other.csv")
    mine, other = project.source("mine", "list.csv"), project.source("other", "other.csv")
    project.configure(sources=[mine, other], clips={**project.config["clips"], "frame_stride": 2})
    project.build()
    first = clips(project)
    assert len({fps for fps, _ in first.values()}) == 1

    project.configure(sources=[mine, {**other, "frame_stride": 1}])
    changed = project.build(*LOOSE)
    assert (changed["rows"]["changed"], changed["rows"]["unchanged"], changed["rows"]["in_bank"]) == (2, 2, 4)
    assert done(changed)["clips"] == 2
    second = clips(project)
    for id, (fps, digest) in second.items():
        assert (fps, digest) == first[id] if id.startswith("mine") else fps == 2 * first[id][0]
    assert not project.build()["committed"]
    ran = project.run("noise", "--sources.other.frame_stride", 2)
    assert (ran.exit_code, "frame_stride=2" in json.dumps(ran.document)) == (2, True)

    project.configure(sources=[mine, other])
    assert project.build(*LOOSE)["rows"]["changed"] == 2
    assert clips(project) == first


def test_clips_that_were_compacted_are_not_taken_for_those_of_another_rhythm(project: Project) -> None:
    """The compacted tar has a receipt too, for the same rows of the list."""
    project.write_list(project.rows(2))
    source, strided = project.source("mine", "list.csv"), {**project.config["clips"], "frame_stride": 2}
    project.configure(sources=[{**source, "frame_stride": 1}], clips={**strided, "maxcount": 1}, max_redone=1)
    project.build()
    before = clips(project)
    assert project.look("compact")["committed"] and clips(project) == before
    project.configure(sources=[source], clips=strided)
    assert done(project.build(*LOOSE))["clips"] == 2
    assert {id: fps for id, (fps, _) in clips(project).items()} == {id: fps / 2 for id, (fps, _) in before.items()}
