"""The noise of a bank beside white noise: a sample of the records of each set, read one after the other.

A bank of any size is diagnosed from as many records as were asked for, drawn with a seed, and no more than fit a
gigabyte; white noise of the same shape and number goes through the same measures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import BankDamaged, ClipNotFound, UnknownNoiseSet
from noisebank.evaluation.noise_space import as_document, measure_noise, white_noise
from noisebank.format.caption_places import HELD, caption_places
from noisebank.format.manifest import read_snapshot
from noisebank.format.parts import read_parts
from noisebank.format.reading import verified_table
from noisebank.format.stage_names import CAPTIONS
from noisebank.ids import Nums
from noisebank.progress import ReportProgress, silent
from noisebank.reader.pinned import PinnedSet, PinnedSnapshot
from noisebank.search.index import Vectors
from noisebank.search.segments import Hit
from noisebank.storage import Store

MOST_BYTES = 1 << 30
"""Of the records of a sample, as float32."""
_FLOAT = 4


def diagnose(
    store: Store,
    snapshot: int | None = None,
    noise_set: str | None = None,
    sample: int = 1000,
    seed: int = 0,
    progress: ReportProgress = silent,
) -> dict[str, Any]:
    """Measures the noise of a bank.

    Args:
        store: the bank.
        snapshot: its number; default: the latest.
        noise_set: the set to measure; default: all.
        sample: most records of a set.
        seed: of the sample, and of the white noise.
        progress: called with how many records are measured, and how many there are, white ones included.

    Returns:
        ``snapshot``, and by set ``in_set`` (its records), ``shape``, ``inverter``, ``num_inference_steps``, and
        ``noise`` and ``white`` (:class:`.noise_space.NoiseSpace`).

    Raises:
        UnknownNoiseSet: there is no such set.
        ClipNotFound: a set has no record.
        BankDamaged: a file is missing or damaged.
    """
    found = read_snapshot(store, snapshot)
    known = sorted(found.models["noise"])
    if noise_set is not None and noise_set not in known:
        raise UnknownNoiseSet(f"{store.url}: no noise set {noise_set!r}; it has {', '.join(known) or 'none'}")
    names = known if noise_set is None else [noise_set]
    with closing(PinnedSnapshot(store, found)) as pinned, pinned.reading():
        samples = {name: _draw(pinned.noise_set(name), sample, seed) for name in names}
        work = _Work(progress, 2 * sum(len(nums) for nums in samples.values()))
        sets = {name: _diagnose_set(pinned, name, nums, seed, work) for name, nums in samples.items()}
    return {"snapshot": found.number, "sets": sets}


def _draw(records: PinnedSet, sample: int, seed: int) -> Nums:
    """Numbers of the clips to measure, ascending."""
    nums = records.nums()
    if not len(nums):
        raise ClipNotFound(f"noise set {records.name!r} has no record; build it")
    most = min(sample, max(2, MOST_BYTES // (_FLOAT * int(np.prod(records.model["shape"])))))
    if len(nums) <= most:
        return nums
    return np.sort(np.random.default_rng(seed).choice(nums, most, replace=False))


def _diagnose_set(pinned: PinnedSnapshot, name: str, nums: Nums, seed: int, work: _Work) -> dict[str, Any]:
    records = pinned.noise_set(name)
    model, shape = records.model, tuple(records.model["shape"])
    captions = _embeddings(pinned, nums)
    noise = measure_noise(work.count(records.noise(_clip(pinned, num)) for num in nums.tolist()), captions)
    white = measure_noise(work.count(white_noise(shape, len(nums), seed)), captions)
    said = {key: model.get(key) for key in ("inverter", "num_inference_steps", "dtype")}
    return {
        "in_set": len(records.nums()),
        "shape": list(shape),
        **said,
        "noise": as_document(noise),
        "white": as_document(white),
    }


def _clip(pinned: PinnedSnapshot, num: int) -> Hit:
    clip = pinned.find(num)
    if clip is None:
        raise BankDamaged(f"clip number {num}: it has a record, and it is not in the index; run verify")
    return clip


def _embeddings(pinned: PinnedSnapshot, nums: Nums) -> Vectors:
    """Of the caption of each clip, ``[N, D]``; of a clip with several, of one of them."""
    snapshot, store = pinned.snapshot, pinned.store
    part = read_parts(store, snapshot.parts.get(CAPTIONS, ()))
    wanted = HELD & pc.is_in(pc.field("num"), pa.array(nums))
    tables = [
        verified_table(store, entry, ["num", "embedding"]).take(pa.array(rows))
        for entry, rows in caption_places(store, snapshot.rows, part, wanted)
    ]
    table = pa.concat_tables(tables)
    found, first = np.unique(table.column("num").to_numpy(), return_index=True)
    if not np.array_equal(found, nums):
        raise BankDamaged(f"{store.url}: of {len(nums)} clips with a record {len(found)} have a caption; run verify")
    embeddings = table.column("embedding").combine_chunks().take(pa.array(first))
    vectors: Vectors = embeddings.flatten().to_numpy().reshape(len(nums), -1)
    return vectors


class _Work:
    """Counts the records that were measured."""

    def __init__(self, progress: ReportProgress, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def count(self, records: Any) -> Iterator[Any]:
        """The records, each counted when the next is asked for."""
        for record in records:
            yield record
            self._done += 1
            self._progress(self._done, self._total)


def diagnosis_lines(document: dict[str, Any]) -> Iterator[str]:
    """What :func:`diagnose` found for people: a table a set, every measure beside that of white noise."""
    for name, one in document["sets"].items():
        shape, sides = "x".join(map(str, one["shape"])), (one["noise"], one["white"])
        made = f"{one['inverter']}, {one['num_inference_steps']} steps"
        yield f"{name}: {sides[0]['records']} of {one['in_set']} records of {shape} ({made})"
        yield f"  {'':<24}{'records':>20}{'white noise':>20}"
        for measure, value in sides[0].items():
            if isinstance(value, dict):
                cells = [f"{side[measure]['mean']:.4f} ± {side[measure]['std']:.4f}" for side in sides]
                yield f"  {measure:<24}" + "".join(f"{cell:>20}" for cell in cells)
        for measure in ("channel_mean", "channel_std"):
            for channel, values in enumerate(zip(*(side[measure] for side in sides), strict=True)):
                yield f"  {f'{measure} {channel}':<24}" + "".join(f"{value:>20.4f}" for value in values)
        for measure in ("direction_stability", "evr1"):
            cells = ["-" if side[measure] is None else f"{side[measure]:.4f}" for side in sides]
            yield f"  {measure:<24}" + "".join(f"{cell:>20}" for cell in cells)
        for own, white in zip(*(side["retrieval"] for side in sides), strict=True):
            interval = f"95% interval {own['low']:.4f} to {own['high']:.4f}, chance {own['chance']:.4f}"
            recalls = f"{own['recall']:>20.4f}{white['recall']:>20.4f}"
            yield f"  {'retrieval at ' + str(own['depth']):<24}{recalls}  {interval}"
