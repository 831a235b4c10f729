"""Clips to look at: drawn evenly from a snapshot, with their captions, nearest neighbours and, where there is one,
beside the replay that a generator made of their record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import BankDamaged, ConfigError, RowFailure
from noisebank.format.manifest import Snapshot
from noisebank.format.parts import part_entries, read_parts
from noisebank.format.reading import read_table, reading
from noisebank.format.shards import read_foreign_shard
from noisebank.format.stage_names import CAPTIONS, CLIPS, NOISE
from noisebank.format.status import Status
from noisebank.format.tables import OverlayTable
from noisebank.ids import Nums, clip_number
from noisebank.reader.pinned import PinnedSnapshot
from noisebank.report.pictures import Film, decode_film, side_by_side
from noisebank.search.segments import Hit
from noisebank.storage import FileEntry, Store

NEIGHBOURS = 3
_ROW = ("num", "source", "listed", "video", "caption", "clip_file", "clip_row", "caption_file", "caption_row", "status")
_SHOWN = (
    "uri",
    "start_ms",
    "end_ms",
    "width",
    "height",
    "frames",
    "fps",
    "source_width",
    "source_height",
    "source_fps",
)
REPLAY_SUFFIXES = (".mp4", ".webm", ".mkv", ".gif")


@dataclass(frozen=True)
class Card:
    """One clip of the gallery.

    Args:
        clip: id, caption and source.
        facts: columns of its sidecar.
        records: statistics of its record in each noise set that has one.
        neighbours: the other clips whose captions are nearest, nearest first.
        film: the clip, or the clip and its replay side by side.
        replayed: whether the replay is there.
    """

    clip: Hit
    facts: Mapping[str, Any]
    records: Mapping[str, Mapping[str, Any]]
    neighbours: Sequence[Hit]
    film: Film
    replayed: bool = False


@dataclass(frozen=True)
class Gallery:
    """The clips, and the ids of replays whose clip is not in the snapshot."""

    cards: Sequence[Card] = ()
    unknown: Sequence[str] = field(default=())


def choose_clips(store: Store, snapshot: Snapshot, count: int) -> Nums:
    """The numbers of ``count`` clips that have all that the bank promises, spread evenly over all such, ascending.

    Numbers are hashes, so these are drawn without regard to what the clips show, and the same at every call.
    """
    none = pa.scalar(0, pa.uint64())
    held = (pc.field("status") == int(Status.OK)) & (pc.field("clip_file") != none) & (pc.field("caption_file") != none)
    pieces = [piece.filter(held).column("num").to_numpy() for piece in OverlayTable(store, snapshot.rows).slices()]
    nums: Nums = np.concatenate([np.zeros(0, np.int64), *pieces])
    for name in snapshot.noise_sets:
        records = OverlayTable(store, snapshot.records.get(name, ())).slices()
        with_record = [piece.filter(pc.field("file") != none).column("num").to_numpy() for piece in records]
        both = np.intersect1d(nums, np.concatenate([np.zeros(0, np.int64), *with_record]), assume_unique=True)
        nums = both if len(both) else nums
    places = np.linspace(0, len(nums) - 1, min(count, len(nums))).round().astype(int)
    chosen: Nums = nums[np.unique(places)]
    return chosen


def find_replays(folder: Path | None) -> dict[str, Path]:
    """The files of a folder of replays by the ids that are their names.

    Raises:
        ConfigError: there is no such folder.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise ConfigError(f"--replays: {folder}: no such folder; name one that holds {{id}}.mp4 files")
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in REPLAY_SUFFIXES}


def make_gallery(pinned: PinnedSnapshot, count: int, replays: Mapping[str, Path]) -> Gallery:
    """The clips of a gallery: first those with a replay, then others.

    Args:
        pinned: the snapshot.
        count: clips at most.
        replays: files by id.

    Raises:
        BankDamaged: a file that holds one of the clips is missing or damaged.
        ConfigError: a replay cannot be decoded.
    """
    known = {id: hit for id in replays if (hit := pinned.find(clip_number(id))) and hit.id == id}
    nums = [hit.num for hit in known.values()]
    nums += [num for num in choose_clips(pinned.store, pinned.snapshot, count).tolist() if num not in nums]
    found = _Finder(pinned)
    cards = [found.card(num, replays) for num in nums[:count]]
    return Gallery(cards, sorted(replays.keys() - known.keys()))


