"""Vacuum: removes the files that no kept snapshot refers to, as a commit of its own.

It commits a snapshot that lists what is about to be deleted, and only then deletes. Writers compare what they publish
with those lists, so that a file taken between its adoption and its commit is noticed and made again; and files written
later carry the vacuum's number in their names, so that a deletion that comes late never hits a new file. A vacuum that
was killed halfway is finished by the next. One that is overtaken by other writers reads what they committed and tries
again; it does not list the bank anew, so that a writer without pause cannot keep it waiting.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate

import pyarrow as pa

from noisebank.commits.commit import read_expired
from noisebank.errors import BankDamaged, ConfigError, SnapshotExpired
from noisebank.format.layout import is_work
from noisebank.format.manifest import FOLDER, Snapshot, expired_stub, read_snapshot, snapshot_number, snapshot_path
from noisebank.format.tables import write_parquet
from noisebank.planning.plan import FOLDER as PLANS
from noisebank.planning.plan import read_plan, refused_plans
from noisebank.progress import ReportProgress, silent
from noisebank.storage import BankWriter, Store, StoredFile
from noisebank.upkeep.inventory import Inventory

_log = logging.getLogger(__name__)

UNPUBLISHED_SECONDS = 7 * 24 * 3600.0
"""How long what no snapshot has published yet is left alone: it may belong to a running or interrupted build."""

_DELETERS = 16


@dataclass(frozen=True)
class Vacuumed:
    """What a vacuum removed, or would remove.

    Args:
        snapshot: the newest now: the vacuum's own, or the one before if there was nothing to do or it was a dry run.
        expired: numbers of the snapshots that can no longer be opened.
        files: paths of the files removed.
        bytes: of them.
        held: numbers of older snapshots that stay for now, because a build that started from them has not ended.
    """

    snapshot: Snapshot
    expired: tuple[int, ...]
    files: tuple[str, ...]
    bytes: int
    held: tuple[int, ...]


def vacuum(
    store: Store,
    keep: int = 1,
    *,
    dry_run: bool = False,
    unpublished_seconds: float = UNPUBLISHED_SECONDS,
    progress: ReportProgress = silent,
) -> Vacuumed:
    """Expires all but the newest snapshots and removes every file that no kept one refers to.

    The snapshot that it commits has the content of the one before: the two stay or expire together and count as one.
    Finished shards that no snapshot has published yet, open plans and the snapshots that they update stay until they
    are old, whatever ``keep`` says: a build may be running. Older snapshots that are damaged expire with the others.

    Args:
        store: the bank.
        keep: of how many contents the snapshots stay readable.
        dry_run: only say what would go.
        unpublished_seconds: age from which unpublished work goes too; 0: all of it, also what a wrong clock has dated
            in the future.
        progress: called with the files removed and those to remove.

    Raises:
        BankNotFound: there is no bank.
        BankDamaged: one of the snapshots that are to stay cannot be read.
        ConfigError: ``keep`` is less than 1.
    """
    if keep < 1:
        raise ConfigError(f"keep: {keep} is not allowed; at least 1 (the newest snapshot always stays)")
    before = time.time() - unpublished_seconds if unpublished_seconds else math.inf
    readable: list[Snapshot] = []
    unreadable: list[int] = []
    while True:
        base = read_snapshot(store)
        if not readable or readable[0].vacuum != base.vacuum:  # (the first look, or another vacuum was faster)
            if not dry_run:
                finish_vacuum(store, base, progress)
            inventory, readable, unreadable = Inventory(store), [], []
        newer, damaged = _read_snapshots(store, base, keep, after=readable[0].number if readable else 0)
        readable, unreadable = newer + readable, damaged + unreadable
        found, receipts = _find_garbage(inventory, readable, unreadable, keep, before)
        if dry_run:
            return found
        if found.expired or found.files:
            listed = [*map(snapshot_path, found.expired), *(path for path in found.files if path not in receipts)]
            snapshot = _draft(store, base, listed)
            if not store.create(snapshot.path, snapshot.to_bytes()):
                _log.info("snapshot %d was taken by another writer; looking again what may go", snapshot.number)
                continue
            finish_vacuum(store, snapshot, progress)
            for path in receipts:
                store.delete(path)
            found = dataclasses.replace(found, snapshot=snapshot)
        store.sweep(before)
        return found


def finish_vacuum(store: Store, snapshot: Snapshot, progress: ReportProgress = silent) -> None:
    """Deletes what the vacuums up to ``snapshot`` have listed and is still there.

    Expired snapshots go first, and leave a stub that keeps their number taken.
    """
    present = read_expired(store, snapshot.expired) & {file.key for file in store.scan()}
    snapshots = sorted(path for path in present if path.startswith(f"{FOLDER}/"))
    for path in snapshots:
        old: Snapshot | None = None
        try:
            old = read_snapshot(store, snapshot_number(path))
        except SnapshotExpired:
            continue
        except BankDamaged as error:
            _log.warning("%s", error)
        store.put(path, expired_stub(old, snapshot.number))
    with ThreadPoolExecutor(_DELETERS) as pool:
        for done, _ in enumerate(pool.map(store.delete, present.difference(snapshots)), len(snapshots) + 1):
            progress(done, len(present))


def _read_snapshots(store: Store, base: Snapshot, keep: int, after: int) -> tuple[list[Snapshot], list[int]]:
    """``base`` and all snapshots from it back to ``after`` (excluded) that have not expired, newest first; the numbers
    of damaged older ones. BankDamaged if one is damaged and those after it have fewer than ``keep`` contents."""
    readable, unreadable = [base], []
    for number in reversed(range(after + 1, base.number)):
        try:
            readable.append(read_snapshot(store, number))
        except SnapshotExpired:
            continue
        except BankDamaged:
            if sum(_have_own_content(readable)) < keep:
                raise
            unreadable.append(number)
    return readable, unreadable


def _have_own_content(readable: list[Snapshot]) -> list[bool]:
    """Which of the snapshots count: all but a vacuum's own whose parent, with the same content, is there too."""
    numbers = {snapshot.number for snapshot in readable}
    return [snapshot.operation != "vacuum" or snapshot.parent not in numbers for snapshot in readable]


