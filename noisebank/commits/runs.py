"""How a run ended, left in the bank by its last step for whoever started it: ``runs/<run id>.json``.

A job may end on a machine that nobody watches, so its summary travels through the bank; the command that started it
prints the document and removes it.
"""

from __future__ import annotations

import json
from typing import Any

from noisebank.storage import Store

FOLDER = "runs"


def record_run(store: Store, run_id: str, summary: dict[str, Any]) -> None:
    """Leaves the summary of a run that ended well."""
    store.put(_path(run_id), json.dumps(summary).encode())


def collect_run(store: Store, run_id: str) -> dict[str, Any]:
    """The summary of a run, removed from the bank.

    Raises:
        FileNotFoundError: the run left none.
    """
    summary: dict[str, Any] = json.loads(store.read(_path(run_id)))
    store.delete(_path(run_id))
    return summary


def _path(run_id: str) -> str:
    return f"{FOLDER}/{run_id}.json"
