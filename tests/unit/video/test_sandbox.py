"""A file that crashes or hangs the decoder costs its own row, whatever happened before in the same process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from noisebank.errors import NoiseBankError, RowFailure
from noisebank.options import ClipOptions, FetchOptions
from noisebank.video.clips import Clip, ClipRequest, make_clips
from noisebank.video.sandbox import Sandbox, shared_sandbox
from tests.support.media import numbered_video

ROOT = Path(__file__).parents[3]
SUPPORT = ROOT / "tests" / "support"
CLIPS = {"frames": 2, "frame_stride": 1, "size": [32, 32]}


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    made = Sandbox(1, deadline_s=1.0, module="worker_that_misbehaves")
    yield made
    made.close()


def request(path: Path) -> dict[str, Any]:
    return {"path": str(path), "clips": CLIPS, "start_ms": 0, "end_ms": None}


def code(sandbox: Sandbox, name: str, folder: Path) -> tuple[str, bool]:
    with pytest.raises(RowFailure) as caught:
        sandbox.run(request(folder / name))
    return caught.value.code, caught.value.retryable


def test_crashes_and_hangs_cost_their_own_row(sandbox: Sandbox, tmp_path: Path) -> None:
    good = numbered_video(tmp_path / "good.mp4")
    expected = sandbox.run(request(good))
    assert expected[0]["source_width"] == 64
    for name, outcome in {
        "segfault": ("decoder_crashed", False),
        "killed": ("decoder_crashed", True),
        "half": ("decoder_crashed", True),
        "nonsense": ("decoder_crashed", False),
        "exception": ("decoder_crashed", False),
        "spin": ("decoder_hung", False),
        "sleep": ("decoder_hung", False),
        "none.mp4": ("not_video", False),
    }.items():
        assert code(sandbox, name, tmp_path) == outcome
        assert sandbox.run(request(good)) == expected


FACTS = {"fps": 25.0, "source_fps": 25.0, "source_width": 64, "source_height": 48}


@pytest.mark.parametrize(
    "answer",
    [
        ["no", "facts"],
        {"failure": "not_video"},
        {"failure": {"code": "of_my_own", "message": "", "retryable": False}},
        {"failure": {"code": "not_video", "message": ["a"], "retryable": False}},
        {"failure": {"code": "not_video", "message": "", "retryable": "yes"}},
        {"failure": {"code": "not_video", "message": "", "retryable": False, "more": 1}},
        {"x" * (1 << 17): 1},
        {},
        FACTS | {"fps": float("nan")},
        FACTS | {"source_width": "64"},
        FACTS | {"source_height": -1},
        FACTS | {"source_fps": True},
        FACTS | {"id": "another"},
    ],
)
def test_an_answer_that_makes_no_sense_costs_its_row(sandbox: Sandbox, tmp_path: Path, answer: Any) -> None:
    path = tmp_path / "answers.mp4"
    path.write_text(json.dumps(answer))
    good = numbered_video(tmp_path / "good.mp4")
    options = ClipOptions(frames=2, frame_stride=1, size=64)
    wanted = [ClipRequest("x-1", str(path)), ClipRequest("x-2", str(good))]
    (_, failure), (_, clip) = make_clips(wanted, options, FetchOptions(), sandbox=sandbox)
    assert isinstance(failure, RowFailure) and failure.code == "decoder_crashed"
    assert isinstance(clip, Clip) and (clip.frames, clip.height, clip.width) == (2, 64, 64)


def test_the_signal_is_named(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(RowFailure, match="the decoder died of SIGSEGV"):
        sandbox.run(request(tmp_path / "segfault"))


def test_a_crash_of_a_used_process_is_tried_in_a_fresh_one(sandbox: Sandbox, tmp_path: Path) -> None:
    good = numbered_video(tmp_path / "good.mp4")
    expected = sandbox.run(request(good))
    good.rename(tmp_path / "second.mp4")
    assert sandbox.run(request(tmp_path / "second.mp4")) == expected
    assert len([*tmp_path.glob("second.mp4.*")]) == 1


def test_what_a_library_prints_does_not_get_between_the_answers(sandbox: Sandbox, tmp_path: Path) -> None:
    numbered_video(tmp_path / "prints.mp4")
    assert sandbox.run(request(tmp_path / "prints.mp4"))[0]["source_width"] == 64


def test_processes_are_reused_and_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    sandbox = Sandbox(2, module="worker_that_misbehaves")
    with ThreadPoolExecutor(8) as threads:
        pids = [*threads.map(lambda _: sandbox.run(request(tmp_path / "pid"))[0]["pid"], range(40))]
    assert 1 <= len(set(pids)) <= 2
    sandbox.close()
    for pid in set(pids):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_module_that_does_not_start_is_an_error_of_the_job(tmp_path: Path) -> None:
    with pytest.raises(NoiseBankError, match="at its start"):
        Sandbox(1, module="no_such_module_anywhere").run(request(tmp_path / "a"))


def test_the_decoding_process_sees_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    sandbox = Sandbox(1, module="worker_that_misbehaves")
    names = sandbox.run(request(tmp_path / "environment"))[0]["names"]
    sandbox.close()
    assert "PATH" in names
    assert not [name for name in names if "AWS" in name]


def test_the_decoding_process_imports_little() -> None:
    script = (
        "import noisebank.video.worker, noisebank.video.decode, noisebank.video.encode, sys;"
        "print(sorted({'torch', 'apache_beam', 'decord', 'webdataset', 'pyarrow'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_children_end_with_a_parent_that_is_killed_long_before_their_deadline(tmp_path: Path) -> None:
    numbered_video(tmp_path / "good.mp4")
    script = f"""
import os, time
from noisebank.video.sandbox import Sandbox
sandbox = Sandbox(1, module="worker_that_misbehaves")
print(sandbox.run({{"path": {str(tmp_path / "pid")!r}}})[0]["pid"], flush=True)
sandbox.run({{"path": {str(tmp_path / "spin")!r}}}) if {{hang}} else time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": f"{SUPPORT}:{ROOT}"}
    for hang in (False, True):
        command = [sys.executable, "-c", script.replace("{hang}", str(hang))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            while hang and not (tmp_path / "spin").exists():
                time.sleep(0.02)
            parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 20
        while Path(f"/proc/{child}/stat").exists() and time.monotonic() < deadline:
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                break  # ended; whoever adopted it has yet to look
            time.sleep(0.02)
        else:
            assert not Path(f"/proc/{child}/stat").exists()


def test_a_process_whose_parent_went_while_it_started_ends_quietly() -> None:
    ours, theirs = Pipe()
    with theirs:
        command = [sys.executable, "-m", "noisebank.video.worker", str(theirs.fileno()), "1"]
        child = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
    ours.close()
    assert child.communicate() == (None, b"")
    assert child.returncode == 0


def test_one_sandbox_a_process() -> None:
    assert shared_sandbox() is shared_sandbox()
    assert 1 <= shared_sandbox().size <= len(os.sched_getaffinity(0))


def test_a_sandbox_takes_no_more_cores_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert Sandbox().size == 1
