"""Repair: a new snapshot without the damaged shards, so that the next build makes exactly those again.

What cannot be made again from the sources (the tables of rows, the manifest parts) is not touched: that needs a copy or
an earlier snapshot. (Receipts and data files do not tell which of two versions of a row holds, nor which rows were
taken down: tables made of them would bring those back.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo, Delta
from noisebank.errors import BankDamaged, ConfigError
from noisebank.format.index_deletions import read_deleted, read_nums
from noisebank.format.layout import is_ours
from noisebank.format.manifest import IndexSegment, Snapshot, read_snapshot
from noisebank.format.parts import read_parts
from noisebank.format.receipts import read_receipt, receipt_path
from noisebank.format.stage_names import StageName
from noisebank.format.status import Status
from noisebank.format.tables import OverlayTable
from noisebank.ids import Hashes, Mask
from noisebank.storage import Store
from noisebank.upkeep.verify import Verification

_NO_CLIP = {"video": 0, "clip_file": 0, "clip_row": -1}
_NO_CAPTION = {"caption": 0, "caption_file": 0, "caption_row": -1}
_NO_RECORD = {"file": 0, "row": -1, "status": int(Status.REMOVED)}


@dataclass
class _Loss:
    """What is damaged: keys of data files by kind, and index segments."""

    files: dict[str, Hashes] = field(default_factory=dict)
    index: list[IndexSegment] = field(default_factory=list)
    receipts: set[str] = field(default_factory=set)

    def keys(self, *kinds: str) -> Hashes:
        """The damaged files of these kinds."""
        return np.concatenate([np.zeros(0, np.uint64), *(self.files[kind] for kind in kinds if kind in self.files)])


def repair(store: Store, report: Verification) -> Snapshot:
    """Commits a snapshot without what ``report`` (of the newest snapshot) found damaged.

    Rows of a damaged tar or sidecar lose their clip, rows of damaged captions (or of a damaged index) their caption,
    rows of a damaged noise file their record; the rest of them stays. The receipts of the damaged files are removed.
    Foreign files are left alone.

    Returns:
        The new snapshot, or the present one if nothing in it is damaged.

    Raises:
        BankDamaged: something is damaged that the sources do not give back; names it.
        ConfigError: the report is of an older snapshot.
        SnapshotConflict: another writer changed some of the same clips meanwhile; verify again.
    """
    damaged = {damage.path for damage in report.damaged if is_ours(damage.path)}
    snapshot = report.snapshot
    if snapshot is None:
        raise BankDamaged(f"{', '.join(sorted(damaged))}: cannot be repaired; restore it from a copy")
    if not damaged:
        return snapshot
    if snapshot != read_snapshot(store):
        raise ConfigError(f"snapshot {snapshot.number} is not the newest; only that can be repaired: verify it")
    loss = _find_loss(store, snapshot, damaged)
    for path in sorted(loss.receipts):
        store.delete(path)
    delta = Delta(
        rows=_empty_rows(store, snapshot, loss),
        records={key: _remove_records(store, snapshot, key, loss) for key in snapshot.records},
        replaces=frozenset(segment.index.path for segment in loss.index),
    )
    return commit(store, snapshot, delta, CommitInfo(operation="repair"))


def _find_loss(store: Store, snapshot: Snapshot, damaged: set[str]) -> _Loss:
    """The damaged paths by what they hold; BankDamaged if one is neither a data file nor part of the index."""
    own = {snapshot.path, *(entry.path for entry in snapshot.own_files)}
    loss = _Loss(index=[s for s in snapshot.index if damaged & {file.path for file in s.files}])
    left = damaged - {file.path for segment in loss.index for file in segment.files}
    if beyond := sorted(left & own):
        raise BankDamaged(
            f"{', '.join(beyond)}: cannot be made again from the sources; restore it from a copy, or go on from an "
            "earlier snapshot that verifies"
        )
    for kind, entries in snapshot.parts.items():
        part = read_parts(store, entries)
        here = part.filter(pc.is_in(part.column("path"), value_set=pa.array(sorted(left), pa.string())))
        if here.num_rows:
            loss.files[kind] = here.column("key").to_numpy()
        names = zip(here.column("stage").to_pylist(), here.column("inputs").to_pylist(), strict=True)
        loss.receipts.update(receipt_path(stage, inputs) for stage, inputs in names)
    for path in store.list("index") if loss.index else ():
        receipt = read_receipt(store, path) if path.endswith(".json") else None
        if receipt is not None and any(entry.path in damaged for entry in receipt.files):
            loss.receipts.add(path)
    return loss


def _empty_rows(store: Store, snapshot: Snapshot, loss: _Loss) -> list[pa.Table]:
    """The rows that lose their clip or (also where no whole segment of the index finds it) their caption, as they are
    afterwards."""
    clips, captions = loss.keys("clips", "sidecars"), loss.keys("captions")
    whole = [segment for segment in snapshot.index if segment not in loss.index] if loss.index else []
    indexed = [read_nums(store, segment)[~read_deleted(store, segment)] for segment in whole]
    searchable = np.concatenate([np.zeros(0, np.int64), *indexed])
    changed = []
    for piece in OverlayTable(store, snapshot.rows).slices():
        held = piece.column("status").to_numpy() != Status.REMOVED
        no_clip = held & np.isin(piece.column("clip_file").to_numpy(), clips)
        caption_files = piece.column("caption_file").to_numpy()
        lost = np.isin(caption_files, captions)
        if loss.index:
            lost |= (caption_files != 0) & ~np.isin(piece.column("num").to_numpy(), searchable)
        no_caption = held & lost
        piece = _fill(_fill(piece, no_clip, _NO_CLIP), no_caption, _NO_CAPTION)
        changed.append(piece.filter(pa.array(no_clip | no_caption)))
    return changed


def _remove_records(store: Store, snapshot: Snapshot, name: str, loss: _Loss) -> list[pa.Table]:
    """Tombstones of the records in damaged files of a stage over clips."""
    keys = loss.keys(StageName.of_records(name).name)
    changed = []
    for piece in OverlayTable(store, snapshot.records[name]).slices() if len(keys) else ():
        lost = np.isin(piece.column("file").to_numpy(), keys)
        changed.append(_fill(piece, lost, _NO_RECORD).filter(pa.array(lost)))
    return changed


def _fill(table: pa.Table, rows: Mask, values: Mapping[str, int]) -> pa.Table:
    """``table`` with these values in its columns where ``rows`` is true."""
    for name, value in values.items():
        column = table.column(name)
        filled = pc.if_else(pa.array(rows), pa.scalar(value, column.type), column)
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), filled)
    return table
