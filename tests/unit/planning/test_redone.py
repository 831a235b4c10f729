"""The gate of what options and models make again: what counts, what is refused, and what is said to have changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noisebank.format.manifest import latest_snapshot
from noisebank.planning.plan import Plan
from noisebank.planning.redone import made_with, name_changes, redone_problems
from tests.support.bank import FINGERPRINTS, MODELS, Bank, webvid_row, write_csv

SETS = [{"name": "toy", "model": "toy"}]


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    """A bank of twenty clips."""
    bank = Bank(tmp_path)
    write_csv(tmp_path / "list.csv", [webvid_row(i) for i in range(20)])
    bank.build(tmp_path / "list.csv", noise=SETS)
    return bank


def plan(bank: Bank, rows: int = 20, **options: Any) -> Plan:
    path = write_csv(bank.folder / "list.csv", [webvid_row(i) for i in range(rows)])
    return bank.plan(path, **{"noise": SETS, **options})


def problems(bank: Bank, plan: Plan, **options: Any) -> list[str]:
    return redone_problems(plan, bank.config(bank.folder / "list.csv", **options))


def redone(plan: Plan) -> dict[str, int]:
    return {stage: counts["redone"] for stage, counts in plan.redone.items() if counts["redone"]}


def test_a_first_build_and_new_rows_redo_nothing(bank: Bank, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert redone(plan(Bank(tmp_path / "new"))) == {}
    more = plan(bank, 60)
    assert (redone(more), problems(bank, more)) == ({}, [])
    assert more.redone["clips"] == {"records": 20, "redone": 0}


def test_other_options_of_clips_are_refused_by_their_names_and_values(bank: Bank) -> None:
    bank.fingerprints = FINGERPRINTS | {"clips": "c2"}
    changed = plan(bank, clips={"size": 128, "frames": 8})
    assert redone(changed) == {"clips": 20}
    (problem,) = problems(bank, changed)
    assert problem.startswith("clips: 20 of 20 records would be made again, and what follows from them, more than")
    assert "max_redone 0.1. What changed: clips.frames was 16, is 8; clips.size was 256, is 128. " in problem
    assert problem.endswith("let it through with --max-redone 1")
    assert problems(bank, changed, max_redone=1) == []


def test_another_option_of_a_noise_set_or_another_captions_model_is_refused(bank: Bank) -> None:
    bank.fingerprints = FINGERPRINTS | {"captions": "t2", "noise/toy": "n2"}
    bank.models = {"captions": {"model": "other", "digest": "beef"}}
    changed = plan(bank, noise=[{**SETS[0], "inverter": "ddim", "revision": "main"}])
    assert redone(changed) == {"captions": 20, "noise/toy": 20}
    captions, noise = problems(bank, changed)
    assert "noise.toy.inverter was 'fixed-point', is 'ddim'" in noise and "tolerance" not in noise
    old = MODELS["captions"]["digest"]
    assert f"the model's files was {old!r}, is 'beef'; the model was 'toy', is 'other'. " in captions


def test_changes_of_all_stages_are_named_also_where_only_the_clips_count(bank: Bank) -> None:
    """The records of the noise set follow from the clips, whether its own options changed or not."""
    bank.fingerprints = FINGERPRINTS | {"clips": "c2", "noise/toy": "n2"}
    changed = plan(bank, clips={"size": 128}, noise=[{**SETS[0], "inverter": "ddim"}])
    assert redone(changed) == {"clips": 20}
    (problem,) = problems(bank, changed)
    assert "What changed: clips.size was 256, is 128. Also changed, for noise/toy: noise.toy.inverter was" in problem
    assert problem.count("clips.size") == 1 and "captions" not in problem


def test_a_new_set_redoes_nothing(bank: Bank) -> None:
    bank.fingerprints = FINGERPRINTS | {"noise/second": "n9"}
    added = plan(bank, noise=[*SETS, {"name": "second", "model": "toy"}])
    assert added.todo()["noise/second"]["rows"] == 20
    assert (redone(added), problems(bank, added)) == ({}, [])


def test_a_change_of_few_records_is_let_through(bank: Bank) -> None:
    """What is left of a larger change that was made, but for two records of twenty."""
    bank.fingerprints = FINGERPRINTS | {"noise/toy": "n2"}
    stale = plan(bank)
    few = replace(stale, redone={"noise/toy": {"records": 20, "redone": 2}})
    assert problems(bank, few) == []
    assert len(problems(bank, replace(stale, redone={"noise/toy": {"records": 20, "redone": 3}}))) == 1


def test_finished_work_that_is_claimed_is_not_made_again(bank: Bank) -> None:
    bank.fingerprints = FINGERPRINTS | {"noise/toy": "n2"}
    first = plan(bank)
    assert redone(first) == {"noise/toy": 20}
    bank.make(first)
    assert redone(plan(bank, 21)) == {}


def test_a_bank_of_an_older_version_is_asked_by_its_plan_and_its_models(bank: Bank) -> None:
    snapshot = replace(latest_snapshot(bank.store), made_with={})
    models = {**MODELS, "captions": {"model": "toy", "digest": "beef"}}
    now = made_with(bank.config(bank.folder / "list.csv", clips={"size": 64}, noise=SETS), models)
    said = name_changes(bank.store, snapshot, now, models)
    assert said["clips"] == ["clips.size was 256, is 64"]
    assert said["captions"][1:] == ["the model is 'toy'"]
    vacuumed = name_changes(bank.store, replace(snapshot, plan="0" * 32), now, models)
    assert (vacuumed["clips"], len(vacuumed["captions"])) == ([], 2)
