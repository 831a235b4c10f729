"""A worker process of Beam's, whose log goes straight to stderr, as that of the process that started it, and which
does not outlive that one."""

from __future__ import annotations

import os
import signal
import sys

from noisebank.modules import import_modules
from noisebank.processes import end_with, share_machine
from runners.logs import set_up_logging
from runners.scratch import hold_scratch_folder


def main() -> None:
    """Works until the process that started it has no more requests. The first argument is its number, the second that
    of such workers; the others are modules to import."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # (Ctrl-C ends it without a word)
    end_with(int(sys.argv[1]))
    share_machine(int(sys.argv[2]))
    hold_scratch_folder()
    set_up_logging("--verbose" in sys.argv)
    import_modules(word for word in sys.argv[3:] if word != "--verbose")
    os.environ.pop("LOGGING_API_SERVICE_DESCRIPTOR", None)  # (where Beam would send it a second time)
    from apache_beam.runners.worker import sdk_worker_main  # (logs while it is imported)

    sdk_worker_main.main([])


if __name__ == "__main__":
    main()
