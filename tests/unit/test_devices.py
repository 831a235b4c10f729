"""One device a process: two each for eight processes on four, whoever is killed and started again."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import pytest

from noisebank import devices
from noisebank.config import config_from_mapping
from noisebank.devices import choose_device, claim_device
from noisebank.errors import ConfigError

NAMES = ["gpu-a", "gpu-b", "gpu-c", "gpu-d"]
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Locks of this test alone."""
    monkeypatch.setattr(devices, "FOLDER", tmp_path / "locks")
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
