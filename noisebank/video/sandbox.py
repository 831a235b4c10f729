"""Runs decoding in child processes, so that a file which crashes or hangs a decoder costs its row only.

The children are plain ``python -m`` processes talking over pipes: no fork of a process with threads, no import of the
caller's ``__main__``, and they may be started from daemonic processes such as those of a Beam worker.
"""

from __future__ import annotations

import atexit
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from noisebank.errors import NoiseBankError, RowFailure
from noisebank.video.worker import Answer, receive, send

DEADLINE_S = 120.0
REQUESTS_A_PROCESS = 1000
"""A child is replaced after this many requests: decoders leak."""
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")


class Sandbox:
    """A pool of decoding processes, started when first needed; safe to use from many threads.

    Args:
        size: processes, by default one a core that this process may use (affinity and container quotas count).
        deadline_s: seconds that one request may take.
        module: what the processes run.
    """

    def __init__(
        self, size: int | None = None, deadline_s: float = DEADLINE_S, module: str = "noisebank.video.worker"
    ) -> None:
        import joblib  # (a quarter of a second, which only those who decode should pay)

        self.size = size or joblib.cpu_count()
        self._deadline_s = deadline_s
        self._module = module
        self._slots: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(self.size):
            self._slots.put(None)

    def run(self, request: dict[str, Any]) -> Answer:
        """The answer of a child to ``request``; waits while all are busy.

        A crash counts only if a fresh child crashes too, so that no clip pays for what an earlier one left behind.

        Raises:
            RowFailure: the one that the child reports, or ``decoder_crashed`` or ``decoder_hung``.
        """
        child = self._slots.get()
        try:
            fresh = child is None or not child.served
            child = child or _Child(self._module)
            answer = child.ask(request, self._deadline_s)
            if answer is None and not fresh and child.end() != -signal.SIGALRM:
                child = _Child(self._module)
                answer = child.ask(request, self._deadline_s)
            if answer is None:
                raise _death(child.end(), self._deadline_s)
        finally:
            if child is not None and (not child.alive or child.served >= REQUESTS_A_PROCESS):
                child.end()
                child = None
            self._slots.put(child)
        if "failure" in answer[0]:
            code, message, retryable = answer[0]["failure"]
            raise RowFailure(code, message, retryable=retryable)
        return answer

    def close(self) -> None:
        """Ends the children that are idle."""
        idle = []
        with suppress(queue.Empty):
            while True:
                idle.append(self._slots.get_nowait())
        for child in idle:
            if child is not None:
                child.end()
            self._slots.put(None)


class _Child:
    """One decoding process."""

    def __init__(self, module: str) -> None:
        package_root = str(Path(__file__).resolve().parents[2])
        environment = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith("PYTHON")}
        paths = [package_root, *filter(None, [environment.get("PYTHONPATH")])]
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # (Ctrl-C is the parent's to handle)
        )
        self.served = 0
        self.alive = self._receive() is not None
        if not self.alive:
            raise NoiseBankError(f"the decoding process ended with status {self.end()} at its start; see stderr")

    def _receive(self) -> Answer | None:
        assert self._process.stdout is not None
        return receive(self._process.stdout)

    def ask(self, request: dict[str, Any], deadline_s: float) -> Answer | None:
        """The answer, or None where the process died."""
        assert self._process.stdin is not None
        self.served += 1
        self.alive = False  # until the whole answer has come
        answer: Answer | None = None
        with suppress(BrokenPipeError):
            send(self._process.stdin, {**request, "deadline_s": deadline_s})
            answer = self._receive()
        self.alive = answer is not None
        return answer

    def end(self) -> int:
        """Closes the pipes, which ends an idle process, and gives its exit status."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        return self._process.wait()


def _death(status: int, deadline_s: float) -> RowFailure:
    """What it means that a child ended with ``status`` (negative: of this signal) in place of an answer."""
    if status == -signal.SIGALRM:
        return RowFailure("decoder_hung", f"decoding took more than {deadline_s:g} s")
    if status == -signal.SIGKILL:
        message = "the decoder was killed, perhaps for want of memory"
        return RowFailure("decoder_crashed", message, retryable=True)
    how = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}; see stderr"
    return RowFailure("decoder_crashed", f"the decoder {how}")


_shared: tuple[int, Sandbox] | None = None
_lock = threading.Lock()


def shared_sandbox() -> Sandbox:
    """The sandbox of this process, made at the first call; a forked child gets its own."""
    global _shared
    with _lock:
        if _shared is None or _shared[0] != os.getpid():
            sandbox = Sandbox()
            atexit.register(sandbox.close)
            _shared = os.getpid(), sandbox
        return _shared[1]
