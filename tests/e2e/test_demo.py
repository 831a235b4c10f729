"""What the demo says of its bank."""

from __future__ import annotations

from noisebank.format.manifest import read_snapshot
from noisebank.storage import open_store
from pipelines.demo import account
from tests.support.projects import Project, Row


def test_the_demo_says_where_every_row_ended(project: Project) -> None:
    good = project.rows(3)
    bad = [Row("gone", "videos/none.mp4", "a video that is not there"), Row("mute", "videos/v00.mp4", "")]
    project.write_list([*good, *bad, good[0]])
    summary = project.build("--max_failed", 0.5)
    lines = account(summary["rows"], read_snapshot(open_store(project.bank)))
    assert lines == [
        "bank: 3 clips of 6 rows in snapshot 1",
        "  failed empty_caption: 1",
        "  failed missing_file: 1",
        "  listed twice: 1",
    ]
    again = project.build("--max_failed", 0.5)
    assert account(again["rows"], read_snapshot(open_store(project.bank))) == lines
