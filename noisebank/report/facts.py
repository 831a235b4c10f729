"""What the tables of a snapshot say, gathered for a page: sources, failures, files, stages, earlier snapshots.

Tables are read in slices, so that memory stays small however large the bank is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from noisebank.describe import describe, diff
from noisebank.errors import SnapshotExpired
from noisebank.format.manifest import Snapshot, read_snapshot, snapshot_numbers
from noisebank.format.parts import read_parts
from noisebank.format.schemas import FAILURES
from noisebank.format.stage_names import CAPTIONS, CLIPS, INDEX, SIDECARS
from noisebank.format.tables import FAILURE_KEY, OverlayTable
from noisebank.storage import Store

_SNAPSHOTS = 20
"""Newest snapshots that are listed."""
_FAILURE_COLUMNS = ("source", "stage", "code", "id", "uri", "message")


@dataclass(frozen=True)
class Failed:
    """The rows that failed for one reason at one stage, with one of them as an example."""

    source: str
    stage: str
    code: str
    rows: int
    retryable: bool
    id: str
    uri: str
    message: str


@dataclass(frozen=True)
class Files:
    """The files of one kind."""

    kind: str
    files: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class StageFacts:
    """What a stage holds, and what it did in the newest build of which that is known.

    Args:
        rows, bytes: in its files.
        done, failed: rows of that build.
        seconds: of work in it, over all workers.
    """

    name: str
    rows: int
    bytes: int
    done: int
    failed: int
    seconds: float


@dataclass(frozen=True)
class Facts:
    """What the tables say.

    Args:
        description: as ``noisebank show`` prints it.
        failures: most rows first.
        files: largest kind first.
        stages: in the order of a build.
        built: number of the snapshot whose build the stages' times are of; None where none is known.
        history: the newest snapshots that are still there, newest first.
        difference: to another snapshot, as ``noisebank show --diff``; None where none was asked for.
        compared: that snapshot.
    """

    snapshot: Snapshot
    description: Mapping[str, Any]
    failures: Sequence[Failed]
    files: Sequence[Files]
    stages: Sequence[StageFacts]
    built: int | None
    history: Sequence[Snapshot]
    difference: Mapping[str, Any] | None = None
    compared: Snapshot | None = None

    @property
    def failed_by_source(self) -> dict[str, int]:
        """Failures of each source."""
        counts: Counter[str] = Counter()
        for failed in self.failures:
            counts[failed.source] += failed.rows
        return dict(counts)


def gather(store: Store, snapshot: Snapshot, compared: Snapshot | None = None) -> Facts:
    """Reads the tables of a snapshot, and of another to compare it with.

    Raises:
        BankDamaged: a file is missing or cannot be read.
    """
    files = count_files(store, snapshot)
    history = _read_history(store, snapshot)
    built = next((one for one in history if one.stages), None)
    return Facts(
        snapshot=snapshot,
        description=describe(store, snapshot),
        failures=count_failures(store, snapshot),
        files=files,
        stages=_join_stages(files, built.stages if built else {}),
        built=built.number if built else None,
        history=history,
        difference=diff(store, compared, snapshot) if compared else None,
        compared=compared,
    )


def count_failures(store: Store, snapshot: Snapshot) -> list[Failed]:
    """The failures by source, stage and code, most rows first."""
    key = ["source", "stage", "code"]
    wanted = [(name, "first") for name in ("id", "uri", "message")] + [("num", "count"), ("retryable", "max")]
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for piece in OverlayTable(store, snapshot.failures, FAILURE_KEY, FAILURES).slices():
        piece = piece.filter(pc.field("code") != "")
        for row in piece.group_by(key, use_threads=False).aggregate(wanted).to_pylist():
            known = found.setdefault(tuple(row[name] for name in key), row | {"num_count": 0})
            known["num_count"] += row["num_count"]
            known["retryable_max"] |= row["retryable_max"]
    failed = [
        Failed(
            **{name: row[name] for name in key},
            **{name: row[f"{name}_first"] for name in ("id", "uri", "message")},
            rows=row["num_count"],
            retryable=row["retryable_max"],
        )
        for row in found.values()
    ]
    return sorted(failed, key=lambda one: (-one.rows, one.source, one.stage, one.code))


def count_files(store: Store, snapshot: Snapshot) -> list[Files]:
    """Files, rows and bytes of each kind, largest first."""
    groups = {kind: read_parts(store, parts) for kind, parts in snapshot.parts.items()}
    counted = [
        Files(kind, part.num_rows, pc.sum(part.column("rows")).as_py() or 0, pc.sum(part.column("bytes")).as_py() or 0)
        for kind, part in groups.items()
    ]
    index = [file for segment in snapshot.index for file in segment.files]
    counted.append(Files(INDEX, len(index), sum(s.live for s in snapshot.index), sum(file.bytes for file in index)))
    tables = {*snapshot.own_files} - {*index}
    counted.append(Files("tables", len(tables), sum(f.rows for f in snapshot.rows), sum(f.bytes for f in tables)))
    return sorted((files for files in counted if files.files), key=lambda files: (-files.bytes, files.kind))


def _join_stages(files: Sequence[Files], figures: Mapping[str, Mapping[str, float]]) -> list[StageFacts]:
    held = {one.kind: one for one in files}
    stages = {CLIPS, CAPTIONS, INDEX, *figures, *(kind for kind in held if "/" in kind)}
    facts = []
    for name in sorted(stages, key=lambda name: ((CLIPS, CAPTIONS, INDEX, name).index(name), name)):
        own, beside = held.get(name), held.get(SIDECARS) if name == CLIPS else None
        rows, size = (own.rows, own.bytes + (beside.bytes if beside else 0)) if own else (0, 0)
        did = figures.get(name, {})
        done, failed = int(did.get("done", 0)), int(did.get("failed", 0))
        facts.append(StageFacts(name, rows, size, done, failed, float(did.get("seconds", 0))))
    return facts


def _read_history(store: Store, snapshot: Snapshot) -> list[Snapshot]:
    found = []
    for number in [number for number in snapshot_numbers(store) if number <= snapshot.number][-_SNAPSHOTS:]:
        try:
            found.append(read_snapshot(store, number))
        except SnapshotExpired:
            continue
    return found[::-1]
