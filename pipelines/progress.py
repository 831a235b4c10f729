"""Progress of a build on a terminal, whatever the engine: the receipts of the open plan as they appear in the bank.

Elsewhere the log has a line a shard instead.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from noisebank.errors import NoiseBankError
from noisebank.format.manifest import latest_snapshot
from noisebank.planning.plan import Plan, find_open_plan
from noisebank.storage import Store

_log = logging.getLogger(__name__)
_SECONDS = {True: 1.0, False: 10.0}
"""Between two looks, by whether the bank is local."""


@contextmanager
def show_progress(store: Store) -> Iterator[None]:
    """Shows a bar of finished shards while the block runs, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(store, ended), daemon=True)
    with logging_redirect_tqdm():
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _watch(store: Store, ended: threading.Event) -> None:
    pause = _SECONDS[store.local_path("plans") is not None]
    plan: Plan | None = None
    with tqdm(desc="planning", unit=" shards", file=sys.stderr, total=0) as bar:
        last = False
        while not last:
            last = ended.wait(pause)
            try:
                plan = plan or _open_plan(store)
                if plan is not None:
                    _update(bar, store, plan)
            except (NoiseBankError, OSError) as error:  # (the bank changes under our eyes; the next look will do)
                _log.debug("progress: %s", error)


def _open_plan(store: Store) -> Plan | None:
    latest = latest_snapshot(store)
    return find_open_plan(store, latest.uuid if latest else "")


def _update(bar: tqdm[None], store: Store, plan: Plan) -> None:
    todo = plan.todo()
    since = datetime.fromisoformat(plan.created).timestamp()
    done = {
        stage: sum(file.key.endswith(".json") and file.modified >= since for file in store.scan(stage))
        for stage in todo
    }
    bar.total = sum(stage["shards"] for stage in todo.values())
    bar.set_description(", ".join(f"{stage} {done[stage]}/{todo[stage]['shards']}" for stage in todo), refresh=False)
    bar.update(min(sum(done.values()), bar.total) - bar.n)
