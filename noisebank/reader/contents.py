"""What a bank holds as a whole: its ids, how many they are, and all of it as a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from noisebank.reader.pinned import PinnedSet, PinnedSnapshot
from noisebank.reader.places import complete_ids, complete_places

if TYPE_CHECKING:
    import datasets

    from noisebank.reader.dataset import BankDataset


class Contents:
    """The part of :class:`noisebank.NoiseBank` that goes over all clips of the snapshot.

    A clip counts if it has a caption and, where the bank was opened with a noise set or has one alone, a record in it.
    """

    _pinned: PinnedSnapshot

    def _records(self, pinned: PinnedSnapshot) -> PinnedSet | None:
        """The noise set whose records clips must have."""
        name = self._needed_set(pinned, needs_noise=False)
        return pinned.noise_set(name) if name else None

    def __len__(self) -> int:
        pinned = self._pinned
        with pinned.reading():
            return sum(len(places["num"]) for places in complete_places(pinned, self._records(pinned)))

    def __bool__(self) -> bool:
        return True

    def ids(self) -> list[str]:
        """The ids of all clips, in an order that depends on them alone.

        Raises:
            BankDamaged: a table or a file of the index is missing or damaged.
            SnapshotExpired: the snapshot was vacuumed meanwhile.
        """
        pinned = self._pinned
        with pinned.reading():
            return complete_ids(pinned, self._records(pinned))

    def dataset(
        self,
        columns: Sequence[str] = ("caption", "noise"),
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        verify: bool = True,
    ) -> BankDataset:
        """All clips of this snapshot as a torch ``IterableDataset``, for training on noise.

        Args:
            columns: of each sample beside ``id``: ``caption`` (text, the first), ``captions`` (all, a list), ``noise``
                (the record, ``[C, F, H, W]`` float32), ``clip`` (the mp4, bytes).
            shuffle: shuffle shards and the clips in each, otherwise after every ``set_epoch``.
            seed: of the order.
            rank, world_size: which share of the clips to give; by default that of ``torch.distributed``, if it is
                initialised. Loader workers share what falls to their rank.
            verify: compare every record with its XXH3-64 and every mp4 with its sha256.

        Returns:
            A dataset of dicts. Every clip is in one share; shares of ranks differ by one clip at most.

        Raises:
            ValueError: an argument is not allowed.
            UnknownNoiseSet: ``noise`` is asked for, and the bank has several sets and none was named.
            BankDamaged, SnapshotExpired: as :meth:`ids`; also while it is read.
        """
        from noisebank.reader.dataset import BankDataset

        pinned = self._pinned
        name = self._needed_set(pinned, "noise" in columns)
        share = (rank, world_size)
        return BankDataset(pinned.store.url, pinned.snapshot.number, name, columns, shuffle, seed, *share, verify)

    def _needed_set(self, pinned: PinnedSnapshot, needs_noise: bool) -> str | None:
        """Name of the noise set whose records samples must have."""
        raise NotImplementedError

    def to_datasets(self, columns: Sequence[str] = ("caption", "noise")) -> datasets.IterableDataset:
        """The same as an ``IterableDataset`` of Hugging Face ``datasets`` (which must be installed), a shard a file.

        Args:
            columns: as of :meth:`dataset`; ``noise`` is an ``Array4D`` of float32, ``clip`` binary.
        """
        import datasets

        samples = self.dataset(columns)
        text = datasets.Value("string")
        kinds = {"caption": text, "captions": datasets.List(text), "clip": datasets.Value("binary")}
        if "noise" in columns:
            pinned = self._pinned
            shape = pinned.snapshot.models["noise"][self._needed_set(pinned, needs_noise=True)]["shape"]
            kinds["noise"] = datasets.Array4D(tuple(shape), "float32")
        features = datasets.Features({"id": text} | {column: kinds[column] for column in columns})
        return datasets.IterableDataset.from_generator(
            partial(_read_shards, samples), features=features, gen_kwargs={"shards": list(range(samples.shards))}
        )


def _read_shards(samples: BankDataset, shards: list[int]) -> Iterator[dict[str, Any]]:
    for sample in samples.read_shards(shards):
        yield sample | ({"noise": sample["noise"].numpy()} if "noise" in sample else {})
