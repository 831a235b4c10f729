"""A worker process of the local engine that is killed fails the job, whatever it was at."""

from __future__ import annotations

import os
import signal

import apache_beam as beam
import pytest

from noisebank.errors import JobFailed
from pipelines.jobs import run_pipeline
from runners import local
from runners.engines import find_engine

PROCESSES = ["--direct_running_mode=multi_processing"]


def test_one_that_dies_before_it_connects_fails_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "worker_command", lambda *_: ["sh", "-c", "kill -9 $$"])
    with pytest.raises(JobFailed, match=r"a worker process is gone: .*return code -9; run the same command again"):
        run_pipeline(find_engine(PROCESSES), lambda pipeline: pipeline | beam.Create([0]) | beam.Map(str))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # (of Beam, whose connection broke)
def test_one_that_dies_at_its_work_fails_the_job(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(JobFailed):
        run_pipeline(
            find_engine(PROCESSES),
            lambda pipeline: pipeline | beam.Create([signal.SIGKILL]) | beam.Map(lambda how: os.kill(os.getpid(), how)),
        )
    assert "a worker process is gone: Worker subprocess exited with return code -9" in caplog.text
