"""Finished shards that no snapshot has are taken over: a new plan costs what is new."""

from pathlib import Path

import pytest

from noisebank.format.manifest import latest_snapshot
from noisebank.format.status import Status
from noisebank.planning.plan import Plan, open_plans, refuse
from tests.support.bank import FINGERPRINTS, Bank, webvid_row, write_csv


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank(tmp_path)


def listed(bank: Bank, *videos: int, edited: int = -1) -> Path:
    rows = [webvid_row(video, "edited" if video == edited else "") for video in videos]
    return write_csv(bank.folder / "list.csv", rows)


def ids(*videos: int) -> list[str]:
    return sorted(f"webvid-{video}-0-5000" for video in videos)


def stages_of(plan: Plan) -> list[str]:
    return sorted(stage for stage, _ in plan.claimed)


def finish(bank: Bank, plan: Plan) -> None:
    """Carries out what is left of a plan and checks that nothing is left after it."""
    bank.commit(plan, bank.make(plan))
    snapshot = latest_snapshot(bank.store)
    assert snapshot is not None and snapshot.in_bank == plan.sources["webvid"]["rows"]


def test_a_killed_build_finds_its_own_plan(bank: Bank) -> None:
    path = listed(bank, *range(10))
    plan = bank.plan(path)
    bank.make(plan, stages=("clips",))
    assert bank.plan(path) == plan


def test_a_list_that_grew_by_one_row_costs_one_row(bank: Bank) -> None:
    bank.make(bank.plan(listed(bank, *range(10))))
    path = listed(bank, *range(11))
    plan = bank.plan(path)
    assert bank.todo_ids(plan) == {"clips": ids(10)}
    assert stages_of(plan) == ["captions", "clips", "noise/toy"]
    assert {row["status"] for row in bank.delta(plan)} == {Status.OK, Status.PENDING}
    assert len(bank.delta(plan, "records/toy")) == 10
    finish(bank, plan)
    assert bank.plan(path).is_empty


@pytest.mark.parametrize(
    ("finished", "left"),
    [
        (("clips",), ["captions", "noise/toy"]),
        (("clips", "captions"), ["noise/toy"]),
        (("clips", "noise"), ["captions"]),
    ],
)
def test_every_stage_goes_on_from_what_is_finished(bank: Bank, finished: tuple[str, ...], left: list[str]) -> None:
    bank.make(bank.plan(listed(bank, *range(10))), stages=finished)
    plan = bank.plan(listed(bank, *range(11)))
    assert bank.todo_ids(plan) == {"clips": ids(10), **{stage: ids(*range(10)) for stage in left}}
    finish(bank, plan)


def test_rows_that_are_no_longer_wanted_are_not_claimed(bank: Bank) -> None:
    bank.make(bank.plan(listed(bank, *range(10))))
    path = listed(bank, *range(2, 10), edited=5)
    plan = bank.plan(path)
    assert bank.todo_ids(plan) == {"captions": ids(5)}
    assert len(bank.delta(plan)) == 8
    finish(bank, plan)
    assert len(bank.rows()) == 8


def test_shards_made_with_other_options_are_not_claimed(bank: Bank) -> None:
    bank.make(bank.plan(listed(bank, *range(10))))
    bank.fingerprints = FINGERPRINTS | {"clips": "c2"}
    plan = bank.plan(listed(bank, *range(10)))
    assert bank.todo_ids(plan) == {"clips": ids(*range(10))}
    assert plan.claimed == ()


def test_an_update_claims_too(bank: Bank) -> None:
    bank.build(listed(bank, *range(10)))
    bank.make(bank.plan(listed(bank, *range(15), edited=3)))
    path = listed(bank, *range(16), edited=3)
    plan = bank.plan(path)
    assert bank.todo_ids(plan) == {"clips": ids(15)}
    assert [plan.counts[name] for name in ("new", "changed", "unchanged")] == [6, 1, 9]
    finish(bank, plan)
    assert bank.plan(path).is_empty


