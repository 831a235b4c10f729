"""A worker process of the local engine, whose death fails the job: Beam's runner would wait for ever for one that dies
before it connects or between two pieces of work."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

import grpc
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import SubprocessSdkWorkerHandler, WorkerHandler
from apache_beam.runners.portability.local_job_service import SubprocessSdkWorker

_PAUSE_S = 0.2
_END_S = 5.0
_log = logging.getLogger(__name__)


@WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class WorkerProcess(SubprocessSdkWorkerHandler):
    """Beam's, which answers in place of a process that is gone."""

    def start_worker(self) -> None:
        """Starts the process, and a thread that waits for its end."""
        self._closing = threading.Event()
        self.worker = SubprocessSdkWorker(
            self._worker_command_line, self.control_address, self.provision_info, self.worker_id
        )
        self.worker_thread = threading.Thread(target=self._run, daemon=True)
        self.worker_thread.start()

    def close(self) -> None:
        """Ends the process, if it is not gone."""
        self._closing.set()
        with suppress(grpc.RpcError):  # (the connection to one that is gone)
            super().close()
        self.worker_thread.join(_END_S)  # (it tells what became of the process)

    def _run(self) -> None:
        try:
            self.worker.run()
        except RuntimeError as error:  # (how Beam says that it ended by a signal or with an exit code)
            why = f"a worker process is gone: {error}"
            _log.error("%s (-9: killed, as is done where memory is short)", why)
            self._refuse_work(f"noisebank.errors.JobFailed: {why}; run the same command again to go on")

    def _refuse_work(self, why: str) -> None:
        """Answers whatever the process was asked, and what it is asked from now on, with an error."""
        asked = self.control_conn._futures_by_id
        while not self._closing.wait(_PAUSE_S):
            for name in list(asked):
                if future := asked.pop(name, None):
                    future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=name, error=why))
