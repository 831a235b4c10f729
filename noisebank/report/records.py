"""The statistics of noise records, for histograms: of all records of a small bank, of whole shards drawn evenly from a
large one. Only records that the snapshot still refers to count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.format.manifest import Snapshot
from noisebank.format.parts import part_entries, read_parts
from noisebank.format.reading import read_table
from noisebank.format.schemas import RECORDS
from noisebank.format.stage_names import NOISE
from noisebank.format.status import Status
from noisebank.format.tables import OverlayTable
from noisebank.ids import Nums
from noisebank.storage import Store

STATISTICS = {
    "stored_reconstruction_error": "error of the record as stored",
    "reconstruction_error": "error before it was stored",
    "max_residual": "largest residual of a step",
}
"""Columns that are shown where they were measured, and what they are; all relative, and best near zero."""
SHARDS = 256
"""Noise shards that are read at most."""


@dataclass(frozen=True)
class Statistic:
    """One column of the records read.

    Args:
        values: float64, those measured.
    """

    name: str
    means: str
    values: npt.NDArray[np.float64]

    @property
    def summary(self) -> dict[str, float]:
        """Median, 95th percentile and the largest; empty where nothing was measured."""
        if not len(self.values):
            return {}
        median, high = np.quantile(self.values, (0.5, 0.95)).tolist()
        return {"median": median, "p95": high, "largest": float(self.values.max())}


@dataclass(frozen=True)
class SetFacts:
    """The records of one noise set.

    Args:
        model: what the snapshot says of the set.
        records: clips with a record.
        shards: files of the set; ``read``: those whose records were looked at.
        looked_at: records in them that the snapshot refers to.
        statistics: see :data:`STATISTICS`.
    """

    name: str
    model: Mapping[str, Any]
    records: int
    shards: int
    read: int
    looked_at: int
    statistics: tuple[Statistic, ...]


def read_sets(store: Store, snapshot: Snapshot, shards: int = SHARDS) -> list[SetFacts]:
    """The noise sets of a snapshot.

    Args:
        store: the bank.
        snapshot: the snapshot.
        shards: files that are read at most of a set, evenly spread over their names, which are hashes.

    Raises:
        BankDamaged: a file is missing or cannot be read.
    """
    return [_read_set(store, snapshot, name, shards) for name in sorted(snapshot.models.get(NOISE, {}))]


def _read_set(store: Store, snapshot: Snapshot, name: str, shards: int) -> SetFacts:
    entries = part_entries(read_parts(store, snapshot.parts.get(f"{NOISE}/{name}", ())))
    places = np.unique(np.linspace(0, len(entries) - 1, min(shards, len(entries))).round().astype(int))
    chosen = [entries[place] for place in places.tolist()]
    rows = _live_rows(store, snapshot, name, pa.array([entry.key for entry in chosen], pa.uint64()))
    tables = [
        read_table(store, entry.path, [*STATISTICS]).take(pa.array(rows[entry.key]))
        for entry in chosen
        if entry.key in rows
    ]
    schema = pa.schema([(column, pa.float32()) for column in STATISTICS])
    table = pa.concat_tables([schema.empty_table(), *tables])
    statistics = [Statistic(column, means, _measured(table.column(column))) for column, means in STATISTICS.items()]
    return SetFacts(
        name,
        snapshot.models[NOISE][name],
        snapshot.record_counts.get(name, 0),
        len(entries),
        len(chosen),
        table.num_rows,
        tuple(statistics),
    )


def _live_rows(store: Store, snapshot: Snapshot, name: str, keys: pa.Array) -> dict[int, Nums]:
    """By the key of a shard, which of its rows the snapshot refers to."""
    table = OverlayTable(store, snapshot.records.get(name, ()), schema=RECORDS)
    kept = pc.field("file").isin(keys) & (pc.field("status") == int(Status.OK))
    pieces = [piece.filter(kept).select(["file", "row"]) for piece in table.slices()]
    if not pieces:
        return {}
    found = pa.concat_tables(pieces).sort_by([("file", "ascending"), ("row", "ascending")])
    files, rows = (found.column(column).to_numpy() for column in ("file", "row"))
    unique, first = np.unique(files, return_index=True)
    return dict(zip(unique.tolist(), np.split(rows.astype(np.int64), first[1:]), strict=True)) if len(rows) else {}


def _measured(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    values = column.drop_null().to_numpy().astype(np.float64)
    measured: npt.NDArray[np.float64] = values[np.isfinite(values)]
    return measured
