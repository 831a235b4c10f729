"""Finished captions to one index segment: a single step, because a segment is one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam

from noisebank.format.stage_names import INDEX
from noisebank.options import IndexOptions
from noisebank.planning.cut import Task
from noisebank.stages.index import index_job
from noisebank.stages.stage import ShardWork
from noisebank.storage import FileEntry
from transforms.shards import run_and_count
from transforms.work import Done, plan_of, step, writer_of


@step
class BuildIndex(beam.PTransform):
    """Builds the index segment over the captions made, or finds it.

    Args:
        captions: the finished captions shards of the plan.
        make: whether a missing segment is built; if not, that is an error.
        verify: as of :class:`.shards.MakeShards`.

    Input: the plan's path. Output: :class:`.work.Done`; nothing if no captions were made.
    """

    bank: str
    index: IndexOptions
    captions: beam.PCollection[Done]
    make: bool = True
    verify: bool = True

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[Done]:
        files = self.captions | "Files" >> beam.FlatMap(lambda done: done.finished.receipt.files)
        return plans | "Build" >> beam.FlatMap(
            _build, self.bank, self.index, self.make, self.verify, beam.pvalue.AsList(files)
        )


def _build(
    path: str, bank: str, index: IndexOptions, make: bool, verify: bool, captions: Iterable[FileEntry]
) -> Iterator[Done]:
    writer = writer_of(bank, path)
    if job := index_job(writer.store, plan_of(bank, path), captions, index):
        yield Done(ShardWork(path, Task(INDEX, ())), run_and_count(job, writer, make, verify))
