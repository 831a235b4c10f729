"""Rows of a plan to clips: fetched, decoded, encoded and written as webdataset tars, one shard an element."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import apache_beam as beam

from noisebank.format.receipts import find_receipt
from noisebank.options import ClipOptions, FetchOptions
from noisebank.planning.plan import read_task
from noisebank.stages.clips import STAGE, clip_inputs, make_clip_shard
from noisebank.stages.finished import Finished
from noisebank.storage import open_store
from schemas.clips import CLIPS
from transforms.work import Done, Work, count, generation_of, plan_of, unfinished

_log = logging.getLogger(__name__)


class MakeClips(beam.PTransform):
    """Makes the clips of tasks, or finds those that are made.

    Args:
        bank: its address.
        clips: what a clip is.
        fetch: how videos are fetched.
        make: whether missing shards are made; if not, one that is missing is an error.

    Input: :class:`.work.Work` of stage ``clips``. Output: :class:`.work.Done`, one a task.
    """

    def __init__(self, bank: str, clips: ClipOptions, fetch: FetchOptions, make: bool = True) -> None:
        super().__init__()
        self.bank, self.clips, self.fetch, self.make = bank, clips, fetch, make

    def expand(self, work: beam.PCollection[Work]) -> beam.PCollection[Done]:
        return work | beam.ParDo(_MakeClips(self.bank, self.clips, self.fetch, self.make))


class _MakeClips(beam.DoFn):
    def __init__(self, bank: str, clips: ClipOptions, fetch: FetchOptions, make: bool) -> None:
        self.bank, self.clips, self.fetch, self.make = bank, clips, fetch, make

    def process(self, work: Work) -> Iterator[Done]:
        store = open_store(self.bank)
        plan = plan_of(self.bank, work.plan)
        rows = read_task(store, work.task)
        fingerprint = plan.fingerprints[STAGE]
        if not self.make:
            receipt = find_receipt(store, STAGE, clip_inputs(fingerprint, rows))
            if receipt is None:
                raise unfinished(STAGE, work)
            yield Done(work, Finished(receipt, made=False, seconds=0.0))
            return
        finished = make_clip_shard(
            store,
            rows,
            options=self.clips,
            fetch=self.fetch,
            fingerprint=fingerprint,
            resolve=plan.resolve,
            source_names=plan.source_names,
            schema=CLIPS,
            generation=generation_of(self.bank, work.plan),
        )
        count(finished, STAGE)
        receipt = finished.receipt
        _log.info(
            "clips: shard of %d rows: %d good, %d failed, %s in %.1f s",
            rows.num_rows,
            receipt.rows,
            len(receipt.failures),
            "made" if finished.made else "found",
            finished.seconds,
        )
        yield Done(work, finished)
