"""One device a process: two each for eight processes on four, whoever is killed and started again."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import pytest

from noisebank import devices
from noisebank.config import config_from_mapping
from noisebank.devices import choose_device, claim_device
from noisebank.errors import ConfigError, NoiseBankError

NAMES = ["gpu-a", "gpu-b", "gpu-c", "gpu-d"]
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Locks of this test alone."""
    monkeypatch.setattr(devices, "FOLDER", tmp_path / "locks")
    monkeypatch.delenv(devices.VARIABLE, raising=False)
    monkeypatch.setattr(devices, "_held", held := [])
    yield tmp_path / "locks"
    for claim in held:
        claim.release()


class Worker(NamedTuple):
    """A process that claims a device, says which, and keeps it until it is killed."""

    process: multiprocessing.process.BaseProcess
    told: Connection

    @classmethod
    def start(cls) -> Worker:
        told, tell = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_claim_and_wait, args=(tell,), daemon=True)
        process.start()
        return cls(process, told)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def _claim_and_wait(tell: Connection) -> None:
    claim = claim_device(NAMES)
    tell.send((claim.device, claim.slot))
    FORK.Event().wait()


def test_eight_processes_share_four_devices_evenly_also_after_kills_and_restarts() -> None:
    workers = [Worker.start() for _ in range(8)]
    claims = [worker.told.recv() for worker in workers]
    assert sorted(claims) == [(name, slot) for name in NAMES for slot in (0, 1)]
    for killed in ([0, 3, 5], [1, 2, 6, 7]):
        for number in killed:
            workers[number].kill()
        for number in killed:
            workers[number] = Worker.start()
        again = [workers[number].told.recv() for number in killed]
        assert sorted(again) == sorted(claims[number] for number in killed)
        for number, claim in zip(killed, again, strict=True):
            claims[number] = claim
    assert Counter(name for name, _ in claims) == dict.fromkeys(NAMES, 2)
    for worker in workers:
        worker.kill()


def test_the_lowest_free_slot_comes_first() -> None:
    claims = [claim_device(["x", "y"]) for _ in range(5)]
    assert [(claim.device, claim.slot) for claim in claims] == [("x", 0), ("y", 0), ("x", 1), ("y", 1), ("x", 2)]
    claims[1].release()
    again = claim_device(["x", "y"])
    assert (again.device, again.slot) == ("y", 0)
    for claim in (*claims[:1], *claims[2:], again):
        claim.release()


def test_a_process_keeps_the_device_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count_gpus", lambda: 3)
    monkeypatch.setattr(devices, "list_gpus", lambda: ["x", "y", "z"])
    other = claim_device(["x"])
    assert [choose_device(wanted) for wanted in ("auto", "cuda", "auto")] == ["cuda:1"] * 3
    assert choose_device("cuda:2") == "cuda:2"
    assert choose_device("cpu") == "cpu"
    assert [(claim.device, claim.slot) for claim in devices._held] == [("y", 0), ("z", 0)]
    other.release()


def test_other_users_can_lock_the_files_whatever_the_umask(locks: Path) -> None:
    umask = os.umask(0o077)
    try:
        claim_device(["x"]).release()
    finally:
        os.umask(umask)
    assert locks.stat().st_mode & 0o7777 == 0o1777
    assert {path.name: path.stat().st_mode & 0o777 for path in locks.iterdir()} == {"claiming": 0o644, "x.0": 0o644}


def test_a_link_in_the_place_of_the_folder_is_refused_and_not_followed(locks: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o750)
    locks.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=f"{locks}, which cannot be used: .*{devices.VARIABLE}"):
        claim_device(["x"])
    assert (elsewhere.stat().st_mode & 0o7777, [*elsewhere.iterdir()]) == (0o750, [])


def test_a_folder_that_is_there_keeps_its_mode(locks: Path) -> None:
    locks.mkdir(mode=0o750)
    claim_device(["x"]).release()
    assert locks.stat().st_mode & 0o7777 == 0o750


@pytest.mark.parametrize("folder", ["a-file", "a-file/in-a-file", "nowhere/at-all"])
def test_a_folder_that_cannot_be_used_is_named_and_another_one_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.setattr(devices, "FOLDER", tmp_path / folder)
    with pytest.raises(ConfigError, match=f"{tmp_path / folder}, which cannot be used: .* {devices.VARIABLE}"):
        claim_device(["x"])
    monkeypatch.setenv(devices.VARIABLE, str(tmp_path / "other"))
    claim_device(["x"]).release()
    assert (tmp_path / "other" / "x.0").exists()


def test_a_pipe_in_the_place_of_a_lock_does_not_block(locks: Path) -> None:
    locks.mkdir()
    os.mkfifo(locks / "x.0")
    claim_device(["x"]).release()


def test_a_claim_that_is_kept_from_claiming_says_so_and_ends(
    locks: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claim_device(["x"]).release()
    monkeypatch.setattr(devices.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(devices, "WAIT_S", 0.2)
    with (locks / "claiming").open() as file, caplog.at_level(logging.INFO):
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(NoiseBankError, match=f"somebody has kept {locks / 'claiming'} locked"):
            claim_device(["x"])
    assert caplog.text.count("waits for the lock") == 1
    claim_device(["x"]).release()


@pytest.mark.parametrize(("wanted", "gpus"), [("cuda", []), ("cuda:0", []), ("cuda:2", ["x", "y"])])
def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, wanted: str, gpus: list[str]) -> None:
    monkeypatch.setattr(devices, "count_gpus", lambda: len(gpus))
    monkeypatch.setattr(devices, "list_gpus", lambda: gpus)
    with pytest.raises(ConfigError, match=f"device '{wanted}': torch sees .* GPU"):
        choose_device(wanted)
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("value", ["gpu", "cuda:", "cuda:x", "cuda:-1", 0])
def test_the_option_has_four_forms(value: object) -> None:
    with pytest.raises(ConfigError, match=r"noise\[0\].device: .* auto, cpu, cuda or cuda:N"):
        config_from_mapping({"noise": [{"device": value}]})
