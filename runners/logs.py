"""What people see of the log, in this process and in the processes that it starts."""

from __future__ import annotations

import logging
import os
import sys

from noisebank.errors import NoiseBankError

_OURS = ("noisebank", "transforms", "pipelines", "runners")
_REMARKS = (
    "apitools not found",
    "No semi_persistent_directory found",
    "Not setting flag with value None",
    "Discarding unparseable args",
    "Unparseable argument",
    "Really starting service",
    "Really destroying service",
    "Waiting for grpc channel",
)
"""Beam's, on what nobody here needs, such as a job server's own options in a worker, or that it starts one."""
_OUR_ERRORS = f"{NoiseBankError.__module__}."
"""Part of what an engine says of an error that a worker raised."""


def set_up_logging(verbose: bool, who: str = "") -> None:
    """Our own log at INFO, libraries' warnings; everything with ``verbose``; ``who`` logs, where that is not plain."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format=f"%(asctime)s %(levelname).1s {who}%(message)s",
        datefmt="%H:%M:%S",
        force=True,  # (Beam logs while it is imported, which installs a handler of Python's own)
    )
    for package in _OURS:
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        logging.getLogger().handlers[0].addFilter(_is_news)


def is_verbose() -> bool:
    """Whether everything is logged."""
    return logging.getLogger(_OURS[0]).isEnabledFor(logging.DEBUG)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether people want to see it: neither what libraries say at INFO (a worker of Beam's lets it through), nor
    Beam's remarks, nor its traceback of an error or interrupt that we report."""
    ours = record.name.partition(".")[0] in _OURS
    raised = record.exc_info[1] if record.exc_info else None
    known = isinstance(raised, NoiseBankError | OSError | KeyboardInterrupt) or _OUR_ERRORS in str(raised)
    message = record.getMessage()
    remark = message.startswith(_REMARKS) or (not ours and _OUR_ERRORS in message)
    return (ours or record.levelno >= logging.WARNING) and not (known or remark)
