"""The captions step: shards through RunInference, one model a process, and none where there is nothing to do."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline

from noisebank.errors import ConfigError
from noisebank.format.receipts import Receipt, list_receipts
from noisebank.ids import clip_number, xxh64
from noisebank.options import CaptionOptions
from noisebank.planning.cut import Task
from noisebank.planning.plan import Plan, write_plan
from noisebank.search.embed import embedder_digest
from noisebank.storage import Store, open_store, publish_file
from schemas.clips import CLIPS
from schemas.rows import TASK_ROWS
from tests.support.minilm import MINILM
from transforms.captions import EmbedCaptions
from transforms.work import Done, Work

HASH = "a" * 32
CAPTIONS = [f"a dog number {i} on a beach" for i in range(12)]
OPTIONS = CaptionOptions(model=MINILM)
ABSENT = CaptionOptions(model="/no/such/model")


def task_rows(captions: Sequence[str]) -> pa.Table:
    rows = [
        {"num": clip_number(f"mine-{text}"), "id": f"mine-{text}", "source": 7, "caption": text, "embed": True}
        | {"caption_hash": xxh64(text), "attempt": 1, "base": 0}
        for text in captions
    ]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["num"]), TASK_ROWS)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


def plan(store: Store, folder: Path) -> list[Work]:
    """A plan with three captions tasks of four rows."""
    path = folder / "tasks.arrow"
    with pa.ipc.new_file(path, TASK_ROWS) as writer:
        writer.write_table(task_rows(CAPTIONS))
    key = f"plans/{HASH}/tasks.arrow"
    store.upload(path, key)
    tasks = tuple(Task("captions", ((key, start, start + 4),)) for start in (0, 4, 8))
    made: dict[str, Any] = {name: {} for name in ("counts", "sources", "records", "config")}
    made["models"] = {"captions": {"digest": embedder_digest(MINILM)}}
    fixed = {"parent": None, "parent_uuid": "", "created": "", "folders": ("",), "source_names": {7: "mine"}}
    fingerprints = {"clips": "c", "captions": "t", "noise": {}}
    lists = dict.fromkeys(("rows", "failures", "locations", "claimed"), ())
    write_plan(store, Plan(hash=HASH, fingerprints=fingerprints, tasks={"captions": tasks}, **made, **fixed, **lists))
    return [Work(HASH, task) for task in tasks]


def embedded(
    store: Store, works: Sequence[Work], options: CaptionOptions = OPTIONS, make: bool = True
) -> list[tuple[str, bool]]:
    """Inputs hash of every shard that the step gives, sorted, and whether it was made."""
    with TestPipeline(runner=FnApiRunner()) as pipeline:
        done = pipeline | beam.Create(list(works)) | EmbedCaptions(store.url, options, make)
        _ = done | beam.Map(_keep, store.url)
    return [(key.split("/")[1], store.read(key) == b"made") for key in store.list("probe")]


def _keep(done: Done, url: str) -> None:
    open_store(url).put(f"probe/{done.finished.receipt.inputs}", b"made" if done.finished.made else b"found")


def test_every_task_becomes_a_captions_file_with_its_receipt(store: Store, tmp_path: Path) -> None:
    works = plan(store, tmp_path)
    shards = embedded(store, works)
    assert shards == [(inputs, True) for inputs in list_receipts(store, "captions")] and len(shards) == 3
    files = [key for key in store.list("captions") if key.endswith(".parquet")]
    tables = [pq.read_table(pa.BufferReader(store.read(key))) for key in files]
    captions = [text for table in tables for text in table.column("caption").to_pylist()]
    assert sorted(captions) == sorted(CAPTIONS)
    assert set(pa.concat_tables(tables).column("source").to_pylist()) == {"mine"}


def test_finished_shards_are_found_again_and_no_model_is_loaded(store: Store, tmp_path: Path) -> None:
    works = plan(store, tmp_path)
    shards = embedded(store, works)
    before = store.list("captions")
    for make in (True, False):
        assert embedded(store, works, ABSENT, make) == [(inputs, False) for inputs, _ in shards]
    assert store.list("captions") == before


def test_a_worker_with_another_model_than_the_plan_stops(store: Store, tmp_path: Path) -> None:
    works = plan(store, tmp_path)
    other = shutil.copytree(MINILM, tmp_path / "other")
    (other / "more.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"^captions model '{other}' has digest"):
        embedded(store, works, CaptionOptions(model=str(other)))
    assert list_receipts(store, "captions") == []


def test_a_shard_that_another_machine_should_have_made_is_asked_for(store: Store, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="captions: a shard of 4 rows is not finished; run 'noisebank captions'"):
        embedded(store, plan(store, tmp_path), ABSENT, make=False)


def test_new_clips_hand_on_their_good_rows_alone(store: Store, tmp_path: Path) -> None:
    works = plan(store, tmp_path)
    rows = task_rows(CAPTIONS).slice(0, 4)
    clips = [{"num": num, "clip_row": -1 if i == 1 else i} for i, num in enumerate(rows.column("num").to_pylist())]
    pq.write_table(pa.Table.from_pylist(clips, CLIPS), tmp_path / "sidecar")
    sidecar = publish_file(store, tmp_path / "sidecar", "clips", ".parquet", 4)
    embedded(store, [Work(HASH, works[0].task, Receipt("clips", "0" * 32, "c", (sidecar,), 3))])
    (key,) = (key for key in store.list("captions") if key.endswith(".parquet"))
    table = pq.read_table(pa.BufferReader(store.read(key)))
    ids = rows.column("id").to_pylist()
    assert table.column("id").to_pylist() == [ids[0], ids[2], ids[3]]
