"""A bank as a dataset: every complete clip once, over ranks, workers and epochs, as it was when it was pinned."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from noisebank import BankDamaged, NoiseBank, SnapshotExpired, UnknownNoiseSet
from noisebank.describe import snapshot_files
from noisebank.format.manifest import read_snapshot
from noisebank.reader.places import slice_of
from noisebank.storage import Store, open_store
from noisebank.upkeep.vacuum import vacuum
from tests.support.bank import address_of, build
from tests.support.made_up import mp4_of

ALL = ("caption", "captions", "noise", "clip")
CAPTIONS = {f"mine-{i:02}": f"thing number {i} moves over the wall" for i in range(23)}
"""Of what is in the bank in the end; in three tars, for it is built in three steps."""
ONCE = Counter(CAPTIONS.keys())


def build_in_steps(store: Store) -> dict[str, str]:
    """A bank whose first tar has a clip that was removed and one whose caption changed; what it holds, by id."""
    ids = list(CAPTIONS)
    build(store, {id: CAPTIONS[id] for id in ids[:8]} | {"mine-gone": "something else", ids[8]: "an older caption"})
    build(store, {id: CAPTIONS[id] for id in ids[8:15]}, removed=["mine-gone"])
    build(store, {id: CAPTIONS[id] for id in ids[15:]})
    return CAPTIONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    build_in_steps(open_store(folder))
    return folder


def ids_of(samples: Any) -> list[str]:
    return [sample["id"] for sample in samples]


def test_ids_and_len_are_of_the_clips_that_are_complete(folder: Path) -> None:
    with NoiseBank.open(folder) as bank:
        assert Counter(bank.ids()) == ONCE and len(bank) == len(CAPTIONS)
        assert bank.ids() == bank.ids() and bank
    with NoiseBank.open(folder, snapshot=1) as bank:
        assert "mine-gone" in bank.ids() and len(bank) == 10


def test_every_sample_is_what_the_bank_says_of_its_clip(folder: Path) -> None:
    with NoiseBank.open(folder) as bank:
        samples = list(bank.dataset(ALL))
        assert Counter(ids_of(samples)) == ONCE
        for sample in samples:
            id, caption = sample["id"], CAPTIONS[sample["id"]]
            assert (sample["caption"], sample["captions"]) == (caption, [caption])
            assert sample["clip"] == mp4_of(address_of(id, caption))
            assert torch.equal(sample["noise"], bank.inverted(id).noise)
        assert {tuple(sample) for sample in bank.dataset(("clip",))} == {("id", "clip")}


def test_a_set_that_lacks_records_has_fewer_clips(tmp_path: Path) -> None:
    build(open_store(tmp_path), CAPTIONS, sets={"some": list(CAPTIONS)[:5], "all": CAPTIONS})
    with NoiseBank.open(tmp_path, noise_set="some") as bank:
        assert sorted(ids_of(bank.dataset(("noise",)))) == sorted(bank.ids()) == list(CAPTIONS)[:5]
    with NoiseBank.open(tmp_path) as bank:
        assert len(bank) == len(ids_of(bank.dataset(("caption",)))) == len(CAPTIONS)
        with pytest.raises(UnknownNoiseSet, match="all, some"):
            bank.dataset(("noise",))


def see(rank: int, folder: str, results: str) -> None:
    """What the two workers of a rank of two see, in a process group."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{results}/group", rank=rank, world_size=2)
    samples = NoiseBank.open(folder).dataset(("caption", "noise", "clip"), shuffle=True)
    loader = DataLoader(samples, batch_size=4, num_workers=2, multiprocessing_context="fork")
    seen = [id for batch in loader for id in batch["id"]]
    (Path(results) / f"{rank}").write_text("\n".join(seen))
    torch.distributed.destroy_process_group()


