"""A build that is killed at any moment and started again gives the bank that it would have given (a longer run:
``python -m tests.support.kill``)."""

from __future__ import annotations

from tests.support.kill import kill_builds
from tests.support.projects import Project
from tests.support.servers import VideoServer


def test_a_killed_update_goes_on_to_the_same_bank(project: Project, server: VideoServer) -> None:
    done = kill_builds(project, server, kills=4, seed=5)
    assert done.moments.total() == 4 and done.ends >= 1
