"""A worker process of Beam's, whose log goes straight to stderr, as that of the process that started it, and which
does not outlive that one."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from noisebank.modules import import_modules
from runners.logs import set_up_logging


def main() -> None:
    """Works until the process that started it has no more requests; its arguments are modules to import first."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # (Ctrl-C ends it without a word)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    set_up_logging("--verbose" in sys.argv)
    import_modules(word for word in sys.argv[1:] if word != "--verbose")
    os.environ.pop("LOGGING_API_SERVICE_DESCRIPTOR", None)  # (where Beam would send it a second time)
    from apache_beam.runners.worker import sdk_worker_main  # (logs while it is imported)

    sdk_worker_main.main([])


def _end_with(parent: int) -> None:
    """Ends this process soon after its parent is gone, whatever it is doing: nobody waits for it any more."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
