"""Clips with several captions: one row, one tar member, one record of noise, and as many ways to be found; through
builds, updates, kills, damage and upkeep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from noisebank import NoiseBank
from noisebank.describe import snapshot_files
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.format.shards import ShardSample, read_shard
from noisebank.planning.plan import Plan
from noisebank.upkeep.compact import compact
from noisebank.upkeep.repair import repair
from noisebank.upkeep.verify import verify
from tests.support.bank import SET, Bank
from tests.support.made_up import embedder
from tests.support.minilm import MINILM

FIVE = [
    "a dog runs on the beach",
    "a brown puppy is sprinting along the sea",
    "an animal plays in the sand",
    "waves roll in behind a happy dog",
    "a sunny day at the ocean",
]
CITY, COOK = "cars drive through a city at night", "a chef cuts onions in a kitchen"


class Videos(Bank):
    """A bank of a list in the manner of VATEX: a video an object, its captions a list."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.embedder = embedder()
        self.models = {**self.models, "captions": {"model": MINILM, "digest": self.embedder.digest}}

    def listed(self, captions: dict[str, Any]) -> list[dict[str, Any]]:
        """The source of a list with these captions by video."""
        rows = [{"video": video, "url": f"{video}.mp4", "enCap": texts} for video, texts in captions.items()]
        (self.folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        columns = {"id": "video", "uri": "url", "caption": "enCap"}
        return [{"kind": "table", "name": "v", "path": str(self.folder / "list.jsonl"), **columns}]

    def update(self, captions: dict[str, Any]) -> Plan:
        """Builds; what stays counts as changed without limit."""
        return self.build(self.listed(captions), max_changed=1.0)

    @property
    def snapshot(self) -> Snapshot:
        return read_snapshot(self.store)

    def samples(self) -> dict[str, ShardSample]:
        """Every clip of the newest snapshot, by id."""
        tars = [self.store.local_path(file.path) for file in snapshot_files(self.store, self.snapshot, "clips")]
        return {sample.id: sample for tar in tars if tar for sample in read_shard(tar)}

    def found_by(self, caption: str) -> tuple[str, str, float]:
        """Id, caption and score of the nearest clip."""
        with NoiseBank.open(self.store.url) as bank:
            hit = bank.search(caption, k=1)[0]
        return hit.id, hit.caption, round(hit.score, 4)


@pytest.fixture
def videos(tmp_path: Path) -> Videos:
    return Videos(tmp_path)


def test_five_captions_of_a_video_are_one_record_and_five_ways_to_find_it(videos: Videos) -> None:
    plan = videos.update({"dog": FIVE, "city": [CITY], "cook": COOK})
    assert (plan.counts["read"], plan.counts["new"]) == (3, 3)
    assert (videos.snapshot.in_bank, videos.snapshot.record_counts, videos.snapshot.sources) == (3, {SET: 3}, {"v": 3})
    assert [segment.size for segment in videos.snapshot.index] == [7]
    for caption in FIVE:
        assert videos.found_by(caption) == ("v-dog", caption, 1.0)
    with NoiseBank.open(videos.store.url) as bank:
        for k, ids in ((1, 1), (2, 2), (3, 3), (9, 3)):
            hits = bank.search("a dog by the sea", k)
            assert len({hit.id for hit in hits}) == len(hits) == ids
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert len(set(bank.references("a dog by the sea", 3))) == 3
        assert (bank.noise(FIVE[4], eta=float("inf")) == bank.noise(id="v-dog", eta=float("inf"))).all()
    assert verify(videos.store).ok


def test_the_tar_says_the_first_caption_and_all_of_them(videos: Videos) -> None:
    videos.update({"dog": FIVE, "city": [CITY]})
    dog, city = (videos.samples()[id] for id in ("v-dog", "v-city"))
    assert (dog.caption, dog.info["caption"], dog.info["captions"]) == (FIVE[0], FIVE[0], FIVE)
    assert (city.caption, city.info["caption"]) == (CITY, CITY) and "captions" not in city.info


def test_coverage_counts_captions_and_names_the_nearest(videos: Videos) -> None:
    videos.update({"dog": FIVE, "city": [CITY], "cook": [COOK]})
    with NoiseBank.open(videos.store.url) as bank:
        found = bank.coverage(["a sunny day at the sea", CITY, "quantum physics"], below=0.95)
        assert (found.captions, found.clips_used >= 2, found.recall) == (7, True, 1.0)
        assert {far.prompt: far.nearest.caption for far in found.far}["a sunny day at the sea"] == FIVE[4]
        other_clips = bank.search(FIVE[0], 2)[1].score  # (its own clip's captions are no neighbours)
    assert found.pool.max() < 0.4 and len(found.pool) == 7 and found.pool.max() >= other_clips - 1e-5


def test_a_changed_caption_among_several_is_embedded_and_nothing_is_inverted(videos: Videos) -> None:
    videos.update({"dog": FIVE, "city": [CITY], "cook": [COOK]})
    tar, records = snapshot_files(videos.store, videos.snapshot, "clips"), videos.snapshot.records
    changed = [*FIVE[:2], "a boat sails under a bridge", *FIVE[3:]]
    plan = videos.update({"dog": changed, "city": [CITY], "cook": [COOK]})
    assert (plan.counts["changed"], plan.counts["unchanged"]) == (1, 2)
    assert videos.todo_ids(plan) == {"captions": ["v-dog"]}
    assert (snapshot_files(videos.store, videos.snapshot, "clips"), videos.snapshot.records) == (tar, records)
    assert [videos.found_by(caption)[:2] for caption in changed] == [("v-dog", caption) for caption in changed]
    assert videos.found_by(FIVE[2])[1] != FIVE[2]
    assert videos.samples()["v-dog"].info["captions"] == FIVE
    compact(videos.store)
    assert videos.samples()["v-dog"].info["captions"] == changed
    assert [videos.found_by(caption)[:2] for caption in changed] == [("v-dog", caption) for caption in changed]
    assert verify(videos.store).ok
    again = videos.plan(videos.listed({"dog": changed, "city": [CITY], "cook": [COOK]}))
    assert again.counts["unchanged"] == 3 and not videos.todo_ids(again)


def test_a_clip_that_goes_takes_all_its_captions_along(videos: Videos) -> None:
    videos.update({"dog": FIVE, "city": [CITY], "cook": [COOK, "dinner is made"]})
    videos.build(videos.listed({"city": [CITY], "cook": [COOK, "dinner is made"]}), max_removed=1.0)
    assert {videos.found_by(caption)[0] for caption in FIVE} <= {"v-city", "v-cook"}
    compact(videos.store, purge=True)
    assert verify(videos.store).ok
    files = [videos.store.local_path(key) for key in videos.store.list("") if key.endswith(".parquet")]
    texts = {text for file in files for text in pq.read_table(file).to_pydict().get("caption", [])}
    assert texts == {CITY, COOK, "dinner is made"}
    assert videos.found_by("dinner is made") == ("v-cook", "dinner is made", 1.0)


def test_a_later_build_takes_the_captions_of_one_that_was_killed(videos: Videos) -> None:
    killed = videos.plan(videos.listed({"dog": FIVE, "city": [CITY]}))
    videos.make(killed)
    plan = videos.update({"dog": FIVE, "city": [CITY], "cook": [COOK, "dinner is made"]})
    assert videos.todo_ids(plan) == {"clips": ["v-cook"]}
    for caption in (*FIVE, CITY, COOK, "dinner is made"):
        assert videos.found_by(caption)[1:] == (caption, 1.0)
    assert verify(videos.store).ok


@pytest.mark.parametrize(("kind", "todo"), [("captions", {"captions": ["v-city", "v-dog"]}), ("index", {})])
def test_damaged_captions_are_made_again_all_of_them(videos: Videos, kind: str, todo: dict[str, list[str]]) -> None:
    captions = {"dog": FIVE, "city": [CITY]}
    videos.update(captions)
    damaged = videos.store.local_path(snapshot_files(videos.store, videos.snapshot, kind)[0].path)
    assert damaged is not None
    damaged.chmod(0o644)
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    repair(videos.store, verify(videos.store))
    plan = videos.update(captions)
    assert videos.todo_ids(plan) == todo
    assert [videos.found_by(caption)[1] for caption in FIVE] == FIVE
    assert verify(videos.store).ok


def test_one_caption_in_a_list_is_as_one_caption(tmp_path: Path) -> None:
    banks = []
    for name, texts in (("list", [CITY]), ("text", CITY)):
        (tmp_path / name).mkdir()
        banks.append(Videos(tmp_path / name))
        banks[-1].update({"city": texts})
    assert banks[0].rows() == banks[1].rows()
    assert [dict(bank.samples()["v-city"].info) for bank in banks] == [banks[0].samples()["v-city"].info] * 2