def test_two_ranks_of_two_workers_see_every_clip_once(folder: Path, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(see, (str(folder), str(tmp_path)), nprocs=2)
    seen = [(tmp_path / rank).read_text().split() for rank in ("0", "1")]
    assert Counter(seen[0] + seen[1]) == ONCE
    assert abs(len(seen[0]) - len(seen[1])) <= 1


def test_workers_that_persist_see_the_next_epoch(folder: Path) -> None:
    with NoiseBank.open(folder) as bank:
        samples = bank.dataset(("caption",), shuffle=True, seed=3)
        again = bank.dataset(("caption",), shuffle=True, seed=3, rank=0, world_size=1)
    loader = DataLoader(samples, num_workers=1, persistent_workers=True, multiprocessing_context="spawn")
    orders = []
    for epoch in (0, 1, 0):
        samples.set_epoch(epoch)
        again.set_epoch(epoch)
        orders.append([batch["id"][0] for batch in loader])
        assert orders[-1] == ids_of(again)
        assert Counter(orders[-1]) == ONCE
    assert orders[0] == orders[2] != orders[1]


def test_the_order_is_of_the_seed_and_the_clips_of_a_shard_stay_together(folder: Path) -> None:
    with NoiseBank.open(folder) as bank:
        plain, *mixed = [ids_of(bank.dataset(shuffle=shuffle, seed=seed)) for shuffle, seed in
                         ((False, 0), (True, 0), (True, 0), (True, 1))]  # fmt: skip
        assert plain == ids_of(bank.dataset()) and mixed[0] == mixed[1] != mixed[2]
        shards = bank.dataset().shards
        assert shards == 3
        of = {id: shard for shard in range(shards) for id in ids_of(bank.dataset().read_shards([shard]))}
    for order in (plain, *mixed):
        changes = sum(of[one] != of[other] for one, other in pairwise(order))
        assert changes == shards - 1


def test_shares_are_even_whole_and_in_order() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        counts = random.integers(0, 9, random.integers(0, 6))
        ranks, workers = (int(n) for n in random.integers(1, 5, 2))
        shares = [slice_of(counts, [(r, ranks), (w, workers)]) for r in range(ranks) for w in range(workers)]
        rows = [(shard, row) for parts in shares for shard, low, high in parts for row in range(low, high)]
        assert rows == [(shard, row) for shard, count in enumerate(counts.tolist()) for row in range(count)]
        sizes = [sum(high - low for _, low, high in slice_of(counts, [(r, ranks)])) for r in range(ranks)]
        assert max(sizes) - min(sizes) <= 1


def test_a_dataset_stays_at_its_snapshot(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    build(store, CAPTIONS)
    samples = NoiseBank.open(tmp_path).dataset()
    build(store, {"mine-new": "a new thing"}, removed=["mine-00"])
    assert Counter(ids_of(samples)) == ONCE
    assert Counter(ids_of(pickle.loads(pickle.dumps(samples)))) == ONCE
    vacuum(store, keep=1, unpublished_seconds=0)
    with pytest.raises(SnapshotExpired):  # (a process that opens it now; what is open needs only its data files)
        list(pickle.loads(pickle.dumps(samples)))


def test_from_an_object_store_files_are_copied_and_go_again(tmp_path: Path) -> None:
    store = open_store(f"memory://{tmp_path.name}")
    build_in_steps(store)
    with NoiseBank.open(store.url) as bank:
        samples = bank.dataset(ALL)
        assert [sample["clip"] for sample in samples if sample["id"] == "mine-20"] == [
            mp4_of(address_of("mine-20", CAPTIONS["mine-20"]))
        ]
        assert Counter(ids_of(samples)) == ONCE
        copies = samples._open().scratch
    assert not [path for path in copies.rglob("*") if path.suffix == ".tar"]


@pytest.mark.parametrize(("kind", "column"), [("clips", "clip"), ("noise", "noise"), ("captions", "caption")])
def test_damage_is_named(tmp_path: Path, kind: str, column: str) -> None:
    store = open_store(tmp_path)
    build(store, CAPTIONS)
    path = store.local_path(snapshot_files(store, read_snapshot(store), kind)[0].path)
    assert path is not None
    content = bytearray(path.read_bytes())
    middle = content.index(b"clip of") if kind == "clips" else len(content) // 2
    content[middle] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    with NoiseBank.open(tmp_path) as bank:
        with pytest.raises(BankDamaged, match=path.name):
            list(bank.dataset((column,)))
        if kind != "captions":
            assert len(ids_of(bank.dataset((column,), verify=False))) == len(CAPTIONS)


@pytest.mark.parametrize(
    "options",
    [{"columns": ("frames",)}, {"seed": -1}, {"rank": 0}, {"world_size": 2}, {"rank": 2, "world_size": 2}],
)
def test_what_is_not_allowed_is_refused(folder: Path, options: dict[str, Any]) -> None:
    with NoiseBank.open(folder) as bank, pytest.raises(ValueError, match="is not allowed"):
        bank.dataset(**options)


def test_hugging_face_datasets_reads_the_same(folder: Path) -> None:
    with NoiseBank.open(folder) as bank:
        streamed = bank.to_datasets(ALL)
        assert (streamed.n_shards, streamed.features["noise"].shape) == (3, (4, 2, 4, 6))
        expected = {sample["id"]: sample for sample in bank.dataset(ALL)}
    for row in streamed.with_format("torch"):
        assert torch.equal(row["noise"], expected[row["id"]]["noise"])
        assert [row[name] for name in ("caption", "captions", "clip")] == [
            expected[row["id"]][name] for name in ("caption", "captions", "clip")
        ]
    halves = [split_dataset_by_node(streamed, rank, 2) for rank in (0, 1)]
    assert Counter(row["id"] for half in halves for row in half) == ONCE
