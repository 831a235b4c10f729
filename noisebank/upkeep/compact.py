"""Compaction: the small and half-empty shards that updates leave behind become full ones, by copying.

The bank holds the same rows and the same noise afterwards; nothing is fetched, decoded, embedded or inverted. Tars get
the captions that hold now. With ``purge``, no file of the newest snapshot holds the clip, caption or noise of a removed
row, and the older snapshots, whose files still did, are vacuumed.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo, Delta
from noisebank.errors import BankDamaged
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.parts import kind_of, part_entries, read_parts
from noisebank.format.reading import verified_table
from noisebank.format.receipts import Receipt
from noisebank.format.stage_names import CAPTIONS, CLIPS, SIDECARS, StageName
from noisebank.format.status import Status
from noisebank.format.tables import OverlayTable
from noisebank.options import ClipOptions
from noisebank.progress import ReportProgress, silent
from noisebank.storage import BankWriter, FileEntry, Store
from noisebank.upkeep.purge import forget, has_traces, rebuild_worn_segments
from noisebank.upkeep.repack import FileRows, Repacked, repack_captions, repack_clips, repack_records
from noisebank.upkeep.vacuum import vacuum

Nums = npt.NDArray[np.int64]
_FULL_SHARD = ClipOptions().maxcount
_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class _File:
    """A data file, and which of its rows something still refers to."""

    piece: FileRows
    fingerprint: str

    @property
    def key(self) -> int:
        return self.piece.file.key

    @property
    def live(self) -> int:
        return len(self.piece.rows)

    @property
    def dead(self) -> int:
        return self.piece.file.rows - self.live


def compact(
    store: Store, *, maxcount: int = _FULL_SHARD, purge: bool = False, progress: ReportProgress = silent
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
    snapshot = commit(store, base, delta, CommitInfo(run_id=f"compact-{uuid.uuid4().hex}", operation="compact"))
    if not purge:
        return snapshot
    snapshot = vacuum(store, keep=1, unpublished_seconds=0).snapshot
    forget(store, snapshot)
    return snapshot


class _Compaction:
    """Chooses what to rewrite, has it rewritten, and follows where every row went."""

    def __init__(self, store: Store, base: Snapshot, maxcount: int, purge: bool, progress: ReportProgress) -> None:
        self.store, self.base, self.maxcount, self.purge, self.progress = store, base, maxcount, purge, progress
        self.rows = _present(OverlayTable(store, base.rows).read())
        self.writer = BankWriter(store, base.vacuum)
        self.receipts: list[Receipt] = []
        self._part = cache(self._read_part)

    def delta(self) -> Delta:
        """What changes; every shard is written."""
        clips, captions = self._clips(), self._captions()
        after = captions.applied(clips.applied(self.rows))
        moved = after.filter(pa.array(clips.touches(self.rows) | captions.touches(self.rows)))
        records = {key: [self._records(key, after)] for key, entries in self.base.records.items() if entries}
        delta = Delta([moved], records, receipts=self.receipts)
        if not self.purge:
            return delta
        index, replaces, receipts = rebuild_worn_segments(self.writer, self.base)
        purges = has_traces(self.store, self.base)
        return dataclasses.replace(
            delta, index=index, replaces=replaces, purges=purges, receipts=[*self.receipts, *receipts]
        )

    def _clips(self) -> _Moves:
        moves = _Moves("clip_file", "clip_row")
        files = self._files(CLIPS, self.rows, moves)
        sidecars = self._find_named(SIDECARS, [file.key for file in files])
        outdated = {}
        for file in files:
            nums = self._find_outdated(file, sidecars[file.key])
            has_failed_rows = sidecars[file.key].rows > file.piece.file.rows
            if len(nums) or (self.purge and has_failed_rows):
                outdated[file.key] = nums
        for group in self._groups(files, outdated):
            texts = self._texts(np.concatenate([outdated.get(file.key, _NONE) for file in group]))
            pieces = [(file.piece, sidecars[file.key]) for file in group]
            self._add(moves, repack_clips(self.writer, pieces, texts, group[0].fingerprint))
        return moves

    def _captions(self) -> _Moves:
        moves = _Moves("caption_file", "caption_row")
        for group in self._groups(self._files(CAPTIONS, self.rows, moves)):
            pieces = [file.piece for file in group]
            self._add(moves, repack_captions(self.writer, pieces, group[0].fingerprint))
        return moves

    def _records(self, key: str, rows: pa.Table) -> pa.Table:
        """The records of a stage over clips that move so that the clips of one tar, as ``rows`` now say, have one
        file."""
        stage, moves = StageName.of_records(key).name, _Moves("file", "row")
        records = _present(OverlayTable(self.store, self.base.records[key]).read())
        records = records.filter(pc.is_in(records.column("num"), value_set=rows.column("num").combine_chunks()))
        groups: dict[tuple[int, str], list[_File]] = {}
        for file in self._files(stage, records, moves):
            for tar, part in _by_tar(file, rows):
                groups.setdefault((tar, file.fingerprint), []).append(part)
        tars = dict(zip(*(self._part(CLIPS).column(column).to_pylist() for column in ("key", "path")), strict=True))
        tars |= {
            entry.key: entry.path
            for receipt in self.receipts
            for entry in receipt.files
            if kind_of(entry.path) == CLIPS
        }
        for (tar, fingerprint), files in sorted(groups.items()):
            if any(map(self._is_worn, files)) or (tar and len(files) > 1):
                pieces = [file.piece for file in files]
                self._add(moves, repack_records(self.writer, stage, pieces, tars.get(tar, ""), fingerprint))
        return moves.applied(records).filter(pa.array(moves.touches(records)))

    def _groups(self, files: Sequence[_File], outdated: Collection[int] = ()) -> Iterator[list[_File]]:
        """The files to rewrite, those that make one new shard together; next fit, in the order of their numbers."""
        chosen = [f for f in files if self._is_worn(f) or f.key in outdated or f.live * 2 < self.maxcount]
        group: list[_File] = []
        for file in [*sorted(chosen, key=lambda f: (f.fingerprint, int(f.piece.nums.min()))), None]:
            if group and (
                file is None
                or file.fingerprint != group[0].fingerprint
                or sum(member.live for member in group) + file.live > self.maxcount
            ):
                if len(group) > 1 or self._is_worn(group[0]) or group[0].key in outdated:
                    yield group
                group = []
            if file is not None:
                group.append(file)

    def _is_worn(self, file: _File) -> bool:
        return file.dead > 0 if self.purge else file.live * 2 < file.piece.file.rows

    def _files(self, kind: str, table: pa.Table, moves: _Moves) -> list[_File]:
        """The data files that the rows of a table refer to, and the positions in each, ascending."""
        part = self._part(kind)
        names = dict(zip(*(part.column(column).to_pylist() for column in ("key", "fingerprint")), strict=True))
        nums, keys, rows = (table.column(column).to_numpy() for column in ("num", moves.file, moves.row))
        order = np.lexsort((rows, keys))
        order = order[keys[order] != 0]
        unique, starts = np.unique(keys[order], return_index=True)
        entries = self._find_named(kind, unique.tolist())
        places = np.split(order, starts[1:]) if len(unique) else []
        return [
            _File(FileRows(entries[key], rows[at].astype(np.int64), nums[at]), names[key])
            for key, at in zip(unique.tolist(), places, strict=True)
        ]

    def _find_named(self, kind: str, keys: Iterable[int]) -> dict[int, FileEntry]:
        """The data files of a kind; there is one of each of ``keys``.

        Raises:
            BankDamaged: there is none.
        """
        entries = {entry.key: entry for entry in part_entries(self._part(kind))}
        if unknown := set(keys) - entries.keys():
            raise BankDamaged(
                f"{kind} file {min(unknown):016x}: rows refer to it, no manifest part names it; run verify"
            )
        return entries

    def _find_outdated(self, file: _File, sidecar: FileEntry) -> Nums:
        """The numbers of the live clips of a tar whose caption has changed since it was written."""
        table = verified_table(self.store, sidecar, ["clip_row", "caption_hash"]).filter(pc.field("clip_row") >= 0)
        written = table.column("caption_hash").to_numpy()[file.piece.rows]
        held = self.rows.column("caption").to_numpy()[self._at(file.piece.nums)]
        changed: Nums = file.piece.nums[(held != 0) & (held != written)]
        return changed

    def _texts(self, nums: Nums) -> dict[int, str]:
        """The captions held of ``nums``."""
        texts: dict[int, str] = {}
        rows = self.rows.take(pa.array(self._at(nums)))
        for file in self._files(CAPTIONS, rows, _Moves("caption_file", "caption_row")):
            column = (
                verified_table(self.store, file.piece.file, ["caption"])
                .column("caption")
                .take(pa.array(file.piece.rows))
            )
            texts |= dict(zip(file.piece.nums.tolist(), column.to_pylist(), strict=True))
        return texts

    def _at(self, nums: Nums) -> Nums:
        """Positions of ``nums`` in the rows."""
        return np.searchsorted(self.rows.column("num").to_numpy(), nums)

    def _read_part(self, kind: str) -> pa.Table:
        return read_parts(self.store, self.base.parts.get(kind, ()))

    def _add(self, moves: _Moves, made: Repacked) -> None:
        self.receipts.append(made.receipt)
        self.progress(len(self.receipts), 0)
        moves.add(made)


class _Moves:
    """Where rows went: new values of the columns that name a file and a row in it."""

    def __init__(self, file: str, row: str) -> None:
        self.file, self.row = file, row
        self._nums = [np.zeros(0, np.int64)]
        self._keys = [np.zeros(0, np.uint64)]
        self._rows = [np.zeros(0, np.int32)]

    def add(self, made: Repacked) -> None:
        """Takes note of a new shard."""
        count = len(made.nums)
        self._nums.append(made.nums)
        self._keys.append(np.full(count, made.receipt.files[0].key, np.uint64))
        self._rows.append(np.arange(count, dtype=np.int32))

    def touches(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Which rows of a table went somewhere."""
        return np.isin(table.column("num").to_numpy(), np.concatenate(self._nums))

    def applied(self, table: pa.Table) -> pa.Table:
        """The table, sorted by num, with the new places of the rows that moved."""
        at = np.searchsorted(table.column("num").to_numpy(), np.concatenate(self._nums))
        for name, values in ((self.file, self._keys), (self.row, self._rows)):
            column = table.column(name).to_numpy().copy()
            column[at] = np.concatenate(values)
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(column))
        return table


def _by_tar(file: _File, rows: pa.Table) -> Iterator[tuple[int, _File]]:
    """The parts of a noise file by the key of the tar that holds their clips; 0 where the clip is gone."""
    piece = file.piece
    at = np.searchsorted(rows.column("num").to_numpy(), piece.nums)
    tars = rows.column("clip_file").to_numpy()[at]
    for tar in np.unique(tars).tolist():
        here = tars == tar
        yield tar, _File(FileRows(piece.file, piece.rows[here], piece.nums[here]), file.fingerprint)


def _present(table: pa.Table) -> pa.Table:
    """A table of rows or records without tombstones."""
    return table.filter(pc.not_equal(table.column("status"), pa.scalar(int(Status.REMOVED), pa.uint8())))
