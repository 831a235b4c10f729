"""Temporary files go when the last process that may use them is gone, however the processes end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE_S = 60
WORKER = """
import time
from runners.scratch import hold_scratch_folder
hold_scratch_folder()
print("holds it", flush=True)
time.sleep(600)
"""
COMMAND = f"""
import subprocess, sys, tempfile
from runners.scratch import use_scratch_folder
use_scratch_folder()
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}], stdout=subprocess.PIPE)
assert worker.stdout.readline() == b"holds it\\n"
open(tempfile.mkdtemp() + "/file", "w").close()
print(worker.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_the_folder_goes_with_the_last_process(tmp_path: Path, killed: bool) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", COMMAND], env=os.environ | {"TMPDIR": str(tmp_path)}, **pipes) as run:
        assert run.stdout is not None
        worker = int(run.stdout.readline())
        (folder,) = tmp_path.iterdir()
        if killed:
            run.kill()
    assert run.returncode == (-9 if killed else 0)
    assert [file.name for file in folder.rglob("file")] == ["file"], "the worker still uses it"
    os.kill(worker, signal.SIGKILL)
    until = time.monotonic() + PATIENCE_S
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not folder.exists()
