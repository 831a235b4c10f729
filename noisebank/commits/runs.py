"""What a run tells whoever started it, through the bank: which plan it works on (``runs/<run id>.plan``), and by its
last step how it ended (``runs/<run id>.json``); and, before it begins, those who work on it: a mark
(``runs/<run id>.begun``), where only a mounted folder can be the bank of all machines.

A job may run and end on machines that nobody watches; the command that started it shows its progress, prints the
summary and removes all of it. What a failed run leaves is vacuum's.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from noisebank.errors import ConfigError
from noisebank.storage import Store

FOLDER = "runs"


def passing_plan_path(run_id: str) -> str:
    """Where a run keeps a plan with nothing to do: it leaves the bank with the run."""
    return f"{FOLDER}/{run_id}-plan.json"


def begin_run(store: Store, run_id: str) -> None:
    """Leaves a mark that workers find if the bank is the same folder for them."""
    store.put(_mark_path(run_id), b"")


def check_begun(store: Store, run_id: str) -> None:
    """Refuses to work on a bank in which the run was not begun.

    Raises:
        ConfigError: names the bank and this machine.
    """
    if not store.exists(_mark_path(run_id)):
        raise ConfigError(
            f"{store.url}: on {socket.gethostname()}, where a worker runs, this is not the folder of the machine that "
            "started the job; mount one on all machines, or use an address such as gs://, s3:// or az://"
        )


def record_plan(store: Store, run_id: str, path: str) -> None:
    """Tells where the plan is that a run works on."""
    store.put(_plan_path(run_id), path.encode())


def find_plan(store: Store, run_id: str) -> str | None:
    """Where the plan is that a run works on; None as long as there is none."""
    try:
        return store.read(_plan_path(run_id)).decode()
    except FileNotFoundError:
        return None


def record_run(store: Store, run_id: str, summary: dict[str, Any]) -> None:
    """Leaves the summary of a run that ended well."""
    store.put(_path(run_id), json.dumps(summary).encode())


def collect_run(store: Store, run_id: str) -> dict[str, Any]:
    """The summary of a run; what it told is removed from the bank.

    Raises:
        FileNotFoundError: the run left none.
    """
    summary: dict[str, Any] = json.loads(store.read(_path(run_id)))
    for path in (_plan_path(run_id), passing_plan_path(run_id), _path(run_id), _mark_path(run_id)):
        store.delete(path)
    return summary


def _mark_path(run_id: str) -> str:
    return f"{FOLDER}/{run_id}.begun"


def _plan_path(run_id: str) -> str:
    return f"{FOLDER}/{run_id}.plan"


def _path(run_id: str) -> str:
    return f"{FOLDER}/{run_id}.json"
