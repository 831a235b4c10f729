"""One snapshot of a bank, open for reading: nearest captions, clips by id, records.

Files are opened when they are first needed and compared with the manifest then; they never change, so what is read
stays true to the snapshot while others are committed. Safe to use from several threads.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from noisebank.errors import BankDamaged, ClipNotFound, ShapeMismatch
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.noise_file import NoiseShard, RecordLayout
from noisebank.format.parts import part_entries, read_parts
from noisebank.format.reading import read_table, verified_path, verified_store
from noisebank.format.schemas import RECORDS
from noisebank.format.status import Status
from noisebank.format.tables import OverlayTable
from noisebank.ids import clip_number
from noisebank.search.index import TIE, Vectors
from noisebank.search.segments import Hit, Segment, open_segment, search_segments
from noisebank.storage import FileEntry, Store, open_store

if TYPE_CHECKING:
    from noisebank.models.check import Mismatch

_AXES = "CFHW"
_OPEN_SHARDS = 128
_REMEMBERED_PROMPTS = 4096
_FIRST_TRIES = 16
_FETCHED_AT_ONCE = 16


class PinnedSnapshot:
    """The index and clips of one snapshot of a bank."""

    def __init__(self, store: Store, snapshot: Snapshot) -> None:
        self.store, self.snapshot = store, snapshot
        self._lock = threading.RLock()
        self.scratch = Path(tempfile.mkdtemp(prefix="noisebank-reader-"))
        self._removal = weakref.finalize(self, shutil.rmtree, self.scratch, ignore_errors=True)
        self._sets: dict[str, PinnedSet] = {}

    def close(self) -> None:
        """Removes the temporary folder; otherwise that happens when nobody refers to this any more."""
        self._removal()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Says SnapshotExpired instead of BankDamaged where files are gone because the snapshot was vacuumed.

        Raises:
            ValueError: it has been closed.
        """
        if not self._removal.alive:
            raise ValueError(f"{self.store.url}: this bank has been closed; open it again")
        try:
            yield
        except BankDamaged:
            read_snapshot(self.store, self.snapshot.number)
            raise

    @property
    def segments(self) -> list[Segment]:
        """The segments of the index, oldest first."""
        with self._lock:
            return self._segments

    @cached_property
    def _segments(self) -> list[Segment]:
        return [open_segment(self.store, segment, self.scratch) for segment in self.snapshot.index]

    def noise_set(self, name: str) -> PinnedSet:
        """The records of one noise set."""
        with self._lock:
            if name not in self._sets:
                self._sets[name] = PinnedSet(self, name)
            return self._sets[name]

    def nearest(self, queries: Vectors, k: int, segments: Sequence[Segment] | None = None) -> list[list[Hit]]:
        """For each of the queries ``[Q, D]`` at most ``k`` clips, nearest first, each with its nearest caption."""
        segments = self.segments if segments is None else segments
        live = max(1, sum(segment.live for segment in segments))
        asked = min(k, live)
        while True:
            found = _search_captions(segments, queries, asked)
            clips = [_first_of_each(hits)[:k] for hits in found]
            short = any(len(near) < k and len(hits) == asked for near, hits in zip(clips, found, strict=True))
            if asked == live or not short:
                return clips
            asked = min(2 * asked, live)

    def clip(self, id: str) -> Hit:
        """The clip ``id``.

        Raises:
            ClipNotFound: it is not in the snapshot, or not any more.
        """
        try:
            number = clip_number(id)
        except UnicodeEncodeError as error:
            raise ClipNotFound(f"clip {id!a}: no id, it cannot be written as UTF-8; 'search' names ids") from error
        clip = self.find(number)
        if clip and clip.id == id:
            return clip
        raise ClipNotFound(f"clip {id}: not in snapshot {self.snapshot.number} of {self.store.url}; 'search' names ids")

    def find(self, num: int, query: Vectors | None = None) -> Hit | None:
        """The clip of a number, with its first caption or that nearest to ``query`` ``[D]``; None if it is not in the
        snapshot, or not any more."""
        for segment in reversed(self.segments):
            positions = segment.entries.positions(num)
            if positions and (segment.deleted is None or not segment.deleted[positions[0]]):
                best = 0
                if query is not None and len(positions) > 1:
                    best = int(np.argmax(segment.vectors(np.asarray(positions)) @ query))
                return segment.entries.at(positions[best])
        return None


