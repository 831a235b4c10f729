"""What is known of clips, read from the data files that hold it: captions, noise, mp4 bytes.

Files of a local bank are read where they lie; those of an object store are copied to this machine, and the copies go
when they are not among the last ones any more.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc

from noisebank.errors import BankDamaged
from noisebank.format.noise_file import NoiseShard
from noisebank.format.parts import part_entries, read_parts
from noisebank.format.reading import verified_store, verified_table
from noisebank.format.shards import ShardClips
from noisebank.format.stage_names import CAPTIONS, CLIPS, SIDECARS
from noisebank.reader.pinned import PinnedSet, PinnedSnapshot
from noisebank.storage import FileEntry, Store

COLUMNS = ("caption", "captions", "noise", "clip")
"""What may be asked for, beside the id: the first caption (text), all captions (a list), the record ``[C, F, H, W]`` in
float32, the mp4 (bytes)."""
_CAPTION_FILES = 64
_FILES = 4


class _Captions(NamedTuple):
    nums: list[int]
    ids: list[str]
    texts: list[str]


class _Copy:
    """A folder that goes when nobody refers to this."""

    def __init__(self, parent: Path) -> None:
        self.path = Path(tempfile.mkdtemp(dir=parent))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class SampleReader(AbstractContextManager["SampleReader"]):
    """Reads samples of a pinned snapshot. A context manager, which lets go of all files.

    Args:
        pinned: the snapshot.
        records: the noise set; needed for ``noise``.
        columns: of :data:`COLUMNS`.
        verify: whether every record and mp4 is compared with its checksum.
    """

    def __init__(
        self, pinned: PinnedSnapshot, records: PinnedSet | None, columns: Sequence[str], verify: bool = True
    ) -> None:
        self._verify = verify
        self._pinned, self._records, self._columns = pinned, records, columns
        self._captions = lru_cache(_CAPTION_FILES)(self._read_captions)
        self._noise = lru_cache(_FILES)(self._open_noise)
        self._clips = lru_cache(_FILES)(self._open_clips)

    def __exit__(self, *_: object) -> None:
        for cache in (self._captions, self._noise, self._clips):
            cache.cache_clear()

    def read(self, place: Mapping[str, int]) -> dict[str, Any]:
        """The sample whose data is at a ``place`` (:data:`noisebank.reader.places.Places`): ``id`` and the columns.

        Raises:
            BankDamaged: a file is missing or damaged, or holds another clip there.
        """
        num, at, captions = place["num"], place["caption_row"], self._captions(place["caption_file"])
        if at >= len(captions.nums) or captions.nums[at] != num:
            path = self._entry(CAPTIONS, place["caption_file"]).path
            raise BankDamaged(f"{path}: does not hold the captions that rows look for in it; run verify")
        sample: dict[str, Any] = {"id": captions.ids[at]}
        for column in self._columns:
            if column == "caption":
                sample[column] = captions.texts[at]
            elif column == "captions":
                end = next((i for i in range(at, len(captions.nums)) if captions.nums[i] != num), len(captions.nums))
                sample[column] = captions.texts[at:end]
            elif column == "noise":
                checksum = place["checksum"] if self._verify else None
                sample[column] = self._noise(place["file"])[0].record(place["row"], checksum)
            else:
                clips, digests, _ = self._clips(place["clip_file"])
                sample[column] = clips.read(place["clip_row"], digests[place["clip_row"]] if self._verify else None)
        return sample

    @cached_property
    def _entries(self) -> dict[str, dict[int, FileEntry]]:
        parts = self._pinned.snapshot.parts
        kinds = {kind: read_parts(self._pinned.store, parts.get(kind, ())) for kind in (CAPTIONS, CLIPS, SIDECARS)}
        return {kind: {entry.key: entry for entry in part_entries(part)} for kind, part in kinds.items()}

    def _entry(self, kind: str, key: int) -> FileEntry:
        if key not in self._entries[kind]:
            raise BankDamaged(f"{kind} file {key:016x}: rows refer to it, no manifest part names it; run verify")
        return self._entries[kind][key]

    def _read_captions(self, key: int) -> _Captions:
        table = verified_table(self._pinned.store, self._entry(CAPTIONS, key), ["num", "id", "caption"])
        return _Captions(*(table.column(name).to_pylist() for name in ("num", "id", "caption")))

    def _open_noise(self, key: int) -> tuple[NoiseShard, _Copy | None]:
        if self._records is None:
            raise ValueError("the column 'noise' needs a noise set")
        store, copy = self._bring(self._records.file(key))
        return self._records.open_shard(key, store), copy

    def _open_clips(self, key: int) -> tuple[ShardClips, list[str], _Copy | None]:
        entry = self._entry(CLIPS, key)
        store, copy = self._bring(entry)
        path = store.local_path(entry.path)
        assert path is not None  # (a copy is local)
        sidecar = verified_table(self._pinned.store, self._entry(SIDECARS, key), ["clip_row", "sha256"])
        digests = sidecar.filter(pc.field("clip_row") >= 0).column("sha256").to_pylist()
        return ShardClips(path, entry.path, entry.rows), digests, copy

    def _bring(self, entry: FileEntry) -> tuple[Store, _Copy | None]:
        """Where a file can be read on this machine."""
        if self._pinned.store.local_path(entry.path):
            return self._pinned.store, None
        copy = _Copy(self._pinned.scratch)
        return verified_store(self._pinned.store, [entry], copy.path), copy
