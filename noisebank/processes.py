"""A process that was started by another and is of no use without it."""

from __future__ import annotations

import os
import threading
import time


def end_with(parent: int) -> None:
    """Ends this process soon after its parent, the process ``parent``, is gone, whatever it is doing by then."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
