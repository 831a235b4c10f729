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

from pipelines.interrupts import leave_at_interrupt
from tests.support.projects import Project
from tests.support.servers import VideoServer

ROOT = Path(__file__).parents[3]
PATIENCE_S = 600
SAID = "interrupted; run the same command again to go on from what is finished"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes of a test put their temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def wait_until_empty(folder: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while (left := list(folder.iterdir())) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


@pytest.mark.parametrize(
    "flags", [[], ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]], ids=["one", "several"]
)
def test_a_build_that_is_interrupted_exits_with_130_and_a_rerun_finishes(
    project: Project, server: VideoServer, temporary: Path, flags: list[str]
) -> None:
    project.write_list([*project.rows(1), *project.rows(1, start=1, address=f"{server.url}/hang")])
    project.configure(fetch={"allow_private_hosts": True, "timeout": 30, "retries": 0})
    command = [sys.executable, "-m", "pipelines.cli", "build", "--json", "-c", str(project.config_file), *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as build:
        until = time.monotonic() + PATIENCE_S
        while not server.requests["/hang/v01.mp4"] and build.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        in_use = list(temporary.rglob("noisebank-clips-*"))
        os.killpg(build.pid, signal.SIGINT)  # (as a terminal does)
        out, err = build.communicate(timeout=PATIENCE_S)
    assert build.returncode == 130 and in_use, err
    assert json.loads(out)["error"] == {"type": "Interrupted", "message": SAID, "exit_code": 130}
    *before, last = err.splitlines()
    assert last == f"noisebank build: {SAID}"
    assert flags or all(" I " in line for line in before)  # (Beam's threads say that their workers ended)
    assert not list(project.bank.glob("snapshots/*"))
    wait_until_empty(temporary)
    server.healthy = True
    assert project.build()["rows"]["in_bank"] == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_neither_workers_nor_temporary_files_outlive_the_build(
    project: Project, server: VideoServer, temporary: Path, number: signal.Signals
) -> None:
    project.write_list(project.rows(2, address=f"{server.url}/hang"))
    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    project.configure(fetch={"allow_private_hosts": True, "timeout": 600, "retries": 0})
    command = [sys.executable, "-m", "pipelines.cli", "build", "-c", str(project.config_file), *flags]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE) as build:
        while not server.requests["/hang/v00.mp4"]:
            assert build.poll() is None
            time.sleep(0.05)
        build.send_signal(number)  # (to that process alone)
        build.communicate(timeout=60)  # (its stderr ends when the last of them has)
    assert build.returncode == (-9 if number == signal.SIGKILL else 130)
    wait_until_empty(temporary)


@pytest.mark.parametrize(
    "doing",
    [
        "time.sleep(600)",
        """
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        raise RuntimeError("the workers are gone")""",
        """
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        time.sleep(600)""",
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",
    ],
    ids=["waiting", "made another error", "lost", "held up in C"],
)
def test_an_interrupt_ends_the_process_whatever_becomes_of_it(doing: str) -> None:
    program = f"""
import hashlib, os, sys, time
from pipelines.interrupts import leave_at_interrupt

with leave_at_interrupt(lambda: os._exit(130)):
    print("ready", flush=True)
    {doing.strip()}
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(0.2)  # (it is doing it by now)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE_S) == 130


def test_without_an_interrupt_everything_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with leave_at_interrupt(lambda: pytest.fail("nobody interrupted")):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before and signal.set_wakeup_fd(-1) == -1
