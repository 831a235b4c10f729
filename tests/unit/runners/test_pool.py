"""A worker pool, asked for real workers by what stands for TaskManagers: real control services on loopback."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
)

from noisebank.errors import ConfigError
from runners.pool import list_places, running_pool
from runners.pooled_worker import PooledWorker

WAIT_S = 120
ROOT = Path(__file__).parents[3]


class TaskManager(beam_fn_api_pb2_grpc.BeamFnControlServicer, beam_provision_api_pb2_grpc.ProvisionServiceServicer):
    """Listens for workers, gives each one piece of work, and keeps what it answers."""

    def __init__(self, stack: ExitStack, **options: Any) -> None:
        self.connected: queue.Queue[str] = queue.Queue()
        self.answers: queue.Queue[Any] = queue.Queue()
        self._closing = threading.Event()
        self._options = options
        self._server = grpc.server(ThreadPoolExecutor(8))
        beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(self, self._server)
        beam_provision_api_pb2_grpc.add_ProvisionServiceServicer_to_server(self, self._server)
        self.url = f"localhost:{self._server.add_insecure_port('localhost:0')}"
        self._server.start()
        stack.callback(self.close)

    def Control(self, answers: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        self.connected.put(dict(context.invocation_metadata())["worker_id"])
        yield beam_fn_api_pb2.InstructionRequest(instruction_id="1", register=beam_fn_api_pb2.RegisterRequest())
        self.answers.put(next(answers))
        self._closing.wait()

    def GetProvisionInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        response = beam_provision_api_pb2.GetProvisionInfoResponse()
        response.info.pipeline_options.update({f"beam:option:{key}:v1": value for key, value in self._options.items()})
        return response

    def ask_for_worker(self, pool: str, id: str = "1-1") -> str:
        """Asks a pool for a worker; returns its error, if any."""
        request = beam_fn_api_pb2.StartWorkerRequest(worker_id=id)
        request.control_endpoint.url = request.provision_endpoint.url = self.url
        with grpc.insecure_channel(pool) as channel:
            stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
            return str(stub.StartWorker(request, timeout=WAIT_S).error)

    def stop_worker(self, pool: str, id: str = "1-1") -> None:
        """Says, as a TaskManager does, that it is done with a worker."""
        with grpc.insecure_channel(pool) as channel:
            stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
            stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id=id), timeout=WAIT_S)

    def wait_for_answer(self) -> Any:
        """What a worker, once there is one, answers to its first piece of work."""
        return self.answers.get(timeout=WAIT_S)

    def close(self) -> None:
        self._closing.set()
        self._server.stop(None)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def workers(parent: int | None = None) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-P", str(parent or os.getpid()), "-f", "runners.worker "], capture_output=True, text=True
    )
    return [int(line) for line in found.stdout.split()]


def wait_until(look: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT_S
    while not look():
        assert time.monotonic() < until
        time.sleep(0.05)


def is_running(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


@contextmanager
def pool_process(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and where its pool listens."""
    command = [sys.executable, "-m", "runners.worker_pool", "--port", "0", *words]
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # (ignored where tests run in the background)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    try:
        assert process.stderr is not None
        yield process, process.stderr.readline().split("--environment_config=")[1].split(": ")[0]
    finally:
        process.kill()
        process.communicate()


def test_two_task_managers_have_a_worker_of_the_same_id_and_one_cannot_stop_that_of_the_other(stack: ExitStack) -> None:
    pool = stack.enter_context(running_pool("localhost:0"))
    first, second = TaskManager(stack), TaskManager(stack)
    assert not first.ask_for_worker(pool)
    wait_until(workers)
    (of_first,) = workers()
    assert not second.ask_for_worker(pool)
    wait_until(lambda: len(workers()) == 2)
    (of_second,) = set(workers()) - {of_first}
    assert not first.wait_for_answer().error and not second.wait_for_answer().error
    first.stop_worker(pool)
    first.close()
    wait_until(lambda: not is_running(of_first))
    second.stop_worker(pool, "another")
    time.sleep(2)  # (two looks)
    assert workers() == [of_second]


