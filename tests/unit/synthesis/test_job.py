"""A shard: the same bytes however often its worker was killed, and a sheet to look at."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from noisebank.errors import RowFailure
from noisebank.format.shards import read_foreign_shard, read_shard
from noisebank.models import ModelAdapter
from noisebank.stages.job import ShardJob, run_job
from noisebank.storage import BankWriter, Store, open_store
from noisebank.synthesis.entry import Models, Prompt
from noisebank.synthesis.job import WORK, KeptWork, ShardFolder, SynthesisShard, clear_work, look_at_work, shard_inputs
from noisebank.synthesis.options import STAGE, ImageOptions, SynthesisOptions, SyntheticClipOptions

OPTIONS = SynthesisOptions(
    prompts="far.txt",
    clips=SyntheticClipOptions(frames=2, size=64),
    images=ImageOptions(candidates=2),
    num_inference_steps=2,
)
PROMPTS = (Prompt("one", "a dog"), Prompt("two", "", invalid="empty_prompt: none"), Prompt("three", "ein Hündchen"))


class Killed(BaseException):
    """What a worker is ended by."""


class Scored:
    """A reward that counts, and ends its worker once when it comes to a prompt."""

    def __init__(self, kill_at: str = "") -> None:
        self.kill_at, self.prompts = kill_at, list[str]()

    def __call__(self, prompt: str, images: list[Any]) -> list[float]:
        self.prompts.append(prompt)
        if prompt == self.kill_at:
            raise Killed
        return [0.0, 1.0]


def job(adapter: ModelAdapter, reward: Scored, prompts: tuple[Prompt, ...] = PROMPTS) -> ShardJob:
    return SynthesisShard(prompts, OPTIONS, "f", {"model": "m"}, lambda: Models(adapter, adapter, reward)).job


def files(store: Store) -> dict[str, bytes]:
    return {key: store.read(key) for key in store.list(STAGE)}


@pytest.fixture
def adapter(adapters: dict[str, ModelAdapter]) -> ModelAdapter:
    return adapters["modelscope"]


def test_a_killed_shard_goes_on_behind_what_is_done(adapter: ModelAdapter, tmp_path: Path) -> None:
    whole, store = open_store(tmp_path / "whole"), open_store(tmp_path / "killed")
    expected = run_job(job(adapter, Scored()), BankWriter(whole))
    shards = {expected.receipt.inputs: [KeptWork(store, "f").keys(prompt)[-1] for prompt in PROMPTS]}
    with pytest.raises(Killed):
        run_job(job(adapter, Scored("ein Hündchen")), BankWriter(store))
    assert files(store) == {} and look_at_work(store, shards) == (2, ["candidates"])
    reward = Scored()
    receipt = run_job(job(adapter, reward), BankWriter(store)).receipt
    assert reward.prompts == ["ein Hündchen"]
    assert files(store) == files(whole) and receipt == expected.receipt
    assert look_at_work(store, shards) == (3, [])
    again = Scored()
    assert not run_job(job(adapter, again), BankWriter(store)).made and again.prompts == []


def test_kept_work_is_found_by_another_cut_of_the_list(adapter: ModelAdapter, tmp_path: Path) -> None:
    store, shards = open_store(tmp_path), (PROMPTS[:1], PROMPTS[1:])
    with pytest.raises(Killed):
        run_job(job(adapter, Scored("ein Hündchen")), BankWriter(store))
    kept = KeptWork(store, "f")
    documents = {shard_inputs("f", shard): [kept.keys(prompt)[-1] for prompt in shard] for shard in shards}
    assert look_at_work(store, documents) == (2, [])
    reward = Scored()
    made = [run_job(job(adapter, reward, shard), BankWriter(store)).receipt for shard in shards]
    assert reward.prompts == ["ein Hündchen"] and [receipt.rows for receipt in made] == [1, 1]
    assert KeptWork(store, "other").read(PROMPTS[0]) is None
    for other in ({"text": "a cat"}, {"id": "four"}, {"attempt": 2}):
        assert kept.read(replace(PROMPTS[0], **other)) is None


def test_only_the_work_of_finished_shards_of_a_list_is_removed(adapter: ModelAdapter, tmp_path: Path) -> None:
    """Not what is unfinished, and not what another job is making."""
    store, kept = open_store(tmp_path), KeptWork(open_store(tmp_path), "f")
    finished, unfinished, foreign = PROMPTS[:1], PROMPTS[1:2], (Prompt("theirs", "a cat"),)
    for shard in (finished, unfinished, foreign):
        ShardFolder(store, shard_inputs("f", shard)).plan(shard)
        kept.write(shard[0], RowFailure("no_image", "gone"))
    before = set(store.list(WORK))
    for shard in (finished, foreign):
        run_job(job(adapter, Scored(), shard), BankWriter(store))
    clear_work(store, "f", PROMPTS)
    gone = {kept.keys(finished[0])[-1], f"{ShardFolder(store, shard_inputs('f', finished)).path}/prompts"}
    assert before - set(store.list(WORK)) == gone
    clear_work(store, "f", foreign)
    assert kept.read(unfinished[0]) is not None and kept.read(foreign[0]) is None


def test_kept_work_that_is_damaged_is_made_again(adapter: ModelAdapter, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(Killed):
        run_job(job(adapter, Scored("ein Hündchen")), BankWriter(store))
    for suffix in (".mp4", ".png", ".json"):
        (kept,) = (key for key in store.list(WORK) if "/one-" in key and key.endswith(suffix))
        before = store.read(kept)
        store.put(kept, before[:-1] + b"x")
        reward = Scored("ein Hündchen")
        with pytest.raises(Killed):
            run_job(job(adapter, reward), BankWriter(store))
        assert reward.prompts == ["a dog", "ein Hündchen"]
        assert store.read(kept) == before


def test_what_a_shard_holds(adapter: ModelAdapter, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    receipt = run_job(job(adapter, Scored()), BankWriter(store)).receipt
    (tar,) = receipt.files
    assert (tar.rows, receipt.rows, receipt.info["tar"]) == (2, 2, tar.path)
    assert [(failure.id, failure.code, failure.attempts) for failure in receipt.failures] == [
        ("two", "empty_prompt", 1)
    ]
    assert {*receipt.info["keys"]} == {"one", "two", "three"}
    samples = [*read_shard(tmp_path / tar.path)]
    assert [(sample.id, sample.caption, sample.info["prompt"]) for sample in samples] == [
        ("one", "a dog", "a dog"),
        ("three", "ein Hündchen", "ein Hündchen"),
    ]
    with (tmp_path / tar.path).open("rb") as file:
        assert [sample.caption for sample in read_foreign_shard(file)] == ["a dog", "ein Hündchen"]
    sheet = Image.open(io.BytesIO(store.read(receipt.info["sheet"])))
    rows = [Image.open(io.BytesIO(store.read(key))) for key in store.list(WORK) if key.endswith(".png")]
    assert len(rows) == 2
    assert sheet.height > sum(row.height for row in rows) and sheet.width >= max(row.width for row in rows)
    store.delete(receipt.info["sheet"])
    assert not run_job(job(adapter, Scored()), BankWriter(store)).made


def test_a_shard_without_a_clip_has_no_file(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    none = SynthesisShard(PROMPTS[1:2], OPTIONS, "f", {}, lambda: pytest.fail("no model is needed")).job
    receipt = run_job(none, BankWriter(store)).receipt
    assert (receipt.files, receipt.rows, len(receipt.failures)) == ((), 0, 1)


def test_prompts_travel_as_they_are(tmp_path: Path) -> None:
    work = ShardFolder(open_store(tmp_path), "0" * 32)
    work.plan(PROMPTS)
    assert work.prompts() == PROMPTS
