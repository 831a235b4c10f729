"""Taking a noise set out of a bank: a snapshot without its records, whose files a later vacuum removes."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo, Delta
from noisebank.errors import UnknownNoiseSet
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.schemas import FAILURES
from noisebank.format.stage_names import StageName
from noisebank.format.tables import FAILURE_KEY, OverlayTable
from noisebank.storage import Store


def drop_set(store: Store, name: str) -> Snapshot:
    """Commits a snapshot without a noise set, and without the failures that were its.

    Args:
        store: the bank.
        name: of the set; ``<kind>/<set>`` for the set of another stage over clips.

    Raises:
        UnknownNoiseSet: the newest snapshot has no such set; lists those it has.
        SnapshotConflict: another writer changed records of the set meanwhile.
    """
    base = read_snapshot(store)
    stage = StageName.of_records(name)
    if stage.records not in base.records:
        known = ", ".join(sorted(base.records)) or "none"
        raise UnknownNoiseSet(f"{store.url}: no noise set {name!r} in snapshot {base.number}; it has {known}")
    records = OverlayTable(store, base.records[stage.records]).slices()
    nums = [piece.column("num").to_numpy() for piece in records]
    delta = Delta(
        failures=[table for table in _healed(store, base, stage.name) if table.num_rows],
        drops=frozenset([stage.name]),
        touches=np.concatenate([np.zeros(0, np.int64), *nums]),
    )
    return commit(store, base, delta, CommitInfo(run_id=f"drop-{uuid.uuid4().hex}", operation="drop"))


def _healed(store: Store, base: Snapshot, stage: str) -> list[pa.Table]:
    """What takes the place of the failures of a stage."""
    healed = []
    for piece in OverlayTable(store, base.failures, FAILURE_KEY, FAILURES).slices():
        piece = piece.filter((pc.field("stage") == stage) & (pc.field("code") != ""))
        for name in ("code", "message"):
            at = piece.schema.get_field_index(name)
            piece = piece.set_column(at, FAILURES.field(name), pa.array([""] * piece.num_rows, pa.string()))
        healed.append(piece.select(FAILURES.names))
    return healed
