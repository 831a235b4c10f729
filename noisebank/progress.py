"""How far a long command is, on stderr: a bar on a terminal; elsewhere a line now and then, and one at the end."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

ReportProgress = Callable[[int, int], None]
"""What a long function calls with how much is done and how much there is, 0 if that is not known."""
SECONDS = 10.0
"""Between two lines, at least."""
_log = logging.getLogger(__name__)


def silent(done: int, total: int) -> None:
    """Reports to nobody."""


class Progress:
    """What :func:`show_progress` shows: ``what`` is going on, which may change, and how many of a ``unit`` are done."""

    def __init__(self, what: str, unit: str, bar: tqdm[NoReturn]) -> None:
        self.what = what
        self._unit, self._bar = unit, bar
        self._line = self._logged = ""
        self._due = time.monotonic() + SECONDS

    def report(self, done: int, total: int) -> None:
        """Shows how much is done; of type :data:`ReportProgress`."""
        if not self._bar.disable:
            self._bar.total = total
            self._bar.set_description(self.what, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        counted = f"{done} of {total}" if total else str(done)
        self._line = f"{self.what}: {counted} {self._unit}" if done or total else self.what
        if time.monotonic() >= self._due:
            self.log()

    def log(self) -> None:
        """Logs what was reported last, if that is news."""
        if self._line != self._logged:
            _log.info("%s", self._line)
            self._logged, self._due = self._line, time.monotonic() + SECONDS


@contextmanager
def show_progress(what: str, unit: str) -> Iterator[Progress]:
    """Shows what is reported to :meth:`Progress.report` while the block runs."""
    bar: tqdm[NoReturn] = tqdm(desc=what, unit=f" {unit}", unit_scale=True, disable=None, file=sys.stderr)
    with logging_redirect_tqdm(), bar:
        progress = Progress(what, unit, bar)
        yield progress
        progress.log()
