"""What a plan needs to know of the snapshot that it updates, in columns."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from noisebank.format.manifest import EMPTY, read_snapshot
from noisebank.format.parts import read_parts
from noisebank.format.schemas import FAILURES, RECORDS, ROWS
from noisebank.format.stage_names import StageName
from noisebank.format.tables import FAILURE_KEY, OverlayTable, matches
from noisebank.ids import Hashes, Mask, Nums
from noisebank.storage import Store

Columns = dict[str, npt.NDArray[Any]]


class Parent:
    """A snapshot, or none, as seen by a plan with given stage fingerprints.

    Args:
        store: the bank.
        number: of the snapshot, None for an empty bank.
        fingerprints: of the configuration's stages by name.
    """

    def __init__(self, store: Store, number: int | None, fingerprints: Mapping[str, str]) -> None:
        self.store = store
        self.fingerprints = fingerprints
        self.snapshot = EMPTY if number is None else read_snapshot(store, number)

    def rows(self, lo: int, hi: int) -> Columns:
        """What is known of the rows ``lo <= num < hi``."""
        return to_columns(self._rows.slice(lo, hi))

    def records(self, stage: str, lo: int, hi: int) -> Columns:
        """The records of a stage over clips."""
        return to_columns(self.record_tables.get(stage, OverlayTable(self.store, (), schema=RECORDS)).slice(lo, hi))

    def failures(self, lo: int, hi: int) -> pa.Table:
        """The failures that hold."""
        table = self.failure_table.slice(lo, hi)
        return table.filter(pa.compute.not_equal(table.column("code"), ""))

    @cached_property
    def failure_table(self) -> OverlayTable:
        """All failures, healed ones included."""
        return OverlayTable(self.store, self.snapshot.failures, FAILURE_KEY, schema=FAILURES)

    def same_options(self, stage: str) -> bool:
        """Whether the snapshot was made with the options that a stage has now."""
        return self.snapshot.stage_fingerprints.get(stage) == self.fingerprints[stage]

    def is_current(self, stage: str, files: Hashes) -> Mask:
        """Which of the files, by key, exist (0: none) and were made with the options that the stage has now."""
        stale = self._stale.get(stage)
        exists = files != 0
        return np.asarray(exists if stale is None or not len(stale) else exists & ~np.isin(files, stale), bool)

    def finished(self, kind: str) -> set[str]:
        """Inputs hashes of the published receipts of a kind of data files."""
        return set(self._parts(kind).column("inputs").to_pylist())

    def paths(self, kind: str) -> dict[int, str]:
        """Path of every data file of a kind, by key."""
        parts = self._parts(kind)
        return dict(zip(parts.column("key").to_pylist(), parts.column("path").to_pylist(), strict=True))

    @cached_property
    def _rows(self) -> OverlayTable:
        return OverlayTable(self.store, self.snapshot.rows, schema=ROWS)

    @cached_property
    def _stale(self) -> dict[str, Hashes]:
        """Keys of files made with other options, by stage."""
        stale = {}
        for stage, fingerprint in self.fingerprints.items():
            parts = self._parts(stage)
            old = pa.compute.not_equal(parts.column("fingerprint"), fingerprint)
            stale[stage] = parts.column("key").filter(old).to_numpy()
        return stale

    @cached_property
    def record_tables(self) -> dict[str, OverlayTable]:
        """Its records, by the names of their stages."""
        known = {StageName.of_records(key).name: entries for key, entries in self.snapshot.records.items()}
        return {name: OverlayTable(self.store, entries, schema=RECORDS) for name, entries in known.items()}

    def _parts(self, kind: str) -> pa.Table:
        return read_parts(self.store, self.snapshot.parts.get(kind, ()))


def look_up(columns: Columns, nums: Nums) -> tuple[Columns, Mask]:
    """The columns of a table sorted by ``num`` at the given numbers, zeros where it lacks one; and which it has."""
    places, found = matches(columns["num"], nums)
    if not len(columns["num"]):
        return {name: np.zeros(len(nums), values.dtype) for name, values in columns.items()}, found
    return {name: np.where(found, values[places], values.dtype.type(0)) for name, values in columns.items()}, found


def to_columns(table: pa.Table) -> Columns:
    """The columns of a table of numbers."""
    return {name: table.column(name).to_numpy() for name in table.column_names}