def _find_parents_of_open_plans(store: Store, readable: list[Snapshot], before: float) -> set[int]:
    """Numbers of the snapshots that builds younger than ``before`` may be updating at this moment."""
    closed = {snapshot.plan for snapshot in readable} | set(refused_plans(store))
    parents = set()
    for file in store.scan(PLANS):
        hash, _, name = file.key.removeprefix(f"{PLANS}/").partition("/")
        if name == "plan.json" and hash not in closed and file.modified >= before:
            try:
                plan = read_plan(store, file.key)
            except (BankDamaged, FileNotFoundError):  # (nobody can carry it out)
                continue
            if not plan.is_empty:  # (else nothing will be committed)
                parents.add(plan.parent or 0)
    return parents


def _draft(store: Store, base: Snapshot, paths: list[str]) -> Snapshot:
    """The vacuum's own snapshot: the content of ``base``, and one more list of what is expired."""
    number = base.number + 1
    listed = write_parquet(BankWriter(store, number), "expired", pa.table({"path": pa.array(paths, pa.string())}))
    return dataclasses.replace(
        base,
        number=number,
        uuid=uuid.uuid4().hex,
        parent=base.number,
        operation="vacuum",
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        run_id=f"vacuum-{uuid.uuid4().hex}",
        counts={},
        stages={},
        touched=None,
        vacuum=number,
        expired=(*base.expired, listed),
    )


def _find_garbage(
    inventory: Inventory, readable: list[Snapshot], unreadable: list[int], keep: int, before: float
) -> tuple[Vacuumed, set[str]]:
    """What may go: files that only expiring snapshots refer to, old leftovers that none does; and the receipts among
    them.

    Finished shards that nobody has published stay as long as one of them is younger than ``before``: their build may
    still be running. (Receipts are not listed in the vacuum's snapshot: their names come back when a shard is made
    again, and one whose files are gone counts for nothing.)
    """
    newer = accumulate(_have_own_content(readable), initial=0)
    newest = [snapshot for snapshot, contents in zip(readable, newer, strict=False) if contents < keep]
    parents = _find_parents_of_open_plans(inventory.store, readable, before)
    held = [snapshot for snapshot in readable if snapshot.number in parents and snapshot not in newest]
    kept = newest + held
    expiring = [snapshot for snapshot in readable if snapshot not in kept]
    wanted = set().union(*(inventory.paths(snapshot) for snapshot in kept))
    dropped = {entry.path for snapshot in expiring for entry in snapshot.own_files}
    for snapshot in expiring:
        with suppress(BankDamaged):  # (of one whose parts are damaged only what its own JSON names goes)
            dropped |= inventory.paths(snapshot)
    dropped -= wanted
    inventory.add(dropped)
    present = inventory.files.values()
    data = [file for file in present if not is_work(file.key) and file.key not in wanted]
    unpublished, receipts = {}, set()
    for file in data:
        paths = inventory.receipt_paths(file.key) if file.key.endswith(".json") else None
        if paths is None:
            continue
        if paths and paths <= wanted:
            wanted.add(file.key)
        elif paths & dropped:
            receipts.add(file.key)
        else:
            unpublished[file] = paths
    is_active = any(file.modified >= before for file in unpublished)
    if is_active:
        wanted = wanted.union({file.key for file in unpublished}, *unpublished.values())
    receipts.update(file.key for file in unpublished if file.key not in wanted)
    going = [
        file
        for file in data
        if file.key in receipts or (file.key not in wanted and (file.key in dropped or file.modified < before))
    ]
    going += _find_old_work([file for file in present if is_work(file.key)], kept, expiring, before, is_active)
    found = Vacuumed(
        readable[0],
        expired=tuple(sorted([*(snapshot.number for snapshot in expiring), *unreadable], reverse=True)),
        files=tuple(sorted(file.key for file in going)),
        bytes=sum(file.bytes for file in going),
        held=tuple(snapshot.number for snapshot in held),
    )
    return found, receipts


def _find_old_work(
    files: list[StoredFile], kept: list[Snapshot], expiring: list[Snapshot], before: float, is_active: bool
) -> list[StoredFile]:
    """Plans that expiring snapshots carried out, and old ones; the newest open one stays while work is going on."""
    published, done = {s.plan for s in kept}, {s.plan for s in expiring}
    groups: dict[str, list[StoredFile]] = {}
    for file in files:
        groups.setdefault("/".join(file.key.split("/")[:2]), []).append(file)
    age = {name: max(file.modified for file in group) for name, group in groups.items()}
    plans = [name for name in groups if name.startswith("plans/") and name[6:] not in published | done]
    running = max(plans, key=lambda name: age[name], default="") if is_active else ""
    return [
        file
        for name, group in groups.items()
        if name != running and name[6:] not in published and (name[6:] in done or age[name] < before)
        for file in group
    ]
