"""A worker process of the pool: how it is started and told about, whether anybody wants it, and how it ended."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from runners.worker import AT_WORK, worker_command

LOOKS = 3
"""How many of them, one after the other, find nobody at a worker's control endpoint before it is not wanted."""
_CONNECT_S = 1.0


@dataclass
class PooledWorker:
    """A worker, from the request for it to its end.

    Args:
        id: unique within the TaskManager that asks for it.
        control: host and port of the service that gives it work.
        environment: variables that the worker finds.
        modules: to import before all else.
        place: the GPU that it sees; empty for all or none.
    """

    id: str
    control: str
    environment: dict[str, str]
    modules: Sequence[str]
    place: str = ""
    starts: int = 0
    missed: int = 0
    process: subprocess.Popen[bytes] = field(init=False)
    _told: int = field(init=False)

    def start(self, workers: int) -> None:
        """Starts its process, which may be its next; ``workers``: how many share the machine."""
        self.starts += 1
        self._told, told = os.pipe()
        os.set_blocking(self._told, False)
        environment = os.environ | self.environment | {AT_WORK: str(told)}
        if self.place:
            environment["CUDA_VISIBLE_DEVICES"] = self.place
        try:  # (its prints go where its log goes: into a pipe that nobody reads they would stop it)
            self.process = subprocess.Popen(
                worker_command(workers, self.modules),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                pass_fds=[told],
            )
        finally:
            os.close(told)

    def was_at_work(self) -> bool:
        """Whether its process, which has ended, had been given work."""
        with suppress(BlockingIOError):
            return bool(os.read(self._told, 1))
        return False

    def close(self) -> None:
        """Leaves what its process was told by."""
        os.close(self._told)

    def is_wanted(self) -> bool:
        """Whether somebody listens at its control endpoint, or did so lately."""
        host, _, port = self.control.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
            self.missed = 0
        except ConnectionRefusedError:
            self.missed += 1
        except OSError:  # (busy, or a name that cannot be resolved now)
            pass
        return self.missed < LOOKS

    def describe_end(self) -> str:
        """How its process ended."""
        code = self.process.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def refuse_work(self, why: str) -> None:
        """Connects in place of the worker and answers all work with an error, so that the job fails and says why."""
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with suppress(grpc.RpcError), grpc.insecure_channel(self.control) as channel:
            stub = beam_fn_api_pb2_grpc.BeamFnControlStub(channel)
            for work in stub.Control(iter(answers.get, None), metadata=[("worker_id", self.id)]):
                answers.put(beam_fn_api_pb2.InstructionResponse(instruction_id=work.instruction_id, error=why))
