"""Compaction: the small and half-empty shards that updates leave behind become full ones, by copying.

The bank holds the same rows and the same noise afterwards; nothing is fetched, decoded, embedded or inverted. Tars get
the captions that hold now. With ``purge``, no file of the newest snapshot holds the clip, caption or noise of a removed
row, and the older snapshots, whose files still did, are vacuumed.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo, Delta
from noisebank.format.caption_places import all_captions
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.parts import find_entries, part_entries, read_parts
from noisebank.format.reading import verified_table
from noisebank.format.receipts import Receipt
from noisebank.format.stage_names import CAPTIONS, CLIPS, SIDECARS, StageName
from noisebank.format.status import Status
from noisebank.format.tables import OverlayTable
from noisebank.ids import Mask, Nums
from noisebank.options import MAX_SHARD_ROWS
from noisebank.planning.cut import records_a_file
from noisebank.progress import ReportProgress, silent
from noisebank.storage import BankWriter, FileEntry, Store
from noisebank.upkeep.purge import forget, has_traces, rebuild_worn_segments
from noisebank.upkeep.repack import FileRows, Repacked, repack_captions, repack_clips, repack_records
from noisebank.upkeep.vacuum import vacuum

_HELD = pc.field("status") != int(Status.REMOVED)
_PLACES = {CLIPS: ("clip_file", "clip_row"), CAPTIONS: ("caption_file", "caption_row")}
"""By kind, the columns that say where a row's data is; of records they are file and row."""


def compact(
    store: Store, *, maxcount: int = MAX_SHARD_ROWS, purge: bool = False, progress: ReportProgress = silent
) -> Snapshot:
    """Merges small shards, renews captions in tars, and commits the result.

    A shard is rewritten if it is less than half full and there is another to merge it with, if more than half of it is
    dead, if a caption in it is out of date, or (``purge``) if anything in it is dead. The id tables are held in memory:
    about 100 bytes a row.

    Args:
        store: the bank.
        maxcount: rows in a full shard.
        purge: also remove every removed row's clip, caption and noise, by rewriting whatever holds one and vacuuming
            the older snapshots and all unpublished work: run it while no build is running.
        progress: called with the shards written; how many there will be is not known.

    Returns:
        The new snapshot, or the present one if there is nothing to do.

    Raises:
        BankDamaged: a file to be copied is missing or damaged; run verify.
        SnapshotConflict: a build committed meanwhile; run it again, finished copies are found by their receipts.
    """
    base = read_snapshot(store)
    delta = _Compaction(store, base, maxcount, purge, progress).delta() if base.rows else Delta()
    snapshot = commit(store, base, delta, CommitInfo(operation="compact"))
    if not purge:
        return snapshot
    snapshot = vacuum(store, keep=1, unpublished_seconds=0).snapshot
    forget(store, snapshot)
    return snapshot


