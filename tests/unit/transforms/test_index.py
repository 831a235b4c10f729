"""The index step: all finished captions in, one segment out, found again when it is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to

from noisebank.format.manifest import read_snapshot
from noisebank.format.receipts import Receipt, segment_of
from noisebank.format.status import Status
from noisebank.format.tables import write_segment
from noisebank.ids import clip_number
from noisebank.options import IndexOptions
from noisebank.planning.cut import Task
from noisebank.planning.plan import Plan, plan_path
from noisebank.stages.job import Finished
from noisebank.stages.stage import ShardWork
from noisebank.storage import BankWriter, Store, open_store
from schemas.rows import ROWS
from tests.support.bank import FINGERPRINTS, build, embed
from transforms.shards import BuildIndex
from transforms.work import Done

HASH = "b" * 32
CAPTIONS = {f"mine-{i}": f"a {thing}" for i, thing in enumerate(("dog", "cat", "boat", "tree", "house", "road"))}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


def plan(store: Store, parent: int | None = None, removed: Sequence[str] = ()) -> None:
    changes: dict[str, Any] = {}
    if removed:
        gone = pa.Table.from_pylist([{"num": clip_number(id), "status": int(Status.REMOVED)} for id in removed], ROWS)
        changes["rows"] = (write_segment(BankWriter(store), f"plans/{HASH}", gone.sort_by("num")),)
    made = {name: {} for name in ("models", "counts", "sources", "config", "tasks", "source_names")}
    fixed = {"parent": parent, "parent_uuid": "", "created": "", "folders": ("",), "changes": changes}
    plan = Plan(hash=HASH, fingerprints=FINGERPRINTS, locations=(), claimed=(), **made, **fixed)
    store.create(plan.path, plan.to_bytes())


def built(store: Store, receipts: Sequence[Receipt], expected: list[Any], **options: Any) -> None:
    """Runs the step and compares (size, replaced segments, whether it was made)."""
    done = [
        Done(ShardWork(plan_path(HASH), Task("captions", ())), Finished(receipt, True, 0.0)) for receipt in receipts
    ]
    with TestPipeline(runner=FnApiRunner()) as pipeline:
        finished = pipeline | "Done" >> beam.Create(done)
        plans = pipeline | "Plan" >> beam.Create([plan_path(HASH)])
        index = plans | BuildIndex(store.url, IndexOptions(), finished, **options)
        assert_that(index | beam.Map(_facts), equal_to(expected))


def _facts(index: Done) -> tuple[int, int, bool]:
    segment, replaces = segment_of(index.finished.receipt)
    assert segment.recall == 1.0
    return segment.size, len(replaces), index.finished.made


def test_all_captions_of_a_plan_make_one_segment_once(store: Store) -> None:
    plan(store)
    ids = sorted(CAPTIONS)
    receipts = [embed(store, {id: CAPTIONS[id] for id in part}) for part in (ids[:2], ids[2:])]
    built(store, receipts, [(6, 0, True)])
    built(store, receipts[::-1], [(6, 0, False)])
    built(store, receipts, [(6, 0, False)], make=False)
    assert len([key for key in store.list("index") if key.endswith(".faiss")]) == 1


def test_no_captions_no_segment(store: Store) -> None:
    plan(store)
    built(store, [], [])


def test_a_segment_that_is_to_be_there_is_asked_for(store: Store) -> None:
    plan(store)
    with pytest.raises(Exception, match="index: a shard of 6 rows is not finished; run 'noisebank index' or 'build'"):
        built(store, [embed(store, CAPTIONS)], [], make=False)


def test_merging_leaves_out_what_the_plan_removes(store: Store) -> None:
    build(store, CAPTIONS)
    plan(store, parent=read_snapshot(store).number, removed=["mine-2", "mine-4"])
    more = embed(store, {f"yours-{i}": f"a red {thing}" for i, thing in enumerate(("hat", "car", "door", "sofa"))})
    built(store, [more], [(6 - 2 + 4, 1, True)])
