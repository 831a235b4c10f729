"""Ctrl-C ends the process of a command, whatever it is doing; what is finished stays finished.

``KeyboardInterrupt`` alone does not: the main thread may be held up in a library, which may also lose it in a callback
or make an error of its own of the end of its workers, which get the signal too.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE_S = 5.0
"""For the main thread to clean up after itself."""


@contextmanager
def leave_at_interrupt(leave: Callable[[], object]) -> Iterator[None]:
    """What runs in it is ended by Ctrl-C: ``leave`` says so and ends the process. For the main thread."""
    interrupted, leaving = threading.Event(), threading.Lock()
    receiver, sender = socket.socketpair()

    def leave_once() -> None:
        with leaving:  # (for good)
            leave()

    def handle(*_: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def watch() -> None:
        with receiver:
            while signals := receiver.recv(64):
                if signal.SIGINT in signals:
                    time.sleep(GRACE_S)
                    leave_once()

    sender.setblocking(False)
    threading.Thread(target=watch, daemon=True).start()
    before = signal.signal(signal.SIGINT, handle), signal.set_wakeup_fd(sender.fileno())
    try:
        yield
    finally:
        if interrupted.is_set():
            leave_once()
        signal.set_wakeup_fd(before[1])
        signal.signal(signal.SIGINT, before[0])
        sender.close()
