"""A process that ends with the one that started it, how many work beside it, and a computation on one thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_workers = 1


def share_machine(workers: int) -> None:
    """Tells this process that it is one of so many workers of a job on this machine."""
    global _workers
    _workers = max(1, workers)


def local_workers() -> int:
    """How many processes work for the job on this machine, this one included, as far as it was told."""
    return _workers


def end_with(parent: int) -> None:
    """Ends this process soon after its parent, the process ``parent``, is gone, whatever it is doing by then."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def use_threads(number: int | None) -> None:
    """Torch on so many threads from now on, in this process and for this thread; None: as it is."""
    if number is not None:
        import torch  # (what needs no model needs no torch)

        torch.set_num_threads(number)


@contextmanager
def one_thread(get_number: Callable[[], int], set_number: Callable[[int], None]) -> Iterator[None]:
    """A library on one thread, by its own functions for their number: how several share a matrix product depends on
    the machine, and shows in the last bits."""
    number = get_number()
    set_number(1)
    try:
        yield
    finally:
        set_number(number)
