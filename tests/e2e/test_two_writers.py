"""Processes that build into one bank at the same moment: the same build twice, and different sources in turns."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from tests.support.kill import run_build
from tests.support.projects import CAPTIONS, Project, Row

CONFLICT = 3


def at_once(files: list[Path]) -> list[int | None]:
    """Exit codes of builds that are started together, each in a process of its own."""
    with ThreadPoolExecutor(len(files)) as pool:
        return [code for code, _ in pool.map(run_build, files)]


def test_the_same_build_started_twice_at_once(project: Project) -> None:
    rows = project.rows(5)
    project.write_list([*rows, Row("gone", "gone.mp4", "a video that is not there"), rows[0]])
    codes = at_once([project.config_file] * 2)
    assert sorted(codes) in ([0, 0], [0, CONFLICT])
    assert project.look("show")["snapshot"] == 1
    again = project.build()
    assert (again["committed"], again["rows"]["in_bank"], again["rows"]["unchanged"]) == (False, 5, 6)
    assert project.failures() == {"mine-gone": "missing_file"}
    for row in rows:
        assert project.search(row.caption) == (f"mine-{row.id}", row.caption)
    assert project.look("verify")["ok"]


def test_two_sources_updated_by_two_processes_in_turns(project: Project) -> None:
    """Each adds a row and changes a caption a turn; whoever loses a race lands on top of the other."""
    files = []
    for name in ("mine", "yours"):
        file = project.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**project.config, "sources": [project.source(name, f"{name}.csv")]}))
        files.append(file)
    for turn in range(1, 3):
        for start, name in ((0, "mine"), (6, "yours")):
            rows = project.rows(turn + 1, start=start)
            project.write_list([rows[0]._replace(caption=f"turn {turn} of {name}"), *rows[1:]], f"{name}.csv")
        assert at_once(files) == [0, 0]
        assert project.look("show")["snapshot"] == 2 * turn
        assert project.look("show")["rows"] == 2 * (turn + 1)
    hits = {hit["id"]: hit["caption"] for hit in project.look("search", "a dog", "-k", 20)["hits"]}
    assert hits == {
        "mine-clip00": "turn 2 of mine",
        "mine-clip01": CAPTIONS[1],
        "mine-clip02": CAPTIONS[2],
        "yours-clip06": "turn 2 of yours",
        "yours-clip07": CAPTIONS[7],
        "yours-clip08": CAPTIONS[8],
    }
    assert project.look("verify")["ok"]
