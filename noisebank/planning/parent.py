"""What a plan needs to know of the snapshot that it updates, in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.parts import read_parts
from noisebank.format.tables import FAILURE_KEY, OverlayTable, matches
from noisebank.planning.listing import Hashes, Mask, Nums
from noisebank.storage import FileEntry, Store

Columns = dict[str, npt.NDArray[Any]]
_ROWS = {
    "num": np.int64,
    "source": np.uint32,
    "listed": np.uint64,
    "video": np.uint64,
    "caption": np.uint64,
    "clip_file": np.uint64,
    "clip_row": np.int32,
    "caption_file": np.uint64,
    "caption_row": np.int32,
    "status": np.uint8,
}
_RECORDS = {"num": np.int64, "file": np.uint64, "row": np.int32, "checksum": np.uint64, "status": np.uint8}


class Parent:
    """A snapshot, or none, as seen by a plan with given stage fingerprints.

    Args:
        store: the bank.
        number: of the snapshot, None for an empty bank.
        fingerprints: stage to fingerprint of the configuration: ``clips``, ``captions``, ``noise/<set>``.
    """

    def __init__(self, store: Store, number: int | None, fingerprints: Mapping[str, str]) -> None:
        self.store = store
        self.fingerprints = fingerprints
        self.snapshot: Snapshot | None = None if number is None else read_snapshot(store, number)

    @property
    def noise_sets(self) -> list[str]:
        """Names of the noise sets that it has records of."""
        return sorted(self.snapshot.records) if self.snapshot else []

    @property
    def row_count(self) -> int:
        """Rows of its overlay table, those hidden by newer ones included."""
        return sum(entry.rows for entry in self.snapshot.rows) if self.snapshot else 0

    def rows(self, lo: int, hi: int) -> Columns:
        """What is known of the rows ``lo <= num < hi``."""
        return _columns(self._rows, lo, hi, _ROWS)

    def records(self, noise_set: str, lo: int, hi: int) -> Columns:
        """The records of a noise set."""
        table = self._records.get(noise_set)
        return _columns(table, lo, hi, _RECORDS)

    def failures(self, lo: int, hi: int) -> pa.Table | None:
        """The failures that hold; None where there is none."""
        if self.snapshot is None or not self.snapshot.failures:
            return None
        table = self._failures.slice(lo, hi)
        return table.filter(pa.compute.not_equal(table.column("code"), "")) if table.num_rows else None

    def failure_table(self) -> OverlayTable | None:
        """All failures, healed ones included."""
        return self._failures if self.snapshot and self.snapshot.failures else None

    @property
    def sources(self) -> list[str]:
        """Names of the sources that it has rows of."""
        return sorted(self.snapshot.sources) if self.snapshot else []

    def same_options(self, stage: str) -> bool:
        """Whether the snapshot was made with the options that a stage has now."""
        return self._fingerprint(stage) == self.fingerprints[stage]

    def other_options(self, stage: str) -> bool:
        """Whether the snapshot knows the stage, with other options."""
        return self._fingerprint(stage) not in (None, self.fingerprints[stage])

    def _fingerprint(self, stage: str) -> str | None:
        known = self.snapshot.fingerprints if self.snapshot else {}
        found = known.get("noise", {}).get(stage.removeprefix("noise/")) if "/" in stage else known.get(stage)
        return None if found is None else str(found)

    def is_current(self, stage: str, files: Hashes) -> Mask:
        """Which of the files, by key, exist (0: none) and were made with the options that the stage has now."""
        stale = self._stale.get(stage)
        exists = files != 0
        return np.asarray(exists if stale is None or not len(stale) else exists & ~np.isin(files, stale), bool)

    def finished(self, kind: str) -> set[str]:
        """Inputs hashes of the published receipts of a kind of data files."""
        parts = self._parts(kind)
        return set() if parts is None else set(parts.column("inputs").to_pylist())

    def paths(self, kind: str) -> dict[int, str]:
        """Path of every data file of a kind, by key."""
        parts = self._parts(kind)
        if parts is None:
            return {}
        return dict(zip(parts.column("key").to_pylist(), parts.column("path").to_pylist(), strict=True))

    @cached_property
    def _rows(self) -> OverlayTable | None:
        return _table(self.store, self.snapshot.rows) if self.snapshot else None

    @cached_property
    def _records(self) -> dict[str, OverlayTable | None]:
        records = self.snapshot.records if self.snapshot else {}
        return {name: _table(self.store, entries) for name, entries in records.items()}

    @cached_property
    def _failures(self) -> OverlayTable:
        entries = self.snapshot.failures if self.snapshot else ()
        return OverlayTable(self.store, entries, FAILURE_KEY)

    @cached_property
    def _stale(self) -> dict[str, Hashes]:
        """Keys of files made with other options, by stage."""
        stale = {}
        for stage, fingerprint in self.fingerprints.items():
            parts = self._parts(stage)
            if parts is not None:
                old = pa.compute.not_equal(parts.column("fingerprint"), fingerprint)
                stale[stage] = parts.column("key").filter(old).to_numpy()
        return stale

    def _parts(self, kind: str) -> pa.Table | None:
        entries = self.snapshot.parts.get(kind, ()) if self.snapshot else ()
        return read_parts(self.store, entries) if entries else None


def joined(columns: Columns, nums: Nums) -> tuple[Columns, Mask]:
    """The columns of a table sorted by ``num`` at the given numbers, zeros where it lacks one; and which it has."""
    places, found = matches(columns["num"], nums)
    if not len(columns["num"]):
        return {name: np.zeros(len(nums), values.dtype) for name, values in columns.items()}, found
    return {name: np.where(found, values[places], values.dtype.type(0)) for name, values in columns.items()}, found


def _table(store: Store, entries: Sequence[FileEntry]) -> OverlayTable | None:
    return OverlayTable(store, entries) if entries else None


def _columns(table: OverlayTable | None, lo: int, hi: int, types: Mapping[str, Any]) -> Columns:
    if table is None:
        return {name: np.zeros(0, type) for name, type in types.items()}
    rows = table.slice(lo, hi)
    return {name: rows.column(name).to_numpy() for name in types}
