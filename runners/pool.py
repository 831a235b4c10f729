"""Starts workers on this machine for the TaskManagers of a Flink cluster, by Beam's protocol for external workers.

A worker belongs to the control endpoint that it works for, not to its id, which is unique within one TaskManager only;
so several TaskManagers can share a pool. A worker whose endpoint is gone is ended, one that dies before it has worked
is started again, because its TaskManager would wait for it for ever, and all end with the pool.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
from apache_beam.portability.api import (
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
)
from google.protobuf import json_format, text_format

from noisebank.devices import count_gpus
from noisebank.errors import ConfigError
from runners.pooled_worker import LOOKS, PooledWorker

PAUSE_S = 1.0
"""Between two looks at the workers."""
STARTS = 5
"""How often a worker is started that never comes to work."""
WAIT_S = 120.0
"""How long a worker waits for others to end where no more are allowed."""
_END_S = 5.0
_REQUESTS = 256
"""At once; those that wait for a place count."""
_log = logging.getLogger(__name__)


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Starts a worker for each request, and looks after them.

    Args:
        places: one for each worker that may run at a time: the GPU that it sees, or an empty text; none: no limit.
    """

    def __init__(self, places: Sequence[str] = ()) -> None:
        self._places = len(places)
        self._free: queue.SimpleQueue[str] = queue.SimpleQueue()
        for place in places:
            self._free.put(place)
        self._workers: list[PooledWorker] = []
        self._ended = threading.Event()
        self._changing = threading.Lock()

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: N802 (of the protocol)
        """Starts a worker, once there is a place for it; the answer names what keeps it from that."""
        worker, error = _worker_for(request), ""
        try:
            if self._places and self._free.empty():
                _log.info("worker %s waits until another ends: %d may run", worker.id, self._places)
            worker.place = self._free.get(timeout=WAIT_S) if self._places else ""
            if self._ended.is_set():
                raise OSError("it ends")
            worker.environment |= _provision(request)
            worker.modules = _modules(worker.environment)
            with self._changing:
                worker.start(self._places or len(self._workers) + 1)
                self._workers.append(worker)
            _log.info("worker %s of %s: process %d%s", *_named(worker), f", GPU {worker.place}" * bool(worker.place))
        except queue.Empty:
            error = f"no worker ended within {WAIT_S:g} s, and {self._places} is all that the worker pool may run"
        except (OSError, grpc.RpcError) as failure:
            self._give_back(worker)
            error = f"the worker pool cannot start a worker: {' '.join(str(failure).split())}"
        if error:
            _log.error("worker %s: %s", worker.id, error)
        return beam_fn_api_pb2.StartWorkerResponse(error=error)

    def StopWorker(self, request: Any, context: Any) -> Any:  # noqa: N802 (of the protocol)
        """Does nothing: an id may be that of several workers, and the one that is meant loses its control endpoint."""
        return beam_fn_api_pb2.StopWorkerResponse()

    def look_after(self) -> None:
        """Looks after the workers until :meth:`end`."""
        while not self._ended.wait(PAUSE_S):
            for worker in list(self._workers):
                try:
                    self._look_at(worker)
                except OSError as error:
                    _log.error("worker %s of %s, process %d: %s", *_named(worker), error)

    def end(self) -> None:
        """Ends all workers, and starts none any more."""
        self._ended.set()
        for _ in range(_REQUESTS):  # (those who wait for a place)
            self._free.put("")
        with self._changing:
            for worker in self._workers:
                worker.process.terminate()
            for worker in self._workers:
                try:
                    worker.process.wait(_END_S)
                except subprocess.TimeoutExpired:
                    worker.process.kill()

    def _look_at(self, worker: PooledWorker) -> None:
        wanted, is_over = worker.is_wanted(), worker.process.poll() is not None
        if not (is_over or wanted):
            (worker.process.terminate if worker.missed == LOOKS else worker.process.kill)()
        if not is_over:
            return
        at_work = worker.was_at_work()
        worker.close()
        if wanted and not at_work and worker.starts < STARTS:
            _log.warning("worker %s of %s, process %d: %s before it worked; starts it again", *_tell(worker))
            with self._changing:
                if not self._ended.is_set():
                    worker.start(self._places or len(self._workers))
            return
        self._workers.remove(worker)
        self._give_back(worker)
        if wanted and not at_work:
            why = f"a worker ended {STARTS} times before it worked, at last by {worker.describe_end()}"
            why = f"{why}; the log of the worker pool on {socket.gethostname()} tells more"
            _log.error("worker %s of %s: %s", worker.id, worker.control, why)
            threading.Thread(target=worker.refuse_work, args=[why], daemon=True).start()
        elif wanted and worker.process.returncode:
            _log.warning("worker %s of %s, process %d: %s at its work", *_tell(worker))
        else:
            _log.info("worker %s of %s, process %d: ended", *_named(worker))

    def _give_back(self, worker: PooledWorker) -> None:
        if self._places:
            self._free.put(worker.place)