class _Compaction:
    """Chooses what to rewrite, has it rewritten, and follows where every row went."""

    def __init__(self, store: Store, base: Snapshot, maxcount: int, purge: bool, progress: ReportProgress) -> None:
        self.store, self.base, self.maxcount, self.purge, self.progress = store, base, maxcount, purge, progress
        self.rows = OverlayTable(store, base.rows).read().filter(_HELD)
        self.writer = BankWriter(store, base.vacuum)
        self.receipts: list[Receipt] = []
        self.made: defaultdict[str, list[Repacked]] = defaultdict(list)
        self._part = cache(lambda kind: read_parts(store, base.parts.get(kind, ())))

    def delta(self) -> Delta:
        """What changes; every shard is written."""
        self._repack_clips()
        self._repack_captions()
        after, moved = self._follow(CLIPS, self.rows)
        after, also_moved = self._follow(CAPTIONS, after)
        records = {key: [self._repack_records(key, after)] for key, entries in self.base.records.items() if entries}
        delta = Delta([after.filter(pa.array(moved | also_moved))], records, receipts=self.receipts)
        if not self.purge:
            return delta
        index, replaces, receipts = rebuild_worn_segments(self.writer, self.base)
        purges = has_traces(self.store, self.base)
        return dataclasses.replace(
            delta, index=index, replaces=replaces, purges=purges, receipts=[*self.receipts, *receipts]
        )

    def _repack_clips(self) -> None:
        files = self._find_files(CLIPS, self.rows)
        sidecars = find_entries(self._part(SIDECARS), SIDECARS, (file.key for file in files))
        outdated = {}
        for file in files:
            nums = self._find_outdated(file, sidecars[file.key])
            has_failed_rows = sidecars[file.key].rows > file.file.rows
            if len(nums) or (self.purge and has_failed_rows):
                outdated[file.key] = nums
        for group in self._group(files, outdated):
            texts = self._read_captions(np.concatenate([outdated.get(file.key, file.nums[:0]) for file in group]))
            self._add(CLIPS, repack_clips(self.writer, [(file, sidecars[file.key]) for file in group], texts))

    def _repack_captions(self) -> None:
        for group in self._group(self._find_files(CAPTIONS, self.rows)):
            self._add(CAPTIONS, repack_captions(self.writer, group))

    def _repack_records(self, key: str, rows: pa.Table) -> pa.Table:
        """The records of a stage over clips that move so that the clips that share a file when a build makes it, as
        ``rows`` now say where they are, have one."""
        stage = StageName.of_records(key).name
        records = OverlayTable(self.store, self.base.records[key]).read().filter(_HELD)
        records = records.filter(pc.is_in(records.column("num"), value_set=rows.column("num").combine_chunks()))
        size = records_a_file(StageName.parse(stage).find(self.base.models) or {})
        groups: dict[tuple[int, int, str], list[FileRows]] = {}
        for file in self._find_files(stage, records):
            for tar, part, piece in _split_by_tar(file, rows, size):
                groups.setdefault((tar, part, file.fingerprint), []).append(piece)
        tars = [*part_entries(self._part(CLIPS)), *(made.receipt.files[0] for made in self.made[CLIPS])]
        paths = {entry.key: entry.path for entry in tars}
        for (tar, _, _), files in sorted(groups.items()):
            if any(map(self._is_worn, files)) or (tar and len(files) > 1):
                self._add(stage, repack_records(self.writer, stage, files, paths.get(tar, "")))
        after, moved = self._follow(stage, records)
        return after.filter(pa.array(moved))

    def _group(self, files: Sequence[FileRows], outdated: Collection[int] = ()) -> Iterator[list[FileRows]]:
        """The files to rewrite, those that make one new shard together; next fit, in the order of their numbers."""
        chosen = [f for f in files if self._is_worn(f) or f.key in outdated or len(f.rows) * 2 < self.maxcount]
        chosen.sort(key=lambda file: (file.fingerprint, int(file.nums.min())))
        for _, same in groupby(chosen, key=lambda file: file.fingerprint):
            groups: list[list[FileRows]] = [[]]
            for file in same:
                if sum(len(member.rows) for member in groups[-1]) + len(file.rows) > self.maxcount:
                    groups.append([])
                groups[-1].append(file)
            yield from (g for g in groups if len(g) > 1 or any(self._is_worn(f) or f.key in outdated for f in g))

    def _is_worn(self, file: FileRows) -> bool:
        live = len(file.rows)
        return live < file.file.rows if self.purge else live * 2 < file.file.rows

    def _find_files(self, kind: str, table: pa.Table) -> list[FileRows]:
        """The data files that the rows of a table refer to, and the positions in each, ascending."""
        part = self._part(kind)
        names = dict(zip(*(part.column(column).to_pylist() for column in ("key", "fingerprint")), strict=True))
        places = _PLACES.get(kind, ("file", "row"))
        nums, keys, rows = (table.column(column).to_numpy() for column in ("num", *places))
        order = np.lexsort((rows, keys))
        order = order[keys[order] != 0]
        unique, starts = np.unique(keys[order], return_index=True)
        entries = find_entries(part, kind, unique.tolist())
        files = [
            FileRows(entries[key], rows[at].astype(np.int64), nums[at], names[key])
            for key, at in zip(unique.tolist(), np.split(order, starts)[1:], strict=True)
        ]
        return [self._with_all_captions(file) for file in files] if kind == CAPTIONS else files

    def _with_all_captions(self, file: FileRows) -> FileRows:
        """The rows of a captions file that follow those of the first captions, too."""
        rows = all_captions(self.store, file.file, file.rows)
        nums = file.nums[np.searchsorted(file.rows, rows, side="right") - 1]
        return dataclasses.replace(file, rows=rows, nums=nums)

    def _find_outdated(self, file: FileRows, sidecar: FileEntry) -> Nums:
        """The numbers of the live clips of a tar whose caption has changed since it was written."""
        table = verified_table(self.store, sidecar, ["clip_row", "caption_hash"]).filter(pc.field("clip_row") >= 0)
        written = table.column("caption_hash").to_numpy()[file.rows]
        held = self._rows_of(file.nums).column("caption").to_numpy()
        changed: Nums = file.nums[(held != 0) & (held != written)]
        return changed

    def _read_captions(self, nums: Nums) -> dict[int, list[str]]:
        texts: defaultdict[int, list[str]] = defaultdict(list)
        for file in self._find_files(CAPTIONS, self._rows_of(nums)):
            table = verified_table(self.store, file.file, ["caption"]).take(pa.array(file.rows))
            for num, text in zip(file.nums.tolist(), table.column("caption").to_pylist(), strict=True):
                texts[num].append(text)
        return texts

    def _rows_of(self, nums: Nums) -> pa.Table:
        return self.rows.take(pa.array(np.searchsorted(self.rows.column("num").to_numpy(), nums)))

    def _add(self, kind: str, made: Repacked) -> None:
        self.made[kind].append(made)
        self.receipts.append(made.receipt)
        self.progress(len(self.receipts), 0)

    def _follow(self, kind: str, table: pa.Table) -> tuple[pa.Table, Mask]:
        """The table, sorted by num, with the new places of the rows that went into new shards, and which these are."""
        places = _PLACES.get(kind, ("file", "row"))
        nums = table.column("num").to_numpy()
        files, rows = (table.column(name).to_numpy().copy() for name in places)
        moved = np.zeros(len(nums), bool)
        for made in self.made[kind]:
            own, first = np.unique(made.nums, return_index=True)
            at = np.searchsorted(nums, own)
            files[at], rows[at], moved[at] = made.receipt.files[0].key, first, True
        for name, values in zip(places, (files, rows), strict=True):
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
        return table, moved


def _split_by_tar(file: FileRows, rows: pa.Table, size: int) -> Iterator[tuple[int, int, FileRows]]:
    """The pieces of a file of records by the key of the tar that holds their clips and the number of the file that has
    them there; where the clip is gone, 0 and a number of this file's own: such records are never put together."""
    at = np.searchsorted(rows.column("num").to_numpy(), file.nums)
    tars = rows.column("clip_file").to_numpy()[at]
    parts = np.where(tars == 0, np.uint64(file.key), rows.column("clip_row").to_numpy()[at] // size)
    for tar, part in sorted({*zip(tars.tolist(), parts.tolist(), strict=True)}):
        here = (tars == tar) & (parts == part)
        yield tar, part, dataclasses.replace(file, rows=file.rows[here], nums=file.nums[here])
