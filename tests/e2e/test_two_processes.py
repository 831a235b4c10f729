"""Two builds into one bank at once: disjoint ones both land; of two that change the same clips one stops."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.projects import Project
from tests.support.servers import VideoServer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def slow(project: Project, server: VideoServer) -> Iterator[subprocess.Popen[str]]:
    """A build of three clips of source ``mine`` that has made its plan and waits for its first video.

    It goes on when the server is set ``healthy``.
    """
    rows = project.rows(3, address=server.url)
    rows[0] = rows[0]._replace(uri=f"{server.url}/broken/v00.mp4")
    project.write_list(rows)
    file = project.folder / "slow.yaml"
    fetch = {"allow_private_hosts": True, "timeout": 30, "retries": 1000}
    file.write_text(yaml.safe_dump({**project.config, "fetch": fetch}))
    words = [sys.executable, "-m", "pipelines.cli", "build", "--json", "-c", str(file)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as build:
        while not server.requests["/broken/v00.mp4"]:
            assert build.poll() is None, "it ended before it fetched anything"
            time.sleep(0.01)
        yield build
        build.kill()


def ended(build: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """Exit code and document of a build."""
    printed, _ = build.communicate(timeout=600)
    return build.returncode, json.loads(printed)


def test_disjoint_builds_both_land(project: Project, server: VideoServer, slow: subprocess.Popen[str]) -> None:
    project.write_list(project.rows(2, start=6), "yours.csv")
    project.configure(sources=[project.source("yours", "yours.csv")])
    assert project.build()["snapshot"] == 1
    server.healthy = True
    code, summary = ended(slow)
    assert (code, summary["snapshot"], summary["committed"]) == (0, 2, True)
    assert summary["rows"]["in_bank"] == 5
    for row, source in [(project.rows(1)[0], "mine"), (project.rows(1, start=7)[0], "yours")]:
        assert project.search(row.caption) == (f"{source}-{row.id}", row.caption)
    assert project.look("verify")["ok"]


def test_of_two_builds_that_change_the_same_clips_one_stops_and_can_be_run_again(
    project: Project, server: VideoServer, slow: subprocess.Popen[str]
) -> None:
    slow_list = (project.folder / "list.csv").read_text()
    project.write_list(project.rows(2))
    assert project.build()["snapshot"] == 1
    server.healthy = True
    code, document = ended(slow)
    assert code == document["error"]["exit_code"] == 3
    assert document["error"]["type"] == "SnapshotConflict"
    message = document["error"]["message"]
    assert "changes 2 of the same clips" in message and "mine-clip00" in message and "mine-clip01" in message
    assert project.look("show")["snapshot"] == 1

    (project.folder / "list.csv").write_text(slow_list)
    server.requests.clear()
    again = project.build("--max_changed", 1)
    assert (again["snapshot"], again["rows"]["in_bank"], again["rows"]["changed"]) == (2, 3, 2)
    assert not server.requests
