"""What a run tells whoever started it, through the bank: which plan it works on (``runs/<run id>.plan``), and by its
last step how it ended (``runs/<run id>.json``).

A job may run and end on machines that nobody watches; the command that started it shows its progress, prints the
summary and removes all of it. What a failed run leaves is vacuum's.
"""

from __future__ import annotations

import json
from typing import Any

from noisebank.storage import Store

FOLDER = "runs"


def passing_plan_path(run_id: str) -> str:
    """Where a run keeps a plan with nothing to do: it leaves the bank with the run."""
    return f"{FOLDER}/{run_id}-plan.json"


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
    for path in (_plan_path(run_id), passing_plan_path(run_id), _path(run_id)):
        store.delete(path)
    return summary


def _plan_path(run_id: str) -> str:
    return f"{FOLDER}/{run_id}.plan"


def _path(run_id: str) -> str:
    return f"{FOLDER}/{run_id}.json"
