"""Finished captions to one index segment: a single step, because a segment is one file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam

from noisebank.format.manifest import IndexSegment
from noisebank.format.receipts import segment_of
from noisebank.options import IndexOptions
from noisebank.stages.index import index_job
from noisebank.stages.job import Finished, run_job
from noisebank.storage import FileEntry
from transforms.shards import count
from transforms.work import Done, plan_of, step, writer_of

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


@step
class BuildIndex(beam.PTransform):
    """Builds the index segment over the captions made, or finds it.

    Args:
        bank: its address.
        index: how good it must be.
        done: the finished captions shards of the plan.
        make: whether a missing segment is built; if not, that is an error.

    Input: the plan's path. Output: :class:`BuiltIndex`; nothing if no captions were made.
    """

    bank: str
    index: IndexOptions
    done: beam.PCollection[Done]
    make: bool = True

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[BuiltIndex]:
        files = self.done | "Files" >> beam.FlatMap(lambda done: done.finished.receipt.files)
        return plans | "Build" >> beam.FlatMap(_build, self.bank, self.index, self.make, beam.pvalue.AsList(files))


def _build(
    path: str, bank: str, index: IndexOptions, make: bool, captions: Iterable[FileEntry]
) -> Iterator[BuiltIndex]:
    writer = writer_of(bank, path)
    job = index_job(writer.store, plan_of(bank, path), captions, index)
    if job is None:
        return
    finished = run_job(job, writer, make)
    if make:
        count(finished)
    segment, replaces = segment_of(finished.receipt)
    _log.info("index: %s, recall %.3f, %d earlier segments merged", segment.kind, segment.recall, len(replaces))
    yield BuiltIndex(segment, replaces, finished)
