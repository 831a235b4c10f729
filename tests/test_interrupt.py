"""Ctrl-C: a build that is interrupted says so, exits with 130, publishes nothing, and goes on when it is run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e import Project
from tests.servers import VideoServer

ROOT = Path(__file__).parents[1]
PATIENCE_S = 600
SAID = "interrupted; run the same command again to go on from what is finished"


@pytest.mark.parametrize(
    "flags", [[], ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]], ids=["one", "several"]
)
def test_a_build_that_is_interrupted_exits_with_130_and_a_rerun_finishes(
    project: Project, server: VideoServer, flags: list[str]
) -> None:
    project.write_list([*project.rows(1), *project.rows(1, start=1, address=f"{server.url}/hang")])
    project.configure(fetch={"allow_private_hosts": True, "timeout": 30, "retries": 0})
    command = [sys.executable, "-m", "pipelines.cli", "build", "--json", "-c", str(project.config_file), *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as build:
        until = time.monotonic() + PATIENCE_S
        while not server.requests["/hang/v01.mp4"] and build.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(build.pid, signal.SIGINT)  # (as a terminal does)
        out, err = build.communicate(timeout=PATIENCE_S)
    assert build.returncode == 130, err
    assert json.loads(out)["error"] == {"type": "Interrupted", "message": SAID, "exit_code": 130}
    *before, last = err.splitlines()
    assert last == f"noisebank build: {SAID}"
    assert flags or not before  # (Beam's threads say that their workers ended)
    assert not list(project.bank.glob("snapshots/*"))
    server.healthy = True
    assert project.build()["rows"]["in_bank"] == 2
