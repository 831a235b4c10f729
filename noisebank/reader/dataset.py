"""A bank as a torch dataset: every complete clip once, shard by shard, split over ranks and loader workers.

Numbers of clips are hashes, so that a shard is a random sample of the videos: the order of the shards and the order
within each are all that shuffling needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from noisebank.format.manifest import read_snapshot
from noisebank.ids import Nums
from noisebank.reader.pinned import PinnedSet, PinnedSnapshot
from noisebank.reader.places import count_by_file, places_in, slice_of
from noisebank.reader.samples import COLUMNS, SampleReader
from noisebank.storage import open_store


class BankDataset(IterableDataset[dict[str, Any]]):
    """See :meth:`noisebank.NoiseBank.dataset`. It opens the snapshot again in every process, and may be pickled.

    Args:
        url, snapshot, noise_set: of the bank; no set: clips need no record.
        columns: of :data:`noisebank.reader.samples.COLUMNS`.
        shuffle, seed: of the order.
        rank, world_size: which share of the clips this is of how many; by default those of ``torch.distributed``.
        verify: whether every record and mp4 is compared with its checksum.

    Raises:
        ValueError: an argument is not allowed.
    """

    def __init__(
        self,
        url: str,
        snapshot: int,
        noise_set: str | None,
        columns: Sequence[str],
        shuffle: bool = False,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        verify: bool = True,
    ) -> None:
        super().__init__()
        for column in columns:
            if column not in COLUMNS:
                raise ValueError(f"column {column!r} is not allowed; {', '.join(COLUMNS)}")
        if seed < 0:
            raise ValueError(f"seed {seed} is not allowed; at least 0")
        if (rank is None) != (world_size is None) or not 0 <= (rank or 0) < (world_size or 1):
            raise ValueError(
                f"rank {rank} of world_size {world_size} is not allowed; give both, 0 <= rank < world_size"
            )
        self._url, self._snapshot, self._noise_set = url, snapshot, noise_set
        self._columns, self._shuffle, self._seed = tuple(columns), shuffle, seed
        self._verify = verify
        self._share = None if rank is None or world_size is None else (rank, world_size)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]  # (workers that persist see it change)
        kinds = (("noise", "file"), ("clip", "clip_file"))
        self._shard_column = next((place for column, place in kinds if column in columns), "caption_file")
        self._opened: tuple[int, PinnedSnapshot] | None = None
        pinned = self._open()
        with pinned.reading():
            self._keys, self._counts = count_by_file(pinned, self._records(pinned), self._shard_column)

    def set_epoch(self, epoch: int) -> None:
        """Shuffles otherwise from the next iteration on, as epoch ``epoch``, also in loader workers that persist."""
        self._epoch.fill_(epoch)

    @property
    def shards(self) -> int:
        """How many files the clips are read from, one after the other."""
        return len(self._keys)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_share": self._find_share()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = np.arange(self.shards)
        if self._shuffle:
            np.random.default_rng([self._seed, int(self._epoch)]).shuffle(order)
        worker = get_worker_info()
        shares = [self._find_share(), (worker.id, worker.num_workers) if worker else (0, 1)]
        parts = slice_of(self._counts[order], shares)
        yield from self._read([(int(order[shard]), low, high) for shard, low, high in parts])

    def read_shards(self, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The samples of some of the :attr:`shards`, whatever rank and worker this is."""
        yield from self._read([(shard, 0, int(self._counts[shard])) for shard in shards])

    def _read(self, parts: Sequence[tuple[int, int, int]]) -> Iterator[dict[str, Any]]:
        """The samples ``low`` to ``high`` of each of some shards ``(shard, low, high)``."""
        pinned = self._open()
        with pinned.reading():
            records = self._records(pinned)
            keys = self._keys[[shard for shard, _, _ in parts]]
            places = places_in(pinned, records, self._shard_column, keys)
            files, rows = places[self._shard_column], places[self._shard_column.replace("file", "row")]
            ordered = np.lexsort((rows, files))
            starts = np.searchsorted(files[ordered], keys)
            with SampleReader(pinned, records, self._columns, self._verify) as reader:
                for (shard, low, high), start in zip(parts, starts.tolist(), strict=True):
                    here = self._mix(ordered[start : start + int(self._counts[shard])], shard)[low:high]
                    columns = {name: values[here].tolist() for name, values in places.items()}
                    for values in zip(*columns.values(), strict=True):
                        yield reader.read(dict(zip(columns, values, strict=True)))

    def _mix(self, rows: Nums, shard: int) -> Nums:
        if not self._shuffle:
            return rows
        mixed: Nums = np.random.default_rng([self._seed, int(self._epoch), shard]).permutation(rows)
        return mixed

    def _open(self) -> PinnedSnapshot:
        """The snapshot, opened in this process."""
        if self._opened is None or self._opened[0] != os.getpid():
            store = open_store(self._url)
            self._opened = os.getpid(), PinnedSnapshot(store, read_snapshot(store, self._snapshot))
        return self._opened[1]

    def _records(self, pinned: PinnedSnapshot) -> PinnedSet | None:
        return pinned.noise_set(self._noise_set) if self._noise_set else None

    def _find_share(self) -> tuple[int, int]:
        if self._share is not None:
            return self._share
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
