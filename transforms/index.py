"""Finished captions to one index segment: a single step, because a segment is one file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from noisebank.errors import JobFailed
from noisebank.format.manifest import IndexSegment, read_snapshot
from noisebank.format.receipts import find_receipt
from noisebank.format.status import Status
from noisebank.format.tables import OverlayTable
from noisebank.options import IndexOptions
from noisebank.planning.plan import Plan
from noisebank.stages import captions
from noisebank.stages.finished import Finished
from noisebank.stages.index import STAGE, IndexJob, adopted_captions, segment_of
from noisebank.storage import FileEntry, Store, open_store
from schemas.captions import ENTRIES
from transforms.work import Done, count, generation_of, plan_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltIndex:
    """The index segment of a build.

    Args:
        segment: what the manifest says of it.
        replaces: paths of the index files that it takes the place of.
        finished: its receipt.
    """

    segment: IndexSegment
    replaces: frozenset[str]
    finished: Finished


class BuildIndex(beam.PTransform):
    """Builds the index segment over the captions made, or finds it.

    Args:
        bank: its address.
        index: how good it must be.
        done: the finished captions shards of the plan.
        make: whether a missing segment is built; if not, that is an error.

    Input: the plan's hash. Output: :class:`BuiltIndex`; nothing if no captions were made.
    """

    def __init__(self, bank: str, index: IndexOptions, done: beam.PCollection[Done], make: bool = True) -> None:
        super().__init__()
        self.bank, self.index, self.done, self.make = bank, index, done, make

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[BuiltIndex]:
        captions = beam.pvalue.AsList(self.done | "Files" >> beam.FlatMap(lambda done: done.finished.receipt.files))
        return plans | "Build" >> beam.FlatMap(_built, self.bank, self.index, self.make, captions)


def _built(hash: str, bank: str, index: IndexOptions, make: bool, entries: Iterable[FileEntry]) -> Iterator[BuiltIndex]:
    files = sorted(set(entries), key=lambda entry: entry.path)
    store = open_store(bank)
    plan = plan_of(bank, hash)
    adopted = adopted_captions(store, plan)
    if not (files or adopted):
        return
    parent = None if plan.parent is None else read_snapshot(store, plan.parent)
    fingerprint = plan.fingerprints[captions.STAGE]
    job = IndexJob(store, tuple(files), parent, fingerprint, index, ENTRIES, _gone(store, plan), adopted)
    if make:
        finished = job.run(generation_of(bank, hash))
        count(finished, STAGE)
    else:
        receipt = find_receipt(store, STAGE, job.inputs)
        if receipt is None:
            raise JobFailed("index: not built yet; run 'noisebank index' or 'build' with the same configuration first")
        finished = Finished(receipt, made=False, seconds=0.0)
    segment, replaces = segment_of(finished.receipt)
    _log.info(
        "index: %s over %d captions, recall %.3f, %d earlier segments merged, %s in %.1f s",
        segment.kind,
        segment.size,
        segment.recall,
        len(replaces),
        "made" if finished.made else "found",
        finished.seconds,
    )
    yield BuiltIndex(segment, replaces, finished)


def _gone(store: Store, plan: Plan) -> npt.NDArray[np.int64]:
    """Sorted numbers of the clips that the plan removes."""
    is_removed = pc.field("status") == int(Status.REMOVED)
    pieces = OverlayTable(store, plan.rows).slices() if plan.rows else ()
    removed = [piece.filter(is_removed).column("num").to_numpy() for piece in pieces]
    return np.concatenate([np.zeros(0, np.int64), *removed])
