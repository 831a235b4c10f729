"""The first step of a plan: which lists, which snapshot, what finished work, how many partitions.

Its result is small and travels to every worker; the rows never do.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import pyarrow.compute as pc

from noisebank.errors import ConfigError, SnapshotExpired
from noisebank.format.manifest import latest_snapshot, read_snapshot
from noisebank.ids import source_number
from noisebank.options import Config
from noisebank.planning.claims import ReceiptName, unpublished_receipts
from noisebank.planning.parent import Parent
from noisebank.planning.plan import FOLDER, refused_plans
from noisebank.sources import FORMATS, ListFile, check_columns, open_lists
from noisebank.storage import Store

MAX_ATTEMPTS = 8
_FIRST_PAUSE_SECONDS = 3600.0
_PARTITION_ROWS = 1 << 17


@dataclass(frozen=True)
class Survey:
    """What a plan starts from.

    Args:
        spill: folder of this attempt's spill files in the bank.
        parent: number of the snapshot to update; None for an empty bank.
        parent_uuid: its uuid, or empty.
        lists: the files of all sources, in the order that decides among duplicates.
        headers: columns of each.
        folders: what relative uris start from, sorted; rows refer to them by number.
        bits: rows are handled in ``2 ** bits`` partitions of their numbers.
        stages: names of the stages; claims refer to them by number.
        fingerprints: of the stages.
        receipts: finished shards that no snapshot has; claims refer to them by number.
        due: ``(attempts, last snapshot)`` of the failures that are to be tried again.
        refused: plans that were carried out but not published.
    """

    spill: str
    parent: int | None
    parent_uuid: str
    lists: tuple[ListFile, ...]
    headers: tuple[tuple[str, ...], ...]
    folders: tuple[str, ...]
    bits: int
    stages: tuple[str, ...]
    fingerprints: Mapping[str, str]
    receipts: tuple[ReceiptName, ...]
    due: tuple[tuple[int, int], ...]
    refused: tuple[str, ...]

    @property
    def sources(self) -> dict[int, str]:
        """Names of the configured sources by the numbers that tables have."""
        names = (file.source_name for file in self.lists)
        return {source_number(name): name for name in names}

    def base(self, number: int) -> int:
        """The number of the folder that the uris of list ``number`` start from."""
        return self.folders.index(self.lists[number].folder)


def survey(
    config: Config, fingerprints: Mapping[str, str], bank: Store, out: Store, now: float | None = None
) -> Survey:
    """Looks at the lists and the bank.

    Args:
        config: of the build.
        fingerprints: of the stages, by name.
        bank: what is to be updated.
        out: where the plan is written: the bank, or elsewhere for a plan that nobody carries out.
        now: seconds since 1970, for pauses between attempts; the clock's by default.

    Raises:
        ConfigError: a list does not exist, cannot be read, or lacks a column; or options changed that concern all rows
            of the bank, and some of its sources are left out.
    """
    spill = f"{FOLDER}/spill-{uuid.uuid4().hex}"
    lists = tuple(file for source in config.sources for file in open_lists(source, out, spill))
    headers = tuple(tuple(check_columns(file)) for file in lists)
    snapshot = latest_snapshot(bank)
    parent = Parent(bank, snapshot.number if snapshot else None, fingerprints)
    _check_sources_left_out(config, parent)
    known = sum(entry.rows for entry in parent.snapshot.rows)
    estimate = max(known, sum(FORMATS[file.format].estimate_rows(file) for file in lists))
    stages = tuple(fingerprints)
    return Survey(
        spill=spill,
        parent=parent.snapshot.number or None,
        parent_uuid=parent.snapshot.uuid,
        lists=lists,
        headers=headers,
        folders=tuple(sorted({file.folder for file in lists})),
        bits=max(0, (estimate // _PARTITION_ROWS).bit_length()),
        stages=stages,
        fingerprints=dict(fingerprints),
        receipts=tuple(unpublished_receipts(bank, parent, stages)),
        due=_due(bank, parent, time.time() if now is None else now),
        refused=tuple(refused_plans(bank)),
    )


def _check_sources_left_out(config: Config, parent: Parent) -> None:
    """One embedding model, one size of clips and one way of inversion in a bank: all of its rows change, or none."""
    left_out = set(parent.snapshot.sources) - {source.label for source in config.sources}
    known = parent.snapshot.stage_fingerprints
    changed = [name for name, now in parent.fingerprints.items() if known.get(name, now) != now]
    if left_out and changed and not config.prune:
        raise ConfigError(
            f"sources: {', '.join(sorted(left_out))} of the bank are left out, but the options or the model of "
            f"{', '.join(changed)} changed, which concerns all rows; name all sources, or pass --prune to remove those "
            "left out"
        )


def _due(bank: Store, parent: Parent, now: float) -> tuple[tuple[int, int], ...]:
    known: set[tuple[int, int]] = set()
    for rows in parent.failure_table.slices():
        waiting = rows.filter((pc.field("code") != "") & pc.field("retryable"))
        pairs = waiting.select(["attempts", "last_snapshot"]).group_by(["attempts", "last_snapshot"]).aggregate([])
        known.update(zip(pairs.column("attempts").to_pylist(), pairs.column("last_snapshot").to_pylist(), strict=True))
    failed_at = dict.fromkeys((last for _, last in known), 0.0)  # (what was vacuumed is long past)
    for number in failed_at:
        with suppress(SnapshotExpired):
            failed_at[number] = datetime.fromisoformat(read_snapshot(bank, number).created).timestamp()
    return tuple(sorted(pair for pair in known if _is_due(pair[0], failed_at[pair[1]], now)))


def _is_due(attempts: int, failed_at: float, now: float) -> bool:
    """Whether to try again what failed for the last time at ``failed_at``: not for ever, and after the second failure
    only when an hour has passed, then two, four..."""
    pause = _FIRST_PAUSE_SECONDS * 2 ** (attempts - 2) if attempts > 1 else 0.0
    return attempts < MAX_ATTEMPTS and now >= failed_at + pause
