"""A dead list is noticed by workers that share nothing but the bank, and nobody is stuck afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noisebank.errors import JobFailed, RowFailure
from noisebank.format.stage_names import CLIPS
from noisebank.planning.cut import Task
from noisebank.planning.plan import Plan, read_task
from noisebank.stages.clips import clip_inputs
from noisebank.stages.dead_list import INTERVAL, MIN_ROWS, DeadListWatch
from tests.support.bank import Bank, webvid_row, write_csv

ROWS = 1300
GONE = ("http_403", False)


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    write_csv(tmp_path / "list.csv", [webvid_row(video) for video in range(ROWS)])
    return Bank(tmp_path)


def plan_of(bank: Bank, **clips: int) -> Plan:
    return bank.plan(bank.folder / "list.csv", clips=clips)


def outcomes(good: int, every: int) -> Iterator[str | RowFailure]:
    """Of every so many rows so many good ones."""
    for row in range(10**6):
        yield "clip" if row % every < good else RowFailure("http_403", "forbidden")


def follow(bank: Bank, plan: Plan, task: Task, good: int = 0, every: int = 1) -> Iterator[Any]:
    """The rows of a shard as a worker meets them."""
    rows = read_task(bank.store, task)
    watch = DeadListWatch(bank.store, plan, clip_inputs(plan.fingerprints[CLIPS], rows))
    addresses = [f"https://user:secret@dead.example:81/{id}.mp4" for id in rows.column("id").to_pylist()]
    return watch.follow((outcome for outcome, _ in zip(outcomes(good, every), addresses, strict=False)), addresses)


def notes(bank: Bank, plan: Plan) -> list[str]:
    """What workers left beside a plan."""
    names = [key.rpartition("/")[2] for key in bank.store.list(f"plans/{plan.hash}")]
    return [name for name in names if name == "alive" or name.startswith("outcomes-")]


def test_workers_stop_together_and_say_why(bank: Bank) -> None:
    plan = plan_of(bank, maxcount=650)
    workers = [follow(bank, plan, task) for task in plan.tasks[CLIPS]]
    tried = 0
    with pytest.raises(JobFailed) as stopped:
        while True:
            for worker in workers:
                assert isinstance(next(worker), RowFailure)
                tried += 1
    assert MIN_ROWS <= tried <= MIN_ROWS + 2 * INTERVAL
    said = f"{tried - 1} of the first {tried - 1} rows failed, more than half: {tried - 1} http_403 at dead.example:81."
    assert tried - 1 == MIN_ROWS and str(stopped.value).startswith(said)
    with pytest.raises(JobFailed, match=r"more than half: 1024 http_403 at dead\.example:81"):
        next(follow(bank, plan, plan.tasks[CLIPS][0]))  # (a shard that has not begun, or is tried again by an engine)


@pytest.mark.parametrize(("good", "is_dead"), [(2, False), (1, True)])
def test_half_of_the_rows_may_fail(bank: Bank, good: int, is_dead: bool) -> None:
    plan = plan_of(bank, maxcount=1300)
    worker = follow(bank, plan, plan.tasks[CLIPS][0], good, every=4 if good == 2 else 3)
    if is_dead:
        with pytest.raises(JobFailed, match="682 of the first 1024 rows failed"):
            list(worker)
    else:
        assert len([*worker]) == ROWS
        assert "alive" in notes(bank, plan)
        dead_since = follow(bank, plan, plan.tasks[CLIPS][0])
        assert len([*dead_since]) == ROWS, "it was alive when it was judged"


def test_a_short_list_is_not_judged_and_nothing_is_left(bank: Bank) -> None:
    write_csv(bank.folder / "list.csv", [webvid_row(video) for video in range(MIN_ROWS)])
    plan = plan_of(bank, maxcount=2000)
    assert len([*follow(bank, plan, plan.tasks[CLIPS][0])]) == MIN_ROWS
    assert notes(bank, plan) == []


def test_what_a_killed_worker_left_does_not_count_when_its_shard_is_made_again(bank: Bank) -> None:
    plan = plan_of(bank, maxcount=650)
    killed = follow(bank, plan, plan.tasks[CLIPS][0])
    for _ in range(600):
        next(killed)
    assert len(notes(bank, plan)) == 1
    assert len([*follow(bank, plan, plan.tasks[CLIPS][0], 1)]) == 650
    assert len([*follow(bank, plan, plan.tasks[CLIPS][1], 1)]) == 650
    assert "alive" in notes(bank, plan)


def test_a_build_that_was_stopped_goes_on_with_another_plan(bank: Bank) -> None:
    plan = plan_of(bank)
    ids = [row["id"] for row in bank.todo(plan, CLIPS)]
    done, left = plan.tasks[CLIPS][:-10], plan.tasks[CLIPS][-10:]
    assert len(plan.tasks[CLIPS]) == 65 and {task.rows for task in plan.tasks[CLIPS]} == {20}
    bank.make(_only(plan, done), {CLIPS: dict.fromkeys(ids, GONE)}, stages=(CLIPS,))
    with pytest.raises(JobFailed, match="rows failed"):
        for task in (*done, *left):
            list(follow(bank, plan, task))
    again = plan_of(bank)
    assert again.hash != plan.hash
    assert len(bank.todo(again, CLIPS)) == sum(task.rows for task in left), "what is finished is kept"
    assert notes(bank, again) == []


def _only(plan: Plan, tasks: tuple[Task, ...]) -> Plan:
    return dataclasses.replace(plan, tasks={**plan.tasks, CLIPS: tasks})