def _first_of_each(hits: Sequence[Hit]) -> list[Hit]:
    """Of the hits of each clip the first."""
    first: dict[int, Hit] = {}
    for hit in hits:
        first.setdefault(hit.num, hit)
    return [*first.values()]


def _search_captions(segments: Sequence[Segment], queries: Vectors, k: int) -> list[list[Hit]]:
    """For each of the queries at most ``k`` captions, nearest first."""
    scores, origins, positions = search_segments(segments, queries, k)
    return [
        [
            segments[origin].entries.at(position, score)
            for score, origin, position in zip(*(row.tolist() for row in rows), strict=True)
            if origin >= 0
        ]
        for rows in zip(scores, origins, positions, strict=True)
    ]


class PinnedSet:
    """The records of one noise set in one snapshot.

    Raises:
        BankDamaged: the files that say where records are, are missing or damaged.
    """

    def __init__(self, pinned: PinnedSnapshot, name: str) -> None:
        self.name = name
        snapshot = pinned.snapshot
        self.model: dict[str, Any] = snapshot.models["noise"][name]
        self._pinned = pinned
        store, scratch = pinned.store, pinned.scratch
        records, parts = snapshot.records.get(name, ()), snapshot.parts.get(f"noise/{name}", ())
        self.table = OverlayTable(verified_store(store, records, scratch), records, schema=RECORDS)
        part = read_parts(verified_store(store, parts, scratch), parts).sort_by("path")
        self._layouts = {row["key"]: RecordLayout.from_info(row) for row in part.to_pylist()}
        self._files: dict[int, FileEntry] = {entry.key: entry for entry in part_entries(part)}
        self._columns = lru_cache(_OPEN_SHARDS)(self._read_columns)
        self._shard = lru_cache(_OPEN_SHARDS)(self.open_shard)
        self._nearest: dict[str, Hit] = {}
        self._lock = threading.RLock()

    def _find(self, num: int) -> tuple[int, int, int] | None:
        """Where the record of the clip ``num`` is: key of its shard, row there, XXH3-64; None if it has none."""
        _, file, row, checksum, status = self.table.find(num) or (num, 0, -1, 0, Status.REMOVED)
        return (file, row, checksum) if file and status == Status.OK else None

    def has(self, num: int) -> bool:
        """Whether the clip ``num`` has a record."""
        return self._find(num) is not None

    def noise(self, clip: Hit) -> torch.Tensor:
        """The record of a clip, ``[C, F, H, W]`` float32.

        Raises:
            ClipNotFound: it has none in this set.
            BankDamaged: the record differs from its checksum, or its shard is missing.
        """
        file, row, checksum = self._locate(clip)
        return self._shard(file).record(row, checksum)

    def batch(self, clips: Sequence[Hit]) -> list[torch.Tensor]:
        """:meth:`noise` of each of the clips, every record read once; from an object store they are fetched side by
        side."""
        wanted = {clip.num: clip for clip in clips}
        if len(wanted) == 1 or self._pinned.store.local_path("noise"):
            records = {num: self.noise(clip) for num, clip in wanted.items()}
        else:
            with ThreadPoolExecutor(min(len(wanted), _FETCHED_AT_ONCE)) as pool:
                records = dict(zip(wanted, pool.map(self.noise, wanted.values()), strict=True))
        return [records[clip.num] for clip in clips]

    def statistics(self, clip: Hit) -> dict[str, Any]:
        """The columns beside the noise in the clip's record; the whole shard is compared with its checksum first.

        Raises:
            ClipNotFound: it has no record in this set.
            BankDamaged: the shard is missing or damaged, or holds another clip there.
        """
        file, row, _ = self._locate(clip)
        found: list[dict[str, Any]] = self._columns(file).slice(row, 1).to_pylist()
        if not found or found[0]["id"] != clip.id:
            raise BankDamaged(f"clip {clip.id}: its record in {self.file(file).path} is of another; run verify")
        return found[0]

    def nearest(self, prompts: Sequence[str], embed: Callable[[Sequence[str]], Vectors]) -> list[Hit]:
        """For each of the prompts the nearest caption whose clip has a record; it is remembered.

        Raises:
            ClipNotFound: no clip has one.
        """
        with self._lock:
            known = {prompt: self._nearest[prompt] for prompt in prompts if prompt in self._nearest}
        if missing := [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]:
            queries = embed(missing)
            for prompt, query, near in zip(missing, queries, self._pinned.nearest(queries, _FIRST_TRIES), strict=True):
                if len(missing) > 1 and self._is_close(near):  # (FAISS rounds otherwise when it searches for many)
                    near = self._pinned.nearest(query[None], _FIRST_TRIES)[0]
                known[prompt] = next((hit for hit in near if self._find(hit.num)), None) or self._nearest_of_all(query)
            with self._lock:
                self._nearest |= {prompt: known[prompt] for prompt in missing}
                while len(self._nearest) > _REMEMBERED_PROMPTS:
                    del self._nearest[next(iter(self._nearest))]
        return [known[prompt] for prompt in prompts]

    def _is_close(self, near: Sequence[Hit]) -> bool:
        """Whether the first two clips that have a record are as near as each other."""
        scores = [hit.score for hit in islice((hit for hit in near if self._find(hit.num)), 2)]
        return len(scores) == 2 and scores[0] - scores[1] < TIE

    def _nearest_of_all(self, query: Vectors) -> Hit:
        if near := self._pinned.nearest(query[None], 1, self.segments)[0]:
            return near[0]
        raise ClipNotFound(
            f"noise set {self.name!r} has no record in snapshot {self._pinned.snapshot.number} of "
            f"{self._pinned.store.url}; build it, or open the bank with another noise_set"
        )

    def nums(self) -> npt.NDArray[np.int64]:
        """The numbers of the clips that have a record, ascending."""
        table = self.table.read()
        nums, files, status = (table.column(name).to_numpy() for name in ("num", "file", "status"))
        found: npt.NDArray[np.int64] = nums[(files != 0) & (status == Status.OK)]
        return found

    @property
    def segments(self) -> list[Segment]:
        """The segments of the index with only the captions whose clip has a record."""
        with self._lock:
            return self._segments

    @cached_property
    def _segments(self) -> list[Segment]:
        nums = self.nums()
        return [segment.restricted(np.isin(segment.entries.nums(), nums)) for segment in self._pinned.segments]

    def check(self, pipe: Any, num_inference_steps: int | None) -> list[Mismatch]:
        """What :meth:`noisebank.NoiseBank.check` says of a pipeline; warns of what does no harm."""
        from noisebank.models.check import compare

        mismatches = compare(self.model, pipe, num_inference_steps)
        errors = [str(mismatch) for mismatch in mismatches if mismatch.severity == "error"]
        if errors:
            raise ShapeMismatch(
                f"noise set {self.name!r} does not fit this {type(pipe).__name__}: {'; '.join(errors)}; open the "
                "set of this model, or build one"
            )
        for mismatch in mismatches:
            warnings.warn(f"noise set {self.name!r}: {mismatch}", stacklevel=3)
        return mismatches

    def _locate(self, clip: Hit) -> tuple[int, int, int]:
        place = self._find(clip.num)
        if place is None:
            raise ClipNotFound(f"clip {clip.id}: no record in noise set {self.name!r}; 'failures' may say why")
        return place

    def file(self, key: int) -> FileEntry:
        """The shard of a key; BankDamaged if no manifest part names it."""
        if key not in self._files:
            raise BankDamaged(f"noise shard {key:016x} of set {self.name!r}: no manifest part names it; run verify")
        return self._files[key]

    def _read_columns(self, key: int) -> pa.Table:
        """The columns beside the noise of a whole shard, which is compared with its checksum."""
        with tempfile.TemporaryDirectory(dir=self._pinned.scratch) as folder:
            path = verified_path(self._pinned.store, self.file(key), Path(folder))
            return read_table(open_store(path.parent), path.name, without=("noise", "scale"))

    def open_shard(self, key: int, store: Store | None = None) -> NoiseShard:
        """The shard of a key: in the bank, for any record; or in a store that has it, for one after the other."""
        file, shape, dtype = self.file(key), tuple(self.model["shape"]), self.model["dtype"]
        if len(shape) != len(_AXES):
            raise BankDamaged(
                f"{self._pinned.snapshot.path}: the shape of noise set {self.name!r} is {list(shape)}, {_AXES} is "
                "wanted; run verify"
            )
        return NoiseShard(
            store or self._pinned.store, file.path, file.rows, shape, dtype, self._layouts[key], store is not None
        )
