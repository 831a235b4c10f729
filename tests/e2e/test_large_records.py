"""Records as large as Wan's: they are written and read in files of 64 MiB, and a kill costs one of these at most.

NOISEBANK_LARGE=1 adds 512 records of the largest shape, 5 GB on disk for some minutes; one column of them would be
beyond what Arrow holds.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from noisebank import NoiseBank
from noisebank.describe import snapshot_files
from noisebank.format.manifest import read_snapshot
from noisebank.format.receipts import find_receipts, list_receipts
from noisebank.upkeep.verify import verify
from tests.support import made_up
from tests.support.bank import MODELS, NOISE_MODEL, SET, Bank, webvid_row, write_csv
from tests.support.made_up import record_of

STAGE = f"noise/{SET}"
WAN_480P, WAN_720P = (16, 21, 60, 104), (16, 21, 90, 160)
large = pytest.mark.skipif("NOISEBANK_LARGE" not in os.environ, reason="5 GB; NOISEBANK_LARGE=1 runs it")


def bank_of(folder: Path, clips: int, shape: tuple[int, ...]) -> Bank:
    """A bank to build from a list of so many clips."""
    write_csv(folder / "list.csv", [webvid_row(video) for video in range(clips)])
    bank = Bank(folder)
    bank.models = {**MODELS, STAGE: {**NOISE_MODEL, "shape": list(shape)}}
    return bank


@pytest.mark.parametrize("clips", [14, pytest.param(512, marks=large)])
def test_records_of_wan_at_720p_are_written_and_verified(tmp_path: Path, clips: int) -> None:
    bank = bank_of(tmp_path, clips, WAN_720P)
    bank.build(tmp_path / "list.csv", clips={"maxcount": 600})
    snapshot = read_snapshot(bank.store)
    entries = snapshot_files(bank.store, snapshot, "noise")
    assert sorted(entry.rows for entry in entries) == sorted([6] * (clips // 6) + [clips % 6] * (clips % 6 > 0))
    assert len(snapshot_files(bank.store, snapshot, "clips")) == 1
    assert max(entry.bytes for entry in entries) < (1 << 26) + (1 << 16)
    report = verify(bank.store)
    assert report.ok and report.bytes > clips * 2 * math.prod(WAN_720P)
    opened = NoiseBank.open(bank.store.url)
    for video in (0, clips - 1):
        id = f"webvid-{video}-0-5000"
        assert (opened.inverted(id).noise == record_of(id, WAN_720P).half().float()).all()


def _invert(folder: str, inverted: Any) -> None:
    """What a worker does: the whole build, counting the records that it makes."""
    plain = made_up.record_of

    def counted(*arguments: Any) -> Any:
        with inverted.get_lock():
            inverted.value += 1
        return plain(*arguments)

    made_up.record_of = counted
    bank = bank_of(Path(folder), 64, WAN_480P)
    bank.make(bank.plan(Path(folder, "list.csv"), clips={"maxcount": 64}))


def test_a_kill_inside_a_shard_of_clips_of_wan_loses_at_most_sixteen(tmp_path: Path) -> None:
    bank = bank_of(tmp_path, 64, WAN_480P)
    processes = multiprocessing.get_context("spawn")
    inverted = processes.Value("i", 0)
    worker = processes.Process(target=_invert, args=(str(tmp_path), inverted))
    worker.start()
    while inverted.value < 40 and worker.is_alive():
        time.sleep(0.001)
    worker.kill()
    worker.join()
    assert worker.exitcode == -9 and 40 <= inverted.value < 64

    kept = sum(receipt.rows for receipt in find_receipts(bank.store, _names(bank), verify=True))
    assert kept >= 32 and inverted.value - kept <= 16
    plan = bank.plan(tmp_path / "list.csv", clips={"maxcount": 64})
    assert [task.rows for task in plan.tasks["clips"]] == [64]
    before = _names(bank)
    bank.commit(plan, bank.make(plan))
    assert {*before} <= {*_names(bank)} and len(_names(bank)) == 4
    assert [entry.rows for entry in snapshot_files(bank.store, read_snapshot(bank.store), "noise")] == [16] * 4
    assert verify(bank.store).ok


def _names(bank: Bank) -> list[tuple[str, str]]:
    return [(STAGE, inputs) for inputs in list_receipts(bank.store, STAGE)]
