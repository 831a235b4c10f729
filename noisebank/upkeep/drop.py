"""Taking a noise set out of a bank: a snapshot without its records, whose files a later vacuum removes."""

from __future__ import annotations

from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo, Delta
from noisebank.errors import UnknownNoiseSet
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.stage_names import StageName
from noisebank.format.tables import OverlayTable, nums_of
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
    touched = nums_of(OverlayTable(store, base.records[stage.records]).slices())
    delta = Delta(drops=frozenset([stage.name]), touches=touched)
    return commit(store, base, delta, CommitInfo(operation="drop"))
