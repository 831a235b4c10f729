"""The local engine: worker processes make the bank that one process makes, and share the shards of each stage."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from noisebank.format.manifest import read_snapshot
from noisebank.storage import open_store
from tests.support.portable import PLUGINS, ROOT, THREADS, assert_same, build
from tests.support.projects import Project

pytestmark = pytest.mark.engines

PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
SHARDS = {"clips": 4, "captions": 4, "noise/small": 4}


def test_two_worker_processes_make_the_same_bank_and_share_the_shards_of_each_stage(
    make_project: Callable[..., Project], expected_bank: Callable[[bool], Path]
) -> None:
    project = make_project()
    witness = project.folder.with_name("witness")
    paths = os.pathsep.join([str(ROOT), str(PLUGINS)])
    build(project, *PROCESSES, "--modules=witness", environment={"WITNESS": str(witness), "PYTHONPATH": paths})
    assert_same([expected_bank(False), project.bank])
    made = defaultdict(list)
    for line in witness.read_text().splitlines():
        process, stage, *_ = line.split()
        made[stage.rstrip(":")].append(process)
    for stage, shards in SHARDS.items():
        assert len(made[stage]) == shards and len(set(made[stage])) == 2, f"{stage}: {made[stage]}"


def test_stage_by_stage_with_two_noise_sets_and_an_accelerator_hint(
    make_project: Callable[..., Project], expected_bank: Callable[[bool], Path]
) -> None:
    project = make_project(second_set=True, accelerator=True)
    build(project, by_stage=True)
    assert_same([expected_bank(True), project.bank])


def test_the_number_of_threads_is_recorded_with_the_noise(expected_bank: Callable[[bool], Path]) -> None:
    bank = expected_bank(False)
    snapshot = read_snapshot(open_store(bank))
    assert snapshot.made_with["noise/small"]["threads"] == THREADS
    assert not any("threads" in snapshot.made_with[stage] for stage in ("clips", "captions"))
    receipts = [json.loads(path.read_text()) for path in (bank / "noise/small").rglob("*.json")]
    assert [receipt["info"]["threads"] for receipt in receipts] == [THREADS] * SHARDS["noise/small"]
