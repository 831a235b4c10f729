"""Counting a snapshot from its tables: what is in the bank, and which data files something still refers to.

Every commit counts afresh instead of keeping sums up to date, and verify counts again and compares: one pass over the
id tables in slices (about a second per ten million rows and table).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc

from noisebank.format.schemas import RECORDS
from noisebank.format.stage_names import CAPTIONS, CLIPS, SIDECARS, StageName
from noisebank.format.status import Status
from noisebank.format.tables import OverlayTable, column_at, slice_edges
from noisebank.ids import Hashes
from noisebank.storage import FileEntry, Store


@dataclass
class Tally:
    """What the tables of a snapshot say.

    Args:
        sources: rows that are not removed, by the number of their source.
        in_bank: rows with a clip, a caption and a record in every configured noise set.
        records: rows with a record, by the key of their table (:attr:`noisebank.format.stage_names.StageName.records`).
        clip_files, caption_files: keys of the files that rows refer to, unique and sorted.
        record_files: the same by the key of the table of records.
    """

    sources: Counter[int] = field(default_factory=Counter)
    in_bank: int = 0
    records: Counter[str] = field(default_factory=Counter)
    clip_files: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    caption_files: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    record_files: dict[str, Hashes] = field(default_factory=dict)

    def live(self, kind: str) -> Hashes:
        """The keys of one kind of data files (:mod:`noisebank.format.parts`) that rows refer to."""
        if kind in (CLIPS, SIDECARS):
            return self.clip_files
        return self.caption_files if kind == CAPTIONS else self.record_files[StageName.parse(kind).records]


def tally(
    store: Store, rows: Sequence[FileEntry], records: Mapping[str, Sequence[FileEntry]], noise_sets: Collection[str]
) -> Tally:
    """Counts the tables of a snapshot.

    Args:
        store: the bank.
        rows: segments of its rows.
        records: segments of its records, by the key of their table.
        noise_sets: the sets in which a row must have a record to be in the bank; each a key of ``records``.
    """
    result = Tally(record_files={name: np.zeros(0, np.uint64) for name in records})
    if not rows:
        return result
    row_table = OverlayTable(store, rows)
    tables = {name: OverlayTable(store, entries, schema=RECORDS) for name, entries in records.items()}
    edges = slice_edges([row_table, *tables.values()])
    for lo, hi in zip(edges, [*edges[1:], None], strict=True):
        piece = row_table.slice(lo, hi)
        nums = piece.column("num").to_numpy()
        present = piece.column("status").to_numpy() != Status.REMOVED
        clip_file, caption_file = (piece.column(name).to_numpy() for name in ("clip_file", "caption_file"))
        sources, counts = np.unique(piece.column("source").to_numpy()[present], return_counts=True)
        result.sources.update(dict(zip(sources.tolist(), counts.tolist(), strict=True)))
        result.clip_files = _unite(result.clip_files, clip_file[present])
        result.caption_files = _unite(result.caption_files, caption_file[present])
        complete = present & (clip_file != 0) & (caption_file != 0)
        for name, table in tables.items():
            held = table.slice(lo, hi).filter(pc.field("status") != int(Status.REMOVED))
            files = column_at(nums, [held], "file")
            files[~present] = 0
            result.records[name] += int(np.count_nonzero(files))
            result.record_files[name] = _unite(result.record_files[name], files)
            if name in noise_sets:
                complete &= files != 0
        result.in_bank += int(complete.sum())
    return result


def count_failures(failures: OverlayTable) -> dict[str, int]:
    """Failures by code, most first; healed ones are not counted."""
    counts: Counter[str] = Counter()
    for piece in failures.slices():
        for count in pc.value_counts(piece.column("code")).to_pylist():
            counts[count["values"]] += count["counts"]
    counts.pop("", None)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _unite(keys: Hashes, more: Hashes) -> Hashes:
    return np.union1d(keys, more[more != 0])
