"""Publishing: the next snapshot is created only if nobody else has, else the change is laid over theirs.

There is no lock and no leader. Whoever loses the race for a number reads what the winner touched: if nothing that this
commit touches, it tries again on top of it (a rebase); otherwise it stops with a conflict that names the clips, and
running the build again plans on the new snapshot and finds its finished shards by their receipts. Nothing of either is
lost.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.commits.delta import CommitInfo, Delta, draft
from noisebank.errors import BankDamaged, SnapshotConflict, SnapshotExpired
from noisebank.format.index_deletions import read_nums
from noisebank.format.manifest import Snapshot, read_snapshot, snapshot_numbers
from noisebank.format.parts import read_parts
from noisebank.format.reading import read_table, verified_table
from noisebank.format.schemas import ROWS
from noisebank.format.stage_names import SIDECARS
from noisebank.format.status import Status
from noisebank.format.tables import FAILURE_KEY, OverlayTable, column_at, nums_of
from noisebank.ids import Hashes, Nums
from noisebank.storage import FileEntry, Store

_log = logging.getLogger(__name__)
_NAMED = 5


def commit(store: Store, parent: Snapshot | None, delta: Delta, info: CommitInfo) -> Snapshot:
    """Publishes ``delta`` as the next snapshot.

    Args:
        store: the bank.
        parent: the snapshot that the delta was planned on; None for an empty bank.
        delta: what changes.
        info: about the job.

    Returns:
        The new snapshot; the one of an earlier call with the same ``run_id``; ``parent`` if nothing changes.

    Raises:
        SnapshotConflict: another writer changed some of the same clips, works with other options or models, or a vacuum
            took what this commit builds on; run the build again, no finished work is lost.
        UnsupportedStore: the storage cannot create a file only if it is absent.
    """
    if parent is None:
        store.probe()
    if parent is not None and delta.is_empty():
        return parent
    touched = delta.touched()
    base, moved = parent, np.zeros(0, np.int64)
    while True:
        for later in _later(store, base):
            if later.run_id == info.run_id:
                return later
            _check_options(later, info, parent)
            _check_touched(store, later, touched, parent)
            moved = np.union1d(moved, read_touched(store, later))
            base = later
        _check_expired(store, base, delta)
        try:
            if base is not parent:
                moved = _find_moved_captions(store, parent, base, moved) if delta.replaces else moved[:0]
            snapshot = draft(store, base, delta, info, touched, moved)
        except BankDamaged as error:
            if base is not None and snapshot_numbers(store, after=base.number):
                continue  # (a vacuum committed meanwhile and removed files of this base)
            if parent is not None and _is_expired(store, parent):
                raise SnapshotConflict(
                    f"snapshot {parent.number} was vacuumed meanwhile: run the build again"
                ) from error
            raise
        if store.create(snapshot.path, snapshot.to_bytes()):
            return snapshot
        _log.info("snapshot %d was taken by another writer; trying the next", snapshot.number)


def read_touched(store: Store, snapshot: Snapshot) -> Nums:
    """The sorted numbers that the commit of ``snapshot`` changed."""
    return nums_of(OverlayTable(store, [snapshot.touched] if snapshot.touched else ()).slices())


def clip_names(store: Store, snapshots: Sequence[Snapshot], nums: Nums) -> list[str]:
    """The ids of ``nums`` as the first of the snapshots that knows them has them; a number where none does."""
    known = ((num, (_find_clip_name(store, snapshot, num) for snapshot in snapshots)) for num in nums.tolist())
    return [next(filter(None, names), f"number {num}") for num, names in known]


def _later(store: Store, base: Snapshot | None) -> list[Snapshot]:
    """The snapshots after ``base``, oldest first."""
    numbers = snapshot_numbers(store, after=base.number if base else 0)
    try:
        return [read_snapshot(store, number) for number in numbers]
    except SnapshotExpired as error:
        raise SnapshotConflict(
            f"{error}; it was committed after this build was planned: run the build again"
        ) from error


def _is_expired(store: Store, snapshot: Snapshot) -> bool:
    try:
        read_snapshot(store, snapshot.number)
    except SnapshotExpired:
        return True
    return False


def _check_options(later: Snapshot, info: CommitInfo, parent: Snapshot | None) -> None:
    """Two writers at once must agree on the options of every stage that both carry out."""
    mine, theirs = info.fingerprints, later.stage_fingerprints
    before = parent.stage_fingerprints if parent else {}
    differing = [stage for stage in mine.keys() & theirs.keys() if mine[stage] != theirs[stage]]
    differing += [stage for stage in mine.keys() & before.keys() if stage not in theirs]  # (dropped)
    if differing:
        raise SnapshotConflict(
            f"snapshot {later.number} was committed meanwhile with other options or models for "
            f"{', '.join(sorted(differing))}; run the build again with the configuration that is to hold"
        )


def _check_touched(store: Store, later: Snapshot, touched: Nums, parent: Snapshot | None) -> None:
    both = np.intersect1d(touched, read_touched(store, later))
    if not len(both):
        return
    names = clip_names(store, [later, parent] if parent else [later], both[:_NAMED])
    more = f" and {len(both) - _NAMED} more" if len(both) > _NAMED else ""
    raise SnapshotConflict(
        f"snapshot {later.number} was committed meanwhile and changes {len(both)} of the same clips: "
        f"{', '.join(names)}{more}; run the build again"
    )


def _check_expired(store: Store, base: Snapshot | None, delta: Delta) -> None:
    """Refuses files that a vacuum has listed for deletion since they were written."""
    if base is None:
        return
    index_files = delta.index.files if delta.index else ()
    files = {*(entry for receipt in delta.receipts for entry in receipt.files), *index_files}
    oldest = min((entry.vacuum for entry in files), default=base.vacuum)
    expired = read_expired(store, [entry for entry in base.expired if entry.vacuum > oldest])
    lost = sorted(entry.path for entry in files if entry.path in expired)
    if not lost:
        return
    for receipt in delta.receipts:
        if any(entry.path in expired for entry in receipt.files):
            store.delete(receipt.path)
    raise SnapshotConflict(
        f"a vacuum removed {len(lost)} finished files before they were published ({lost[0]}); "
        "run the build again, which makes them again"
    )


def read_expired(store: Store, lists: Sequence[FileEntry]) -> set[str]:
    """The paths that vacuums listed for deletion."""
    tables = [verified_table(store, entry) for entry in lists]
    return {path for table in tables for path in table.column("path").to_pylist()}


def _find_moved_captions(store: Store, parent: Snapshot | None, base: Snapshot | None, nums: Nums) -> Nums:
    """Those of ``nums`` whose caption others changed, removed or indexed anew between ``parent`` and ``base``."""
    before, after = (_find_captions(store, snapshot, nums) for snapshot in (parent, base))
    known = {segment.index.path for segment in parent.index} if parent else set()
    added = [segment for segment in (base.index if base else ()) if segment.index.path not in known]
    indexed = np.isin(nums, np.concatenate([np.zeros(0, np.int64), *(read_nums(store, segment) for segment in added)]))
    changed: Nums = nums[(before != after) | indexed]
    return changed


def _find_captions(store: Store, snapshot: Snapshot | None, nums: Nums) -> Hashes:
    """Hash of the caption held of each of the sorted ``nums``; 0 where there is none."""
    slices = OverlayTable(store, snapshot.rows if snapshot else (), schema=ROWS).slices()
    return column_at(nums, (piece.filter(pc.field("status") != int(Status.REMOVED)) for piece in slices), "caption")


def _find_clip_name(store: Store, snapshot: Snapshot, num: int) -> str:
    """The id of a clip from the sidecar of its tar or from the failures; empty if neither knows it."""
    row = OverlayTable(store, snapshot.rows).slice(num, num + 1).to_pylist()
    if row and row[0]["clip_file"]:
        sidecars = read_parts(store, snapshot.parts.get(SIDECARS, ()))
        here = pc.equal(sidecars.column("key"), pa.scalar(row[0]["clip_file"], pa.uint64()))
        for path in sidecars.filter(here).column("path").to_pylist():
            found = read_table(store, path, ["num", "id"]).filter(pc.field("num") == num)
            return str(found.column("id")[0]) if found.num_rows else ""
    if snapshot.failures:
        failed = OverlayTable(store, snapshot.failures, FAILURE_KEY).slice(num, num + 1)
        return str(failed.column("id")[0]) if failed.num_rows else ""
    return ""
