"""Beam's local runner: how many workers it gets, and how they share the machine."""

from __future__ import annotations

import joblib
import pytest
from apache_beam.options.pipeline_options import DirectOptions

from noisebank import processes
from noisebank.processes import share_machine
from noisebank.video.sandbox import Sandbox
from runners import local
from runners.engine import Needs
from runners.engines import find_engine
from runners.local import LocalEngine


@pytest.mark.parametrize(
    ("words", "gpus", "expected"),
    [
        ([], 8, (8, "multi_processing")),
        ([], 1, (1, "in_memory")),
        ([], 0, (1, "in_memory")),
        (["--direct_num_workers=1"], 8, (1, "in_memory")),
        (["--direct_running_mode", "in_memory"], 8, (1, "in_memory")),
        (["--direct_num_workers=3", "--direct_running_mode=multi_threading"], 8, (3, "multi_threading")),
    ],
)
def test_each_of_several_gpus_gets_a_process_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, words: list[str], gpus: int, expected: tuple[int, str]
) -> None:
    monkeypatch.setattr(local, "count_gpus", lambda: gpus)
    engine = find_engine(words)
    engine.prepare(Needs(["./bank"], on_gpu={"noise": ""}))
    direct = engine.options.view_as(DirectOptions)
    assert (direct.direct_num_workers, direct.direct_running_mode) == expected
    assert isinstance(engine, LocalEngine) and engine.count_workers() == expected[0]


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (["--runner=SparkRunner"], Needs(["./bank"], on_gpu={"noise": ""})),
        ([], Needs(["./bank"])),
        ([], Needs(["memory://bank"], on_gpu={"noise": ""})),
    ],
    ids=["another engine", "no stage that wants a GPU", "a bank in memory"],
)
def test_gpus_get_no_processes_where_they_would_not_serve(
    monkeypatch: pytest.MonkeyPatch, words: list[str], needs: Needs
) -> None:
    monkeypatch.setattr(local, "count_gpus", lambda: 8)
    engine = find_engine(words)
    engine.prepare(needs)
    direct = engine.options.view_as(DirectOptions)
    assert (direct.direct_num_workers, direct.direct_running_mode) == (1, "in_memory")


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64])
def test_three_workers_start_at_most_three_more_decoders_than_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(processes, "_workers", 1)
    assert Sandbox().size == cores
    share_machine(3)
    assert cores <= 3 * Sandbox().size <= cores + 3
