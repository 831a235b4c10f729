"""Verification: every file of a snapshot is read again and compared with its checksum, every number counted again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from noisebank.commits.delta import name_sources
from noisebank.errors import BankDamaged
from noisebank.format.index_deletions import read_deleted, read_nums
from noisebank.format.layout import is_ours
from noisebank.format.manifest import Snapshot, latest_snapshot, read_snapshot, snapshot_numbers, snapshot_path
from noisebank.format.parts import part_entries, read_parts
from noisebank.format.tables import FAILURE_KEY, OverlayTable
from noisebank.format.tally import count_failures, tally
from noisebank.progress import ReportProgress, silent
from noisebank.storage import FileEntry, Store
from noisebank.storage.files import hash_stored

_READERS = 4


@dataclass(frozen=True)
class Damage:
    """A file that is not as it should be."""

    path: str
    reason: str


@dataclass(frozen=True)
class Verification:
    """What was found.

    Args:
        snapshot: the one that was verified; None if its JSON cannot be read.
        files: files read.
        bytes: that they should have.
        damaged: sorted by path; empty if all is well.
    """

    snapshot: Snapshot | None
    files: int
    bytes: int
    damaged: tuple[Damage, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged


def verify(store: Store, number: int | None = None, progress: ReportProgress = silent) -> Verification:
    """Reads every file of a snapshot and compares size, sha256 and counts with what the snapshot says.

    Args:
        store: the bank.
        number: of the snapshot, by default the newest.
        progress: called with the bytes read and the bytes in all.

    Raises:
        BankNotFound, SnapshotExpired, UnsupportedFormat: there is nothing to verify.
    """
    try:
        snapshot = read_snapshot(store, number)
    except BankDamaged as error:
        return Verification(None, 0, 0, (Damage(snapshot_path(number or snapshot_numbers(store)[-1]), str(error)),))
    own = snapshot.own_files
    read = _Counter(snapshot.total_bytes, progress)
    damaged = list(_damaged_files(store, own, read))
    data = _data_files(store, snapshot, {damage.path for damage in damaged})
    damaged += _damaged_files(store, data, read)
    if not {entry.path for entry in own} & {damage.path for damage in damaged}:
        damaged += _contradictions(store, snapshot)
    damaged += _foreign_files(store)
    return Verification(
        snapshot,
        len(own) + len(data),
        read.done,
        tuple(sorted(damaged, key=lambda damage: (damage.path, damage.reason))),
    )


@dataclass
class _Counter:
    """Bytes read so far, reported as they grow."""

    total: int
    report: ReportProgress
    done: int = 0

    def add(self, entry: FileEntry) -> None:
        self.done += entry.bytes
        self.report(self.done, self.total)


def _data_files(store: Store, snapshot: Snapshot, unreadable: set[str]) -> list[FileEntry]:
    """The data files that the readable ones of the manifest parts name."""
    parts = [part for kind in snapshot.parts.values() for part in kind if part.path not in unreadable]
    return part_entries(read_parts(store, parts))


def _damaged_files(store: Store, entries: Sequence[FileEntry], read: _Counter) -> Iterator[Damage]:
    with ThreadPoolExecutor(_READERS) as pool:
        for entry, reason in zip(entries, pool.map(lambda e: _fault(store, e), entries), strict=True):
            if reason:
                yield Damage(entry.path, reason)
            read.add(entry)


def _fault(store: Store, entry: FileEntry) -> str:
    """What is wrong with a file; empty if nothing is."""
    try:
        size = store.size(entry.path)
        if size < entry.bytes:
            return f"truncated: {size} of {entry.bytes} bytes"
        if size > entry.bytes:
            return f"too long: {size} bytes, {entry.bytes} are wanted"
        return (
            "" if hash_stored(store, entry.path) == entry.sha256 else "changed: its content differs from its checksum"
        )
    except FileNotFoundError:
        return "missing"
    except (BankDamaged, OSError) as error:
        return f"unreadable: {error}"


def _contradictions(store: Store, snapshot: Snapshot) -> Iterator[Damage]:
    """Where the numbers of a snapshot disagree with its own tables."""
    try:
        counted = tally(store, snapshot.rows, snapshot.records, snapshot.noise_sets)
        named = {kind: read_parts(store, entries) for kind, entries in snapshot.parts.items()}
        stated = {
            "in_bank": (snapshot.in_bank, counted.in_bank),
            "sources": (dict(snapshot.sources), name_sources(counted, snapshot.sources)),
            "rows of all sources": (sum(snapshot.sources.values()), counted.sources.total()),
            "record_counts": (dict(snapshot.record_counts), {n: counted.records[n] for n in snapshot.record_counts}),
            "failure_counts": (
                dict(snapshot.failure_counts),
                count_failures(OverlayTable(store, snapshot.failures, FAILURE_KEY)),
            ),
            "data_bytes": (snapshot.data_bytes, sum(sum(part.column("bytes").to_pylist()) for part in named.values())),
        }
        for kind, part in named.items():
            known, wanted = np.unique(part.column("key").to_numpy()), counted.live(kind)
            stated[f"{kind}: files that rows refer to"] = (_hex(known), _hex(wanted))
        for segment in snapshot.index:
            stated[f"{segment.index.path}: positions"] = (segment.size, len(read_nums(store, segment)))
            deleted = segment.deleted.rows if segment.deleted else 0
            stated[f"{segment.index.path}: deleted"] = (deleted, int(read_deleted(store, segment).sum()))
    except (BankDamaged, KeyError) as error:
        yield Damage(snapshot.path, f"does not fit its files: {error}")
        return
    for name, (says, found) in stated.items():
        if says != found:
            yield Damage(snapshot.path, f"disagrees with its files about {name}: {says} stated, {found} counted")
    latest = latest_snapshot(store)
    if latest is not None and (gap := set(range(1, latest.number)) - set(snapshot_numbers(store))):
        yield Damage(snapshot_path(min(gap)), "missing: snapshot numbers have no gaps")


def _foreign_files(store: Store) -> Iterator[Damage]:
    for file in store.scan():
        if not is_ours(file.key):
            yield Damage(file.key, "foreign: not a file of a bank; move it elsewhere")


def _hex(keys: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> list[str]:
    return [f"{key:016x}" for key in keys.tolist()]
