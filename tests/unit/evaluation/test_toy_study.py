"""The study of the small world that is in the repository: its configuration is the one that was fixed beforehand, and
the world's lists fit it."""

from __future__ import annotations

import csv
from pathlib import Path

from noisebank.config import decode_options, load_config, load_document
from noisebank.evaluation.options import EvaluationOptions
from noisebank.evaluation.pool import read_study_prompts, read_truth
from noisebank.evaluation.preregistration import check_agrees, read_preregistration
from noisebank.world.attributes import HELD_OUT
from noisebank.world.captions import vocabulary
from noisebank.world.lists import write_study

STUDY = Path(__file__).parents[3] / "examples" / "toy" / "study"


def test_the_configuration_is_what_was_fixed_beforehand() -> None:
    options = decode_options(EvaluationOptions, load_document(str(STUDY / "evaluate.yaml")))
    options.check()
    registered = read_preregistration(str(STUDY / "preregistration.yaml"))
    check_agrees(registered, options, 400)
    assert registered.contrasts == [("ona", "gaussian"), ("ona", "random"), ("ona", "diffuse")]
    assert {arm.eta for arm in registered.plan.arms} == {0.2}
    sets = {noise.name for noise in load_config(str(STUDY / "bank.yaml")).noise}
    assert {arm.set_ for arm in options.arms} <= {None, *sets}


def test_the_lists_of_a_world_fit_a_study(tmp_path: Path) -> None:
    write_study(tmp_path, seed=4, pool=3, oracle=2, prompts=60, sizes=[2])
    attributes = ("colour", "shape", "motion")
    prompts, refused = read_study_prompts(str(tmp_path / "prompts.csv"), attributes)
    assert (len(prompts), refused) == (60, [])
    truth = read_truth([str(tmp_path / "clips.csv")], attributes)
    assert [*truth] == ["pool-0-0-1000", "pool-1-0-1000", "pool-2-0-1000", "oracle-0-0-1000", "oracle-1-0-1000"]
    assert any(tuple(prompt.truth.values()) in HELD_OUT for prompt in prompts)
    whole, small = ((tmp_path / name).read_text().splitlines() for name in ("pool.csv", "pool-2.csv"))
    assert small == whole[:3]
    with (tmp_path / "rewrites.csv").open() as file:
        rewrites = [*csv.DictReader(file)]
    assert [row["prompt"] for row in rewrites] == [prompt.text for prompt in prompts]
    for row, prompt in zip(rewrites, prompts, strict=True):
        assert row["rewritten"] != row["prompt"]
        assert set(row["rewritten"].split()) <= set(vocabulary())
        assert f" {prompt.truth['colour']} " in f" {row['rewritten']} "