def test_a_refused_build_retries_what_can_heal_and_keeps_the_rest(bank: Bank) -> None:
    path = listed(bank, *range(10))
    plan = bank.plan(path)
    bank.make(plan, {"clips": {ids(1)[0]: ("timeout", True), ids(2)[0]: ("http_404", False)}})
    refuse(bank.store, plan.hash, "too many failed")
    assert open_plans(bank.store, "") == []
    again = bank.plan(path)
    assert again.hash != plan.hash
    assert bank.todo_ids(again) == {"clips": ids(1)}
    assert [row["attempt"] for row in bank.todo(again, "clips")] == [2]
    assert [(row["id"], row["code"], row["attempts"]) for row in bank.delta(again, "failures")] == [
        (ids(2)[0], "http_404", 1)
    ]
    bank.commit(again, bank.make(again))
    assert sorted(bank.failures()) == [(ids(2)[0], "clips")]
    assert {row["status"] for row in bank.rows().values()} == {Status.OK, Status.FAILED}
    assert bank.plan(path).is_empty


def test_an_outage_that_fails_everything_heals(bank: Bank) -> None:
    path = listed(bank, *range(10))
    outage = {"clips": dict.fromkeys(ids(*range(10)), ("connection", True))}
    for attempt in (1, 2, 3):
        plan = bank.plan(path)
        assert {row["attempt"] for row in bank.todo(plan, "clips")} == {attempt}
        bank.make(plan, outage)
        refuse(bank.store, plan.hash, "too many failed")
    plan = bank.plan(path)
    assert bank.todo_ids(plan) == {"clips": ids(*range(10))}
    finish(bank, plan)
    assert bank.failures() == {}


def test_attempts_end_also_without_a_snapshot(bank: Bank) -> None:
    path = listed(bank, 1, 2)
    down = {"clips": {ids(1)[0]: ("timeout", True)}}
    for _ in range(8):
        plan = bank.plan(path)
        bank.make(plan, down)
        refuse(bank.store, plan.hash, "too many failed")
    plan = bank.plan(path)
    assert bank.todo_ids(plan) == {}
    bank.commit(plan, [])
    assert bank.failures()[ids(1)[0], "clips"]["attempts"] == 8
    bank.now = 1e12
    assert bank.plan(path).is_empty


def test_noise_failures_of_unpublished_shards_are_claimed(bank: Bank) -> None:
    path = listed(bank, *range(5))
    plan = bank.plan(path)
    bank.make(plan, {"noise": {ids(1)[0]: ("nan", False), ids(2)[0]: ("out_of_memory", True)}})
    refuse(bank.store, plan.hash, "too many failed")
    again = bank.plan(path)
    assert bank.todo_ids(again) == {"noise/toy": ids(2)}
    assert [row["attempt"] for row in bank.todo(again, "noise/toy")] == [2]
    assert {row["status"] for row in bank.delta(again, "records/toy")} == {Status.OK, Status.FAILED}
    bank.commit(again, bank.make(again))
    assert list(bank.failures()) == [(ids(1)[0], "noise/toy")]
    assert bank.plan(path).is_empty


def test_old_failures_of_published_shards_are_no_news(bank: Bank) -> None:
    path = listed(bank, *range(5))
    down = {"clips": dict.fromkeys(ids(*range(5)), ("timeout", True))}
    bank.build(path, down)
    bank.now = 1e12
    second = bank.plan(path)
    bank.commit(second, bank.make(second, down))
    bank.now = 2e12
    third = bank.plan(path)
    assert {row["attempt"] for row in bank.todo(third, "clips")} == {3}


def test_open_plans_are_those_of_the_latest_snapshot_newest_first(bank: Bank) -> None:
    assert open_plans(bank.store, "") == []
    first = bank.plan(listed(bank, 1))
    second = bank.plan(listed(bank, 1, 2))
    assert open_plans(bank.store, "") == [second, first]
    bank.commit(second, bank.make(second))
    snapshot = latest_snapshot(bank.store)
    assert snapshot is not None
    assert open_plans(bank.store, snapshot.uuid) == []