class _Finder:
    """Looks clips up: where a table says that they are, there they must be."""

    def __init__(self, pinned: PinnedSnapshot) -> None:
        self._pinned, self._store = pinned, pinned.store
        self._rows = OverlayTable(pinned.store, pinned.snapshot.rows)
        self._entries = cache(self._read_entries)
        self._members = cache(self._read_members)

    def card(self, num: int, replays: Mapping[str, Path]) -> Card:
        row = dict(zip(_ROW, self._rows.find(num) or (), strict=True))
        tar = self._file(CLIPS, row["clip_file"])
        sidecar = read_table(self._store, tar.path.removesuffix(".tar") + ".parquet")
        (facts,) = self._row_of(tar, sidecar.filter(pc.field("num") == num), num)
        clip = self._pinned.find(num) or Hit(facts["id"], facts["caption"], 1.0, facts["source"], num)
        film = decode_film(self._mp4(tar, row["clip_row"], clip.id), tar.path)
        replay = replays.get(clip.id)
        if replay is not None:
            try:
                film = side_by_side(film, decode_film(replay.read_bytes(), str(replay)))
            except BankDamaged as error:
                raise ConfigError(f"--replays: {error}") from error
        return Card(
            clip=clip,
            facts={name: facts[name] for name in _SHOWN if facts.get(name) is not None},
            records=self._records(clip),
            neighbours=self._neighbours(clip, row["caption_file"], row["caption_row"]),
            film=film,
            replayed=replay is not None,
        )

    def _neighbours(self, clip: Hit, file: int, place: int) -> list[Hit]:
        if not self._pinned.segments:
            return []
        entry = self._file(CAPTIONS, file)
        own = read_table(self._store, entry.path, ["num", "embedding"]).slice(place, 1)
        self._row_of(entry, own.select(["num"]), clip.num)
        query = own.column("embedding").combine_chunks().flatten().to_numpy().reshape(1, -1)
        (near,) = self._pinned.nearest(query, NEIGHBOURS + 1)
        return [hit for hit in near if hit.num != clip.num][:NEIGHBOURS]

    def _records(self, clip: Hit) -> dict[str, dict[str, Any]]:
        found = {}
        for name in sorted(self._pinned.snapshot.models.get(NOISE, {})):
            records = self._pinned.noise_set(name)
            if records.has(clip.num):
                found[name] = records.statistics(clip)
        return found

    def _mp4(self, tar: FileEntry, place: int, id: str) -> bytes:
        members = self._members(tar)
        if not 0 <= place < len(members) or members[place][0] != id:
            raise BankDamaged(f"{tar.path}: clip {place} is not {id}; run verify")
        _, offset, size = members[place]
        with reading(tar.path):
            return self._store.read_range(tar.path, offset, size)

    def _read_members(self, tar: FileEntry) -> list[tuple[str, int, int]]:
        """Id, offset and size of every clip of a tar."""
        try:
            with reading(tar.path), self._store.open(tar.path) as file:
                return [(sample.key, sample.offset, sample.size) for sample in read_foreign_shard(file, tar.path)]
        except RowFailure as error:
            raise BankDamaged(f"{error.message}; run verify") from error

    def _file(self, kind: str, key: int) -> FileEntry:
        if (entry := self._entries(kind).get(key)) is None:
            raise BankDamaged(f"{kind} file {key:016x}: no manifest part names it; run verify")
        return entry

    def _read_entries(self, kind: str) -> dict[int, FileEntry]:
        part = read_parts(self._store, self._pinned.snapshot.parts.get(kind, ()))
        return {entry.key: entry for entry in part_entries(part)}

    @staticmethod
    def _row_of(entry: FileEntry, table: Any, num: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = table.to_pylist()
        if [row["num"] for row in rows] != [num]:
            raise BankDamaged(f"{entry.path}: clip number {num} is not where the tables say; run verify")
        return rows
