"""Progress of a job, whatever the engine and wherever it runs: the receipts of its plan as they appear in the bank."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache

from noisebank.commits.runs import find_plan
from noisebank.planning.plan import Plan, read_plan
from noisebank.progress import Progress, show_progress
from noisebank.storage import Store

_log = logging.getLogger(__name__)
_SECONDS = {True: 1.0, False: 10.0}
"""Between two looks, by whether the bank is local."""


@contextmanager
def watch_run(store: Store, run_id: str, stage: str = "build") -> Iterator[None]:
    """Shows how many shards of a run's plan are finished while the block runs; ``stage``: what the run does."""
    read = lru_cache(1)(read_plan)
    finished, ended = "", False

    def look() -> None:
        if path := find_plan(store, run_id):
            _report(progress, store, read(store, path), finished)
        elif not ended:
            progress.report(0, 0)

    with show_progress("planning", "shards") as progress, watching(store, look):
        try:
            yield
            finished = stage
        finally:
            ended = True


@contextmanager
def watching(store: Store, look: Callable[[], None]) -> Iterator[None]:
    """Looks at a store now and then while the block runs, and once more at its end; a look that fails is left to the
    next one."""
    ended = threading.Event()
    pause = _SECONDS[store.local_path("plans") is not None]

    def try_to_look() -> None:
        try:
            look()
        except Exception as error:  # noqa: BLE001 (stores raise what they like)
            _log.debug("progress: %s", error)

    def watch() -> None:
        while not ended.wait(pause):
            try_to_look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        try_to_look()


def _report(progress: Progress, store: Store, plan: Plan, finished: str) -> None:
    """Counts receipts that are younger than the plan; once a stage or a build is finished, so are all of its shards,
    some of them perhaps found that are older."""
    todo = {stage: figures["shards"] for stage, figures in plan.todo().items() if figures["shards"]}
    since = datetime.fromisoformat(plan.created).timestamp()
    done = {
        stage: shards
        if finished in ("build", "commit", stage.partition("/")[0])
        else min(shards, sum(file.key.endswith(".json") and file.modified >= since for file in store.scan(stage)))
        for stage, shards in todo.items()
    }
    progress.what = ", ".join(f"{stage} {done[stage]}/{shards}" for stage, shards in todo.items()) or "nothing to make"
    progress.report(sum(done.values()), sum(todo.values()))
