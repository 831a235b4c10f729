"""Runs decoding in child processes, so that a file which crashes or hangs a decoder costs its row only.

The children are plain ``python -m`` processes, each on a connection of its own: no fork of a process with threads, no
import of the caller's ``__main__``, no credentials in their environment, and daemonic processes such as those of a Beam
worker may start them. Process pools (Python's, loky, pebble) would unpickle what comes back from a process that reads
untrusted files, and break for all when one is killed while it answers.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noisebank.decode import Dialect, decode
from noisebank.errors import FAILURE_CODES, NoiseBankError, RowFailure
from noisebank.options import option
from noisebank.processes import local_workers

if TYPE_CHECKING:
    from noisebank.video.worker import Answer

DEADLINE_S = 120.0
MAX_FACTS = 1 << 16
REQUESTS_A_PROCESS = 1000
"""A child is replaced after this many requests: decoders leak."""
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")


class Sandbox:
    """A pool of decoding processes, started when first needed; safe to use from many threads.

    Args:
        size: processes, by default one a core that this process may use (affinity and container quotas count), shared
            out where several work for the job on this machine.
        deadline_s: seconds that one request may take.
        module: what the processes run.
    """

    def __init__(
        self, size: int | None = None, deadline_s: float = DEADLINE_S, module: str = "noisebank.video.worker"
    ) -> None:
        import joblib  # (a quarter of a second, which only those who decode should pay)

        self.size = size or -(-joblib.cpu_count() // local_workers())
        self._start = functools.partial(_Child, module, deadline_s)
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()  # None: one to be started
        for _ in range(self.size):
            self._idle.put(None)

    def run(self, request: dict[str, Any]) -> Answer:
        """The answer of a child to ``request``; waits while all are busy.

        A crash counts only if a fresh child crashes too, so that no clip pays for what an earlier one left behind.

        Raises:
            RowFailure: the one that the child reports, or ``decoder_crashed`` or ``decoder_hung``.
            NoiseBankError: no child can be started.
        """
        child = self._idle.get()
        try:
            if child is not None:
                try:
                    return child.ask(request)
                except RowFailure as failure:
                    if failure.code != "decoder_crashed":
                        raise
            child = self._start()
            return child.ask(request)
        finally:
            self._idle.put(child if child is not None and child.requests_left else None)

    def close(self) -> None:
        """Ends the children that are idle."""
        for child in [self._idle.get_nowait() for _ in range(self._idle.qsize())]:
            if child is not None:
                child.end()
            self._idle.put(None)


@dataclass(frozen=True)
class _Failure:
    """A :class:`RowFailure` as a child reports it."""

    code: str = option(choices=FAILURE_CODES)
    message: str = option()
    retryable: bool = option()


_ANSWER = Dialect(ValueError)


class _Child:
    """One decoding process."""

    def __init__(self, module: str, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(deadline_s)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what libraries print
                pass_fds=[theirs.fileno()],
                env=_environment(),
                start_new_session=True,  # (Ctrl-C is the parent's to handle)
            )
        try:
            self._connection.recv_bytes()
        except (EOFError, ConnectionError):
            message = f"the decoding process ended with status {self.end()} at its start; see stderr"
            raise NoiseBankError(message) from None
        self.requests_left = REQUESTS_A_PROCESS

    def ask(self, request: dict[str, Any]) -> Answer:
        """The answer; the process is ended where there is none, or where it was the last that it may give."""
        left, self.requests_left = self.requests_left - 1, 0
        try:
            self._connection.send_bytes(json.dumps(request).encode())
            facts = decode(json.loads(self._connection.recv_bytes(MAX_FACTS)), Mapping[str, Any], "facts", _ANSWER)
            mp4 = self._connection.recv_bytes()
            failure = decode(facts["failure"], _Failure, "failure", _ANSWER) if "failure" in facts else None
            self.requests_left = left
        except (EOFError, OSError) as error:
            raise _death(self.end(), self._deadline_s) from error
        except (RecursionError, ValueError) as error:
            raise RowFailure("decoder_crashed", f"the decoder's answer makes no sense: {error}") from error
        finally:
            if not self.requests_left:
                self.end()
        if failure:
            raise RowFailure(failure.code, failure.message, retryable=failure.retryable)
        return facts, mp4

    def end(self) -> int:
        """Closes the connection, which ends an idle process, and gives its exit status."""
        self._connection.close()
        return self._process.wait()


def _environment() -> dict[str, str]:
    """What the children see of this process's environment, and where they find this package."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("PYTHON")}
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


def _death(status: int, deadline_s: float) -> RowFailure:
    """What it means that a child ended with ``status`` (negative: of this signal) in place of an answer."""
    if status == -signal.SIGALRM:
        return RowFailure("decoder_hung", f"decoding took more than {deadline_s:g} s")
    if status == -signal.SIGKILL:
        message = "the decoder was killed, perhaps for want of memory"
        return RowFailure("decoder_crashed", message, retryable=True)
    how = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}; see stderr"
    return RowFailure("decoder_crashed", f"the decoder {how}")


_lock = threading.Lock()


def shared_sandbox() -> Sandbox:
    """The sandbox of this process, made at the first call; a forked child gets its own."""
    with _lock:
        return _sandbox_of(os.getpid())


@functools.cache
def _sandbox_of(pid: int) -> Sandbox:
    sandbox = Sandbox()
    atexit.register(sandbox.close)
    return sandbox
