"""The captions stage: real embeddings in a file that others open, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noisebank.format.receipts import Receipt
from noisebank.ids import clip_number
from noisebank.options import CaptionOptions
from noisebank.search.embed import Embedder
from noisebank.stages.captions import CaptionsStage, rows_to_embed
from noisebank.stages.job import Finished, run_job, stage_figures
from noisebank.storage import BankWriter, Store, open_store
from schemas.captions import captions_schema
from schemas.clips import CLIPS
from schemas.rows import TASK_ROWS
from tests.support.bank import caption_rows
from tests.support.made_up import embedder

CAPTIONS = {"mine-1": "a dog", "mine-2": "two cats on a roof", "yours-1": 'rain, "heavy"\nrain', "mine-3": "a dog"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


def make(
    store: Store, rows: pa.Table, load: Callable[[], Embedder], fingerprint: str = "f", **options: int
) -> Finished:
    return run_job(CaptionsStage(CaptionOptions(**options)).shard(rows, fingerprint, load), BankWriter(store))


def never() -> Embedder:
    raise AssertionError("the model is loaded although there is nothing to do")


def test_the_file_holds_captions_and_unit_embeddings_in_the_order_of_their_numbers(store: Store) -> None:
    rows = caption_rows(CAPTIONS)
    finished = make(store, rows, embedder)
    assert finished.made and finished.receipt.rows == 4 and finished.receipt.info == {"dim": 384}
    (entry,) = finished.receipt.files
    with store.open(entry.path) as file:
        table = pq.read_table(file)
    assert table.schema == captions_schema(384)
    assert table.select(rows.schema.names) == rows
    assert table.column("num").to_pylist() == sorted(clip_number(id) for id in CAPTIONS)
    embeddings = np.asarray(table.column("embedding").to_pylist(), np.float32)
    np.testing.assert_array_equal(embeddings, embedder().embed(table.column("caption").to_pylist()))


def test_captions_that_the_model_does_not_read_to_their_end_are_said(store: Store) -> None:
    finished = make(store, caption_rows(CAPTIONS | {"mine-4": "waves " * 3000}), embedder)
    assert finished.receipt.info == {"dim": 384, "truncated": 1}
    assert "1 of them longer than sentence-transformers/" in finished.note and "reads" in finished.note
    assert stage_figures([finished])["captions"]["truncated"] == 1


def test_a_finished_shard_is_found_without_loading_the_model(store: Store) -> None:
    rows = caption_rows(CAPTIONS)
    first = make(store, rows, embedder)
    again = make(store, rows, never)
    assert not again.made and again.receipt == first.receipt
    with pytest.raises(AssertionError, match="nothing to do"):
        make(store, rows, never, "g")
    empty = make(store, rows[:0], never)
    assert (empty.receipt.rows, empty.receipt.files) == (0, ())


def test_equal_rows_give_equal_files_whatever_the_batches(tmp_path: Path) -> None:
    names = set()
    for batch_size in (1, 3, 64):
        store = open_store(tmp_path / str(batch_size))
        finished = make(store, caption_rows(CAPTIONS), embedder, batch_size=batch_size)
        names.add(finished.receipt.files[0].path)
    assert len(names) == 1


def test_of_new_clips_only_the_good_ones_marked_for_it_are_embedded(store: Store, tmp_path: Path) -> None:
    ids = sorted(CAPTIONS, key=clip_number)
    rows = [
        {"num": clip_number(id), "id": id, "source": 5, "caption": CAPTIONS[id], "caption_hash": i, "embed": i != 1}
        for i, id in enumerate(ids)
    ]
    task = pa.Table.from_pylist(rows, TASK_ROWS)
    clips = [{"num": clip_number(id), "clip_row": -1 if i == 2 else i} for i, id in enumerate(ids)]
    pq.write_table(pa.Table.from_pylist(clips, CLIPS), tmp_path / "sidecar")
    sidecar = BankWriter(store).file(tmp_path / "sidecar", "clips", ".parquet", 4)
    receipt = Receipt("clips", "0" * 32, "c", (sidecar,), 3)
    wanted = rows_to_embed(store, task, {5: "mine"}, receipt)
    assert wanted.column("id").to_pylist() == [ids[0], ids[3]]
    assert wanted.column("source").to_pylist() == ["mine", "mine"]
    assert rows_to_embed(store, task, {5: "mine"}).column("id").to_pylist() == ids
