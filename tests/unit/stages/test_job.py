"""The one runner of shards: made at most once, found by the receipt, and made again where what was made is damaged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pytest

from noisebank.errors import JobFailed, RowFailure
from noisebank.fixtures.small_models import smooth_clip
from noisebank.format.receipts import Failure, Receipt, find_receipt, finish
from noisebank.format.schemas import TASK_ROWS
from noisebank.ids import clip_number
from noisebank.models import ModelAdapter, load_model
from noisebank.options import CaptionOptions, ClipOptions, FetchOptions, NoiseOptions
from noisebank.stages.captions import CaptionsStage
from noisebank.stages.clips import ClipsStage
from noisebank.stages.job import Finished, Made, ShardJob, failure_of, run_job, stage_figures
from noisebank.stages.noise import NoiseStage
from noisebank.stages.over_clips import clips_of_tar
from noisebank.storage import BankWriter, Store, open_store
from tests.support import media
from tests.support.bank import caption_rows
from tests.support.clip_shards import mp4_of, write_clips
from tests.support.made_up import embedder

INPUTS = "ab" * 16
IDS = sorted(("mine-0", "mine-1"), key=clip_number)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


@pytest.fixture(scope="module")
def adapter(small_model: Path) -> ModelAdapter:
    return load_model(str(small_model))


@dataclass
class Copy:
    """A job whose shard is a file of this content."""

    content: bytes = b"made here"
    before: Callable[[], object] = lambda: None
    made: int = 0
    stage: str = "captions"
    fingerprint: str = "f"
    inputs: str = INPUTS
    size: int = 3

    def make(self, writer: BankWriter) -> Made:
        self.made += 1
        self.before()
        return Made((writer.data(self.content, self.stage, ".parquet", 3),), 2, (FAILURE,), {"dim": 4})


FAILURE = Failure(5, "mine-5", "mine", "a.mp4", "captions", "http_404", "gone", False, 1)


def clips_job(store: Store, folder: Path) -> ShardJob:
    """Two clips of local videos, and one of a video that is not there."""
    for id in IDS:
        media.numbered_video(folder / f"{id}.mp4")
    rows = [
        {"num": clip_number(id), "id": id, "source": 7, "uri": f"{id}.mp4", "base": 0, "caption": f"of {id}"}
        | {"video": 1, "caption_hash": 1, "attempt": 1, "embed": True}
        for id in (*IDS, "mine-gone")
    ]
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["num"]), TASK_ROWS)
    options = ClipOptions(frames=4, frame_stride=2, size=64)
    stage = ClipsStage(options, FetchOptions())
    return stage.shard(table, "c", lambda uri, base: str(folder / uri), {7: "mine"})


def test_clips_that_were_scaled_up_are_said(store: Store, tmp_path: Path) -> None:
    finished = run_job(clips_job(store, tmp_path), BankWriter(store))
    assert (finished.receipt.info, finished.note) == ({"upscaled": 2}, "2 of them scaled up")
    figures = stage_figures([finished])["clips"]
    assert figures | {"seconds": 0} == {"done": 2, "skipped": 0, "failed": 1, "seconds": 0, "upscaled": 2}


def captions_job() -> ShardJob:
    return CaptionsStage(CaptionOptions()).shard(caption_rows({id: f"of {id}" for id in IDS}), "t", embedder)


def noise_job(store: Store, adapter: ModelAdapter) -> ShardJob:
    tar = write_clips(store, {id: mp4_of(smooth_clip(2, 32, 32, i)) for i, id in enumerate(IDS)}).files[0].path
    options = NoiseOptions(name="small", inverter="ddim", num_inference_steps=2, batch_size=2)
    return NoiseStage(options).shard(tar, clips_of_tar(store, tar), "n", {"shape": [4, 2, 4, 4]}, lambda: adapter)


def test_a_shard_is_made_once_and_found_afterwards(store: Store) -> None:
    job, writer = Copy(), BankWriter(store, vacuum=3)
    first = run_job(job, writer)
    (entry,) = first.receipt.files
    assert first.receipt == Receipt("captions", INPUTS, "f", (entry,), 2, (FAILURE,), {"dim": 4})
    assert (first.made, entry.vacuum, store.read(entry.path)) == (True, 3, b"made here")
    assert find_receipt(store, "captions", INPUTS) == first.receipt
    for make in (True, False):
        again = run_job(job, writer, make)
        assert (again.receipt, again.made, job.made) == (first.receipt, False, 1)
    assert first.seconds > 0 and again.seconds > 0


def test_a_shard_that_is_missing_is_asked_for_where_it_is_not_to_be_made(store: Store) -> None:
    job = replace(Copy(), stage="noise/small")
    says = (
        "noise/small: a shard of 3 rows is not finished; run 'noisebank noise' or 'build' with the same configuration"
    )
    with pytest.raises(JobFailed, match=re.escape(says)):
        run_job(job, BankWriter(store), make=False)
    assert job.made == 0 and store.list("") == []


def test_of_two_attempts_the_first_receipt_wins(store: Store) -> None:
    other = Copy(b"made elsewhere")
    finished = run_job(Copy(before=lambda: run_job(other, BankWriter(store))), BankWriter(store))
    assert not finished.made and store.read(finished.receipt.files[0].path) == b"made elsewhere"


def test_the_receipt_of_another_attempt_does_not_win_over_a_damaged_file(store: Store) -> None:
    def make_and_damage() -> None:
        made = run_job(Copy(b"made elsewhere"), BankWriter(store))
        store.put(made.receipt.files[0].path, b"made elsewherE")

    finished = run_job(Copy(before=make_and_damage), BankWriter(store))
    assert finished.made and store.read(finished.receipt.files[0].path) == b"made here"


@pytest.mark.parametrize("damage", [b"made herE", b"made", None])
def test_what_is_found_is_verified_by_its_content_where_it_can_be_made_again(
    store: Store, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    job, writer = Copy(), BankWriter(store)
    first = run_job(job, writer)
    (entry,) = first.receipt.files
    store.delete(entry.path)
    if damage is not None:
        store.put(entry.path, damage)
    with pytest.raises(JobFailed, match="captions: a shard of 3 rows is not finished"):
        run_job(job, writer, make=False)
    if damage == b"made herE":  # (of the right size: whoever reads the file finds out)
        assert run_job(job, writer, make=False, verify=False).receipt == first.receipt
    caplog.clear()
    again = run_job(job, writer)
    assert f"{first.receipt.path}: {entry.path} is gone or damaged; its shard counts as not made" in caplog.text
    assert job.made == 2 and again.receipt == first.receipt and store.read(entry.path) == b"made here"


@pytest.mark.parametrize(
    ("stage", "suffix"), [("clips", ".tar"), ("clips", ".parquet"), ("captions", ".parquet"), ("noise/small", ".arrow")]
)
def test_a_file_of_any_stage_whose_end_was_overwritten_is_made_again(
    store: Store, adapter: ModelAdapter, tmp_path: Path, caplog: pytest.LogCaptureFixture, stage: str, suffix: str
) -> None:
    jobs: dict[str, Callable[[], ShardJob]] = {
        "clips": lambda: clips_job(store, tmp_path),
        "captions": captions_job,
        "noise/small": lambda: noise_job(store, adapter),
    }
    job, writer = jobs[stage](), BankWriter(store)
    first = run_job(job, writer)
    assert first.made and (first.receipt.stage, first.receipt.rows) == (stage, 2)
    (path,) = (entry.path for entry in first.receipt.files if entry.path.endswith(suffix))
    whole = store.read(path)
    store.put(path, whole[:-40] + b"\xff" * 40)
    again = run_job(job, writer)
    assert f"{first.receipt.path}: {path} is gone or damaged; its shard counts as not made" in caplog.text
    assert again.receipt == first.receipt and store.read(path) == whole
    caplog.clear()
    assert not run_job(job, writer).made and not caplog.text


def test_figures_add_up_by_stage() -> None:
    receipt = Receipt("noise/b", INPUTS, "f", (), 2, (FAILURE,))
    finished = [Finished(receipt, True, 1.25), Finished(receipt, False, 0.5), Finished(receipt, True, 1.0)]
    figures = stage_figures([*finished, Finished(replace(receipt, stage="clips", failures=()), False, 0.125)])
    assert [*figures] == ["clips", "noise/b"]
    assert figures["noise/b"] == {"done": 4, "skipped": 2, "failed": 3, "seconds": 2.75}
    assert figures["clips"] == {"done": 0, "skipped": 2, "failed": 0, "seconds": 0.125}


def test_a_failure_says_all_that_is_known_of_its_row() -> None:
    row = {"num": 5, "id": "mine-5", "source": "mine", "uri": "a.mp4", "attempt": 2, "caption": "not told"}
    failure = failure_of(row, "clips", RowFailure("timeout", "no byte for 30 s", retryable=True))
    assert failure == Failure(5, "mine-5", "mine", "a.mp4", "clips", "timeout", "no byte for 30 s", True, 2)


def test_a_receipt_that_is_there_counts_although_its_shard_would_come_out_otherwise(store: Store) -> None:
    entry = BankWriter(store).data(b"older", "captions", ".parquet", 1)
    older = finish(store, Receipt("captions", INPUTS, "f", (entry,), 1))
    job = Copy()
    assert run_job(job, BankWriter(store)).receipt == older and job.made == 0
