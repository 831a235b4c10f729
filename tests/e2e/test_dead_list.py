"""A list whose addresses are dead: a build asks for a part of it, says so, and publishes nothing."""

from __future__ import annotations

from tests.support.projects import Project, Row
from tests.support.servers import VideoServer

ROWS = 3000


def test_a_list_of_forbidden_videos_is_not_asked_for_to_its_end(project: Project) -> None:
    with VideoServer(project.folder / "videos") as server:
        project.write_list(Row(f"clip{i}", f"{server.url}/403/{i}.mp4", f"caption {i}") for i in range(ROWS))
        project.configure(clips={"frames": 4, "frame_stride": 1, "size": 64}, noise=[], max_failed=1)
        stopped = project.run("build")
        asked = server.requests.copy()
        host = server.url.removeprefix("http://")
        assert stopped.exit_code == 1 and not (project.bank / "snapshots").exists()
        assert f"http_403 at {host}" in stopped.document["error"]["message"]
        assert 1024 <= asked.total() <= 1536

        unpublished = project.look("failures", "--unpublished")["failures"]
        assert {failure["code"] for failure in unpublished} == {"http_403"} and len(unpublished) >= 1024

        summary = project.build("--no-early-stop")
        assert set(server.requests.values()) == {1} and server.requests.total() == ROWS, "no video is asked for twice"
        assert summary["rows"]["failed"] == ROWS and summary["failed_by_code"] == {"http_403": ROWS}