def _named(worker: PooledWorker) -> tuple[str, str, int]:
    return worker.id, worker.control, worker.process.pid


def _tell(worker: PooledWorker) -> tuple[str, str, int, str]:
    return *_named(worker), worker.describe_end()


def _worker_for(request: Any) -> PooledWorker:
    control = text_format.MessageToString(request.control_endpoint)
    environment = {"WORKER_ID": request.worker_id, "CONTROL_API_SERVICE_DESCRIPTOR": control}
    return PooledWorker(request.worker_id, request.control_endpoint.url, environment, ())


def _provision(request: Any) -> dict[str, str]:
    """What a worker must know of its job, from the service that has it; nothing where the request names none."""
    if not request.provision_endpoint.url:
        return {}
    with grpc.insecure_channel(request.provision_endpoint.url) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        asked = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = stub.GetProvisionInfo(asked, metadata=[("worker_id", request.worker_id)], timeout=30).info
    options = json_format.MessageToJson(info.pipeline_options, indent=None)
    return {"PIPELINE_OPTIONS": options, "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities)}


def _modules(environment: dict[str, str]) -> list[str]:
    """The modules of users that a job names."""
    options = json.loads(environment.get("PIPELINE_OPTIONS", "{}"))
    return list(options.get("beam:option:beam_plugins:v1") or ())


@contextmanager
def running_pool(address: str, places: Sequence[str] = ()) -> Iterator[str]:
    """While a pool runs in this process; its workers end with the block.

    Args:
        address: host and port to listen at; port 0 takes a free one.
        places: as of :class:`WorkerPool`.

    Yields:
        Host and port where it listens.

    Raises:
        ConfigError: it cannot listen there.
    """
    pool, host = WorkerPool(places), address.rpartition(":")[0]
    server = grpc.server(ThreadPoolExecutor(_REQUESTS), options=[("grpc.so_reuseport", 0)])
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    with ExitStack() as stack:
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(f"{address}: the worker pool cannot listen there; is another one running?") from error
        server.start()
        stack.callback(server.stop, None)
        threading.Thread(target=pool.look_after, daemon=True).start()
        stack.callback(pool.end)
        yield f"{host}:{port}"


def list_places(max_workers: int, workers_per_gpu: int) -> list[str]:
    """A place for each worker that may run, and which GPU each sees, if they are shared out.

    Raises:
        ConfigError: GPUs are to be shared out, and there are none.
    """
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu.strip()]
    gpus = gpus or [str(number) for number in range(count_gpus() if workers_per_gpu else 0)]
    if workers_per_gpu and not gpus:
        raise ConfigError("--workers_per_gpu: torch sees no GPU here; leave it out, or run the pool where one is")
    places = gpus * workers_per_gpu or [""] * max_workers
    return places[:max_workers] if max_workers else places
