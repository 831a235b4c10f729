"""A worker process of Beam's, whose log goes straight to stderr, as that of the process that started it, and which
does not outlive that one."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

import grpc

from noisebank.modules import import_modules
from noisebank.processes import end_with, share_machine
from runners.logs import is_verbose, set_up_logging
from runners.scratch import hold_scratch_folder

_log = logging.getLogger("runners.worker")
AT_WORK = "NOISEBANK_AT_WORK"
"""Environment variable with the descriptor of a pipe, into which a worker writes a byte once it is given work."""


def worker_command(workers: int, modules: Iterable[str]) -> list[str]:
    """The command of a worker that ends with this process.

    Args:
        workers: how many there are on this machine.
        modules: to import.
    """
    verbose = ["--verbose"] if is_verbose() else []
    return [sys.executable, "-m", "runners.worker", str(os.getpid()), str(workers), *verbose, *modules]


def main() -> None:
    """Works until the process that started it has no more requests. The first argument is its number, the second that
    of such workers; the others are modules to import."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # (Ctrl-C ends it without a word)
    end_with(int(sys.argv[1]))
    share_machine(int(sys.argv[2]))
    hold_scratch_folder()
    is_pooled = AT_WORK in os.environ
    set_up_logging("--verbose" in sys.argv, f"[{os.getpid()}] " if is_pooled else "")
    import_modules(word for word in sys.argv[3:] if word != "--verbose")
    os.environ.pop("LOGGING_API_SERVICE_DESCRIPTOR", None)  # (where Beam would send it a second time)
    from apache_beam.runners.worker import sdk_worker_main  # (logs while it is imported)

    _, harness, _ = sdk_worker_main.create_harness(os.environ)
    if is_pooled:
        _tell_of_work(harness, int(os.environ.pop(AT_WORK)))
    try:
        harness.run()
    except grpc.RpcError as error:  # (a TaskManager was killed, or the machine that has the work is gone)
        if not is_pooled:
            raise
        _log.info("whoever gave it work is gone: %s", error.code().name if isinstance(error, grpc.Call) else error)
        os._exit(0)  # (whatever other threads are at)


def _tell_of_work(harness: Any, pipe: int) -> None:
    """Writes a byte into a pipe as soon as the runner sends work, which it does when it knows of this worker."""
    create = harness.create_worker
    os.set_inheritable(pipe, False)  # (a process that outlives this one would keep it open)

    def create_and_tell() -> Any:
        harness.create_worker = create
        os.write(pipe, b"1")
        return create()

    harness.create_worker = create_and_tell


if __name__ == "__main__":
    main()
