"""Progress: lines that are news off a terminal, a bar on one, and a job's own plan whatever else is in the bank."""

from __future__ import annotations

import io
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError

import noisebank.progress
import pipelines.progress
from noisebank.commits.runs import collect_run, find_plan, record_plan, record_run
from noisebank.progress import show_progress
from noisebank.storage.local import LocalStore
from pipelines.progress import watch_run
from tests.support.bank import Bank, webvid_row, write_csv

RUN = "ab" * 16


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is logged, as it comes."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    caplog.set_level(logging.INFO, "noisebank")
    logging.getLogger("noisebank.progress").handlers = [Keep()]
    return said


def report_all(*reports: tuple[int, int]) -> None:
    with show_progress("verify", "bytes") as progress:
        for done, total in reports:
            progress.report(done, total)


def test_what_is_over_soon_has_one_line_at_its_end(lines: list[str]) -> None:
    report_all((1, 30), (20, 30), (30, 30))
    assert lines == ["verify: 30 of 30 bytes"]


def test_what_takes_long_has_lines_but_none_twice(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noisebank.progress, "SECONDS", 0.0)
    report_all((0, 0), (0, 0), (7, 0), (20, 30), (20, 30))
    assert lines == ["verify", "verify: 7 bytes", "verify: 20 of 30 bytes"]


def test_nothing_reported_is_nothing_said(lines: list[str]) -> None:
    report_all()
    assert lines == []


def test_on_a_terminal_it_is_a_bar(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    report_all((15, 30), (30, 30))
    assert "verify: 100%" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert lines == []


def test_a_job_shows_the_shards_of_its_own_plan(tmp_path: Path, lines: list[str]) -> None:
    bank = Bank(tmp_path)
    own = bank.plan(write_csv(tmp_path / "a.csv", [webvid_row(i) for i in range(3)]))
    bank.make(own)
    bank.plan(write_csv(tmp_path / "b.csv", [webvid_row(i) for i in range(50)]))
    with watch_run(bank.store, RUN):
        record_plan(bank.store, RUN, own.path)
    shards = {stage: figures["shards"] for stage, figures in own.todo().items()}
    total = sum(shards.values())
    said = ", ".join(f"{stage} {count}/{count}" for stage, count in shards.items())
    assert total and lines == [f"{said}: {total} of {total} shards"]
    record_run(bank.store, RUN, {"committed": True})
    assert collect_run(bank.store, RUN) == {"committed": True}
    assert find_plan(bank.store, RUN) is None and not bank.store.list("runs")


def test_a_job_that_fails_before_it_has_a_plan_says_nothing(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(KeyError), watch_run(Bank(tmp_path).store, RUN):
        raise KeyError("a job that failed")
    assert lines == []


def test_a_look_that_fails_ends_nothing(tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank(tmp_path)
    plan = bank.plan(write_csv(tmp_path / "a.csv", [webvid_row(1)]))
    record_plan(bank.store, RUN, plan.path)
    failed = threading.Event()
    read = LocalStore.read

    def unreachable_once(self: LocalStore, key: str) -> Any:
        if not failed.is_set():
            failed.set()
            raise GenericError("no route to host")
        return read(self, key)

    monkeypatch.setattr(LocalStore, "read", unreachable_once)
    monkeypatch.setitem(pipelines.progress._SECONDS, True, 0.01)
    with watch_run(bank.store, RUN, "index"):
        assert failed.wait(60)
    assert lines and lines[-1].startswith("clips 0/1")


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("build", "clips 1/1, captions 1/1, noise/toy 1/1: 3 of 3 shards"),
        ("noise", "clips 0/1, captions 0/1, noise/toy 1/1: 1 of 3 shards"),
    ],
)
def test_what_ended_well_is_finished_though_its_receipts_were_there_before(
    tmp_path: Path, lines: list[str], stage: str, said: str
) -> None:
    bank = Bank(tmp_path)
    record_plan(bank.store, RUN, bank.plan(write_csv(tmp_path / "a.csv", [webvid_row(1)])).path)
    with watch_run(bank.store, RUN, stage):
        pass
    assert lines[-1] == said
