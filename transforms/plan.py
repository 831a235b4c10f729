"""Configuration to plan: lists are cut, read and spilled by ranges of numbers, then compared range by range.

Only the addresses of batches pass through the GroupByKey; the rows stay in files of the bank.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from itertools import islice
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from noisebank.format.schemas import LISTED
from noisebank.options import Config
from noisebank.planning.assemble import (
    PartitionFiles,
    ReadRange,
    Scanned,
    assemble,
    scan_lists,
    summarise_range,
    write_partition,
)
from noisebank.planning.claims import CLAIMS, read_claims
from noisebank.planning.parent import Parent
from noisebank.planning.plan import FOLDER, drop_damaged, plan_path
from noisebank.planning.reduce import reduce_partition
from noisebank.planning.spill import SpilledBatch, read_batch, spill
from noisebank.planning.survey import Survey, survey
from noisebank.sources import Range, cut_ranges, read_range
from noisebank.sources.rows import FILTERED
from noisebank.storage import Store, open_store
from transforms.work import step

_RECEIPTS_A_CLAIM = 128
_SPILLED = {"rows": LISTED, "claims": CLAIMS}
Spilled = tuple[int, tuple[str, SpilledBatch] | None]
"""A partition, and a batch of its ``rows`` or ``claims`` (None: the partition is there although nothing is listed)."""


@step
class MakePlan(beam.PTransform):
    """Plans a build; one element comes out: the path of the plan (:func:`noisebank.planning.plan.read_plan`).

    The plan of a build that was killed is found again by its hash; only a damaged one is made again.

    Args:
        fingerprints: of its stages, by name.
        models: what the snapshot is to say of its models, by stage.
        out: where the plan is written; the bank by default, a scratch folder to only look at it.
        passing: where a plan with nothing to do is written, to be removed with the run; by default as any other.
        now: seconds since 1970, for the pauses between attempts; the clock's by default.
    """

    config: Config
    fingerprints: Mapping[str, str]
    models: Mapping[str, Any] = field(default_factory=dict)
    out: str = ""
    passing: str = ""
    now: float | None = None

    @property
    def _out(self) -> str:
        return self.out or self.config.bank

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[str]:
        surveyed = begin | beam.Create([None]) | "Survey" >> beam.Map(self._survey)
        the_survey = beam.pvalue.AsSingleton(surveyed)
        read = (
            surveyed
            | "Lists" >> beam.FlatMap(lambda found: range(len(found.lists)))
            | "SpreadLists" >> beam.Reshuffle()
            | "Cut" >> beam.FlatMap(lambda number, found: cut_ranges(found.lists[number], number), the_survey)
            | "SpreadRanges" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(_Read(self._out), the_survey).with_outputs("ranges", main="batches")
        )
        scan = (
            read.ranges
            | "Ranges" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
            | "Scanned" >> beam.Map(self._scan, the_survey)
        )
        the_scan = beam.pvalue.AsSingleton(scan)
        claims = (
            surveyed
            | "Receipts" >> beam.FlatMap(lambda found: range(0, len(found.receipts), _RECEIPTS_A_CLAIM))
            | "SpreadReceipts" >> beam.Reshuffle()
            | "Claim" >> beam.FlatMap(_claim, the_survey, the_scan, self.config.bank, self._out)
        )
        partitions = surveyed | "Partitions" >> beam.FlatMap(lambda found: ((i, None) for i in range(1 << found.bits)))
        return (
            (read.batches, claims, partitions)
            | "Batches" >> beam.Flatten()
            | "ByPartition" >> beam.GroupByKey()
            | "Reduce" >> beam.ParDo(_Reduce(self.config, self.models, self._out), the_survey, the_scan)
            | "Files" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
            | "Write" >> beam.Map(self._write, the_survey, the_scan)
        )

    def _survey(self, _: None) -> Survey:
        return survey(self.config, self.fingerprints, open_store(self.config.bank), open_store(self._out), self.now)

    def _scan(self, ranges: list[ReadRange], found: Survey) -> Scanned:
        scan = scan_lists(ranges, self.config, found)
        drop_damaged(open_store(self._out), scan.hash)
        return scan

    def _write(self, partitions: list[PartitionFiles], found: Survey, scan: Scanned) -> str:
        bank, out = open_store(self.config.bank), open_store(self._out)
        path, folders = plan_path(scan.hash), [found.spill]
        if not out.exists(path):
            plan = assemble(bank, out, partitions, scan, found, self.config, self.models)
            if plan.is_empty and self.passing:
                path = self.passing
                out.put(path, plan.to_bytes())
                folders.append(f"{FOLDER}/{scan.hash}")
            else:
                out.create(path, plan.to_bytes())
        for key in (key for folder in folders for key in out.list(folder)):
            out.delete(key)
        return path


class _Read(beam.DoFn):
    """A range of a list to spilled batches of its rows; what was read in short goes to ``ranges``."""

    def __init__(self, out: str) -> None:
        self._out = open_store(out)
        self._rows = Metrics.counter("plan", "rows_read")
        self._invalid = Metrics.counter("plan", "rows_invalid")

    def process(self, part: Range, found: Survey) -> Iterator[Spilled | beam.pvalue.TaggedOutput]:
        file, header = found.lists[part.file], list(found.headers[part.file])
        for table in read_range(file, part, header, found.base(part.file)):
            rows = table.cast(LISTED)
            if not rows.num_rows:
                continue
            yield from _spill(self._out, "rows", rows, found)
            self._rows.inc(rows.num_rows)
            filtered = pc.sum(pc.starts_with(rows.column("invalid"), FILTERED)).as_py() or 0
            self._invalid.inc(rows.num_rows - rows.column("invalid").null_count - filtered)
            yield beam.pvalue.TaggedOutput("ranges", summarise_range(rows, file.source.limit))


class _Reduce(beam.DoFn):
    """The batches of a partition to the files of the plan; nothing, where the plan is there already."""

    def __init__(self, config: Config, models: Mapping[str, Any], out: str) -> None:
        self._config, self._models, self._out = config, models, open_store(out)
        self._opened = "", ""

    def process(
        self, element: tuple[int, Iterable[tuple[str, SpilledBatch] | None]], found: Survey, scan: Scanned
    ) -> Iterator[PartitionFiles]:
        if self._opened != (found.spill, scan.hash):  # (a job that is restarted surveys again)
            self._opened = found.spill, scan.hash
            self._parent = Parent(open_store(self._config.bank), found.parent, found.fingerprints)
            self._exists = self._out.exists(plan_path(scan.hash))
        if self._exists:
            return
        partition, batches = element
        read: dict[str, list[pa.RecordBatch]] = {kind: [] for kind in _SPILLED}
        for kind, batch in sorted(batch for batch in batches if batch is not None):
            read[kind].append(read_batch(self._out, batch, _SPILLED[kind]))
        rows, claims = (pa.Table.from_batches(read[kind], _SPILLED[kind]).combine_chunks() for kind in read)
        reduced = reduce_partition(rows, claims, self._parent, partition, self._config, found, scan.limits)
        for name, count in reduced.counts.items():
            Metrics.counter("plan", name).inc(count)
        yield write_partition(self._out, partition, reduced, scan, found, self._models)


def _claim(first: int, found: Survey, scan: Scanned, bank: str, out: str) -> Iterator[Spilled]:
    """The claims of some receipts, from the one of number ``first`` on."""
    if open_store(out).exists(plan_path(scan.hash)):
        return
    group = list(islice(enumerate(found.receipts), first, first + _RECEIPTS_A_CLAIM))
    claims = read_claims(open_store(bank), group, found.stages, found.fingerprints)
    if claims.num_rows:
        yield from _spill(open_store(out), "claims", claims, found)


def _spill(out: Store, kind: str, table: pa.Table, found: Survey) -> Iterator[Spilled]:
    """Writes rows or claims to a file whose name is unique to this attempt."""
    for partition, batch in spill(out, f"{found.spill}/{uuid.uuid4().hex}.batches", table, found.bits):
        yield partition, (kind, batch)
