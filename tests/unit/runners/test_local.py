"""Beam's local runner: how many workers it gets, and how they share the machine."""

from __future__ import annotations

import joblib
import pytest
from apache_beam.options.pipeline_options import DirectOptions

from noisebank import processes
from noisebank.processes import share_machine
from noisebank.video.sandbox import Sandbox
from runners.local import count_workers, use_every_gpu
from runners.options import beam_options


@pytest.mark.parametrize(
    ("words", "gpus", "expected"),
    [
        ([], 8, (8, "multi_processing")),
        ([], 1, (1, "in_memory")),
        ([], 0, (1, "in_memory")),
        (["--direct_num_workers=1"], 8, (1, "in_memory")),
        (["--direct_running_mode", "in_memory"], 8, (1, "in_memory")),
        (["--direct_num_workers=3", "--direct_running_mode=multi_threading"], 8, (3, "multi_threading")),
        (["--runner=PrismRunner"], 8, (1, "in_memory")),
    ],
)
def test_each_of_several_gpus_gets_a_process_unless_the_user_says_otherwise(
    words: list[str], gpus: int, expected: tuple[int, str]
) -> None:
    options = beam_options(words)
    use_every_gpu(options, words, gpus)
    direct = options.view_as(DirectOptions)
    assert (direct.direct_num_workers, direct.direct_running_mode) == expected
    assert count_workers(options) == expected[0]


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64])
def test_three_workers_start_at_most_three_more_decoders_than_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(processes, "_workers", 1)
    assert Sandbox().size == cores
    share_machine(3)
    assert cores <= 3 * Sandbox().size <= cores + 3
