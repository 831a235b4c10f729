"""Verification: every file of a snapshot is read again and compared with its checksum, every number counted again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from noisebank.commits.delta import name_sources
from noisebank.errors import BankDamaged
from noisebank.format.index_deletions import read_deleted, read_nums
from noisebank.format.layout import is_ours
from noisebank.format.manifest import Snapshot, read_snapshot, snapshot_numbers, snapshot_path
from noisebank.format.parts import part_entries, read_parts
from noisebank.format.tables import FAILURE_KEY, OverlayTable
from noisebank.format.tally import count_failures, tally
from noisebank.progress import ReportProgress, silent
from noisebank.storage import FileEntry, Store
from noisebank.storage.files import hash_stored

_READERS = 4


@dataclass(frozen=True, order=True)
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
    done = 0

    def find_damaged(entries: Sequence[FileEntry]) -> Iterator[Damage]:
        nonlocal done
        with ThreadPoolExecutor(_READERS) as pool:
            for entry, reason in zip(entries, pool.map(partial(_find_fault, store), entries), strict=True):
                if reason:
                    yield Damage(entry.path, reason)
                done += entry.bytes
                progress(done, snapshot.total_bytes)

    damaged = list(find_damaged(own))
    unreadable = {damage.path for damage in damaged}
    parts = [part for kind in snapshot.parts.values() for part in kind if part.path not in unreadable]
    data = part_entries(read_parts(store, parts))
    damaged += find_damaged(data)
    if not unreadable:
        damaged += _find_contradictions(store, snapshot)
    foreign = (file.key for file in store.scan() if not is_ours(file.key))
    damaged += (Damage(path, "foreign: not a file of a bank; move it elsewhere") for path in foreign)
    return Verification(snapshot, len(own) + len(data), done, tuple(sorted(damaged)))


def _find_fault(store: Store, entry: FileEntry) -> str:
    """What is wrong with a file; empty if nothing is."""
    try:
        size = store.size(entry.path)
        if size < entry.bytes:
            return f"truncated: {size} of {entry.bytes} bytes"
        if size > entry.bytes:
            return f"too long: {size} bytes, {entry.bytes} are wanted"
        is_same = hash_stored(store, entry.path) == entry.sha256
        return "" if is_same else "changed: its content differs from its checksum"
    except FileNotFoundError:
        return "missing"
    except (BankDamaged, OSError) as error:
        return f"unreadable: {error}"


def _find_contradictions(store: Store, snapshot: Snapshot) -> Iterator[Damage]:
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
            named_keys, live_keys = ([f"{key:016x}" for key in keys.tolist()] for keys in (known, wanted))
            stated[f"{kind}: files that rows refer to"] = (named_keys, live_keys)
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
    numbers = snapshot_numbers(store)
    if gap := set(range(1, max(numbers, default=0))).difference(numbers):
        yield Damage(snapshot_path(min(gap)), "missing: snapshot numbers have no gaps")
