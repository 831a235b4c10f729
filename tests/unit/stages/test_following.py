"""Shards of clips that somebody else finishes: each is given once, and whoever waits in vain is told why."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisebank.errors import JobFailed
from noisebank.planning.plan import Plan, plan_path, refuse
from noisebank.stages.following import Follower
from noisebank.stages.stage import ShardWork
from tests.support.bank import SET, Bank, webvid_row, write_csv

STAGE = f"noise/{SET}"
CLIPS = {"frames": 2, "size": 64, "maxcount": 3}


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank(tmp_path)


def plan_clips(bank: Bank, videos: int = 9, **options: Any) -> Plan:
    """A plan of shards of three clips."""
    path = write_csv(bank.folder / "list.csv", [webvid_row(i) for i in range(videos)])
    return bank.plan(path, clips=CLIPS, **options)


def follower(bank: Bank, plan: Plan, sleep: Callable[[float], None], **options: Any) -> Follower:
    config = bank.config(str(bank.folder / "list.csv"), clips=CLIPS, **options)
    return Follower(bank.store, plan, config, pause=7, sleep=sleep)


def hide_receipts(bank: Bank) -> dict[str, bytes]:
    """The receipts of clips, which are not there any more."""
    receipts = {key: bank.store.read(key) for key in bank.store.list("clips") if key.endswith(".json")}
    for key in receipts:
        bank.store.delete(key)
    return receipts


def ids_of(work: list[ShardWork]) -> list[str]:
    """Inputs of the clips of some work."""
    return [one.clips.inputs for one in work if one.clips is not None]


def test_shards_are_given_once_as_they_are_finished(bank: Bank) -> None:
    plan = plan_clips(bank)
    made = [receipt.inputs for receipt in bank.make(plan, stages=("clips",))]
    receipts = hide_receipts(bank)
    paused: list[float] = []

    def finish_another(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) > 1:
            key, data = receipts.popitem()
            bank.store.put(key, data)

    work = list(follower(bank, plan, finish_another).find_work(STAGE))
    assert sorted(ids_of(work)) == sorted(made) and len(made) == 3
    assert paused == [7.0] * 4
    for share in range(2):
        mine = list(follower(bank, plan, finish_another).find_work(STAGE, share, 2))
        assert ids_of(mine) == made[share::2]


def test_a_damaged_receipt_is_waited_for(bank: Bank) -> None:
    plan = plan_clips(bank)
    bank.make(plan, stages=("clips",))
    key, *_ = receipts = hide_receipts(bank)
    for other in receipts:
        bank.store.put(other, receipts[other][:-9] if other == key else receipts[other])
    paused: list[int] = []

    def mend(_: float) -> None:
        paused.append(len(paused))
        bank.store.put(key, receipts[key])

    assert len(list(follower(bank, plan, mend).find_work(STAGE))) == 3
    assert len(paused) == 1


def test_whoever_waits_in_vain_reads_so_after_a_minute_and_each_few_minutes(
    bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_clips(bank)
    bank.make(plan, stages=("clips",))
    receipts, pauses = hide_receipts(bank), iter(range(200))

    def finish_late(_: float) -> None:
        if next(pauses) in (8, 61, 71):  # (pauses of 7 s each)
            key, data = receipts.popitem()
            bank.store.put(key, data)

    with caplog.at_level(logging.INFO, "noisebank.stages.following"):
        assert len(list(follower(bank, plan, finish_late).find_work(STAGE))) == 3
    said = [
        re.search(r"waits for (\d) shards of clips, none finished for (\d) minutes", text) for text in caplog.messages
    ]
    assert [found and found.groups() for found in said] == [("2", "1"), ("2", "6"), ("1", "1")]


def never(_: float) -> None:
    raise AssertionError("it waits")


def test_too_many_failed_clips_end_it(bank: Bank) -> None:
    plan = plan_clips(bank)
    bank.make(plan, {"clips": {f"webvid-{i}-0-5000": ("http_404", False) for i in range(2)}}, stages=("clips",))
    with pytest.raises(JobFailed, match=r"2 of 9 rows failed, more than max_failed 0\.2"):
        list(follower(bank, plan, never, max_failed=0.2).find_work(STAGE))
    assert len(list(follower(bank, plan, never, max_failed=0.3).find_work(STAGE))) == 3


def remove(bank: Bank, plan: Plan) -> None:
    bank.store.delete(plan_path(plan.hash))


def replace(bank: Bank, plan: Plan) -> None:
    plan_clips(bank, videos=10)


def reject(bank: Bank, plan: Plan) -> None:
    refuse(bank.store, plan.hash, "too much failed")


@pytest.mark.parametrize(
    ("end", "said"), [(remove, "is gone"), (replace, "was replaced by that of"), (reject, "was refused")]
)
def test_a_plan_that_nobody_carries_out_any_more_ends_it(
    bank: Bank, end: Callable[[Bank, Plan], None], said: str
) -> None:
    plan = plan_clips(bank)
    with pytest.raises(JobFailed, match=re.escape(f"the plan of {plan.created} {said}")):
        list(follower(bank, plan, lambda _: end(bank, plan)).find_work(STAGE))


def test_clips_that_are_in_the_bank_come_first(bank: Bank) -> None:
    bank.commit(plan := plan_clips(bank, videos=3), bank.make(plan))
    bank.fingerprints = {**bank.fingerprints, STAGE: "n2"}
    plan = plan_clips(bank, videos=6)
    bank.make(plan, stages=("clips",))
    first, *others = follower(bank, plan, never).find_work(STAGE)
    assert first.clips is None and first.task == plan.tasks[STAGE][0]
    assert len(ids_of(others)) == len(others) == 1