def test_a_worker_of_a_task_manager_that_is_gone_ends_whatever_it_does(stack: ExitStack) -> None:
    pool = stack.enter_context(running_pool("localhost:0"))
    manager = TaskManager(stack)
    manager.ask_for_worker(pool)
    manager.wait_for_answer()
    (worker,) = workers()
    os.kill(worker, signal.SIGSTOP)  # (so that it sees no end of its stream)
    manager.close()
    wait_until(lambda: not workers())


def test_a_worker_that_dies_before_it_connects_is_started_again(stack: ExitStack) -> None:
    pool = stack.enter_context(running_pool("localhost:0"))
    manager = TaskManager(stack)
    manager.ask_for_worker(pool)
    (first,) = workers()
    os.kill(first, signal.SIGKILL)
    assert not manager.wait_for_answer().error
    (second,) = workers()
    assert second != first
    os.kill(second, signal.SIGKILL)  # (at its work: its TaskManager sees that, and asks for another)
    wait_until(lambda: not workers())
    time.sleep(2)
    assert not workers() and manager.connected.qsize() == 1


def test_a_worker_that_never_comes_to_work_fails_the_job_and_says_why(stack: ExitStack) -> None:
    pool = stack.enter_context(running_pool("localhost:0"))
    manager = TaskManager(stack, beam_plugins=["no.such.module"])
    manager.ask_for_worker(pool)
    error = manager.wait_for_answer().error
    assert "a worker ended 5 times before it worked, at last by exit code 1; the log of the worker pool on " in error


def test_no_more_workers_run_than_gpus_and_each_sees_its_own(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    monkeypatch.setattr("runners.pool.WAIT_S", 0.1)
    places = list_places(0, 1)
    pool = stack.enter_context(running_pool("localhost:0", places))
    managers = [TaskManager(stack) for _ in range(3)]
    assert not managers[0].ask_for_worker(pool) and not managers[1].ask_for_worker(pool)
    assert "no worker ended within 0.1 s, and 2 is all that the worker pool may run" in managers[2].ask_for_worker(pool)
    wait_until(lambda: {seen(worker) for worker in workers()} == {"GPU-a", "GPU-b"})
    monkeypatch.setattr("runners.pool.WAIT_S", WAIT_S)
    managers[0].close()
    assert not managers[2].ask_for_worker(pool)  # (it waited for the place of the first)
    wait_until(lambda: [seen(worker) for worker in workers()].count("GPU-a") == 1)


def seen(worker: int) -> str:
    """Which GPU a worker sees."""
    variables = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
    return next((v.decode().partition("=")[2] for v in variables if v.startswith(b"CUDA_VISIBLE_DEVICES=")), "")


def test_places_are_as_many_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert list_places(0, 0) == [] and list_places(2, 0) == ["", ""]
    with pytest.raises(ConfigError, match="--workers_per_gpu: torch sees no GPU here"):
        list_places(0, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert list_places(0, 2) == ["0", "1", "0", "1"] and list_places(3, 2) == ["0", "1", "0"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_pool_however_it_ends(stack: ExitStack, end: signal.Signals) -> None:
    manager = TaskManager(stack)
    with pool_process() as (process, pool):
        manager.ask_for_worker(pool)
        manager.wait_for_answer()
        (worker,) = workers(process.pid)
        process.send_signal(end)
        wait_until(lambda: not is_running(worker))
        assert process.wait(WAIT_S) == {signal.SIGTERM: 0, signal.SIGINT: 130, signal.SIGKILL: -9}[end]


def test_a_port_that_is_taken_is_a_usage_error() -> None:
    with pool_process() as (_, pool):
        port = pool.rpartition(":")[2]
        command = [sys.executable, "-m", "runners.worker_pool", "--port", port]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S)
    assert ran.returncode == 2
    assert f"localhost:{port}: the worker pool cannot listen there; is another one running?" in ran.stderr


def test_a_worker_whose_endpoint_is_busy_is_still_wanted() -> None:
    worker = PooledWorker("1-1", "no-such-host.invalid:1", {}, ())
    assert all(worker.is_wanted() for _ in range(5))
