"""A study says what was planted in it: effects, nulls, splits and curves; and what was fixed beforehand alone is
primary."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from noisebank.errors import ConfigError
from noisebank.evaluation.analysis import Analysis, complete_rows
from noisebank.evaluation.options import ArmOptions, EvaluationOptions
from noisebank.evaluation.pool import StudyPrompt
from noisebank.evaluation.preregistration import check_agrees, read_preregistration
from noisebank.evaluation.report import _verdict, report_lines

PROMPTS = [StudyPrompt(f"p{n}", f"prompt {n}", {"colour": "red", "motion": "left"}) for n in range(80)]
TRUTH = {"near": {"colour": "red", "motion": "left"}, "far": {"colour": "red", "motion": "right"}}
ARMS = (
    ArmOptions("gaussian"),
    ArmOptions("nearest", "ona"),
    ArmOptions("nearest", "ona_05", eta=0.5),
    ArmOptions("random"),
)
OPTIONS = EvaluationOptions(
    prompts="p.csv", attributes=("colour", "motion"), arms=ARMS, contrasts=("ona - random",), resamples=500,
    permutations=999,
)  # fmt: skip


def planted(gains: dict[str, float], seed: int = 0) -> list[dict[str, Any]]:
    """Rows of a study whose arms read motion right with 0.4 and a gain, where the nearest clip matches it: every other
    prompt; colour they read with 0.7 in all arms."""
    rng = np.random.default_rng(seed)
    rows = []
    for arm in ARMS:
        for place, prompt in enumerate(PROMPTS):
            matched = place % 2 == 0
            for number in range(2):
                right = rng.random() < 0.4 + gains.get(arm.label, 0) * matched
                row = {"arm": arm.label, "prompt_id": prompt.id, "seed": number, "code": None}
                row |= {"nearest": "near" if matched else "far", "score": 0.9, "clip": None, "message": None}
                row |= {"read_colour": "red" if rng.random() < 0.7 else None, "read_motion": "left" if right else "up"}
                rows.append(row | {"dynamic_degree": 0.1, "temporal_consistency": 0.5 + 0.1 * rng.random()})
    return complete_rows(rows, {prompt.id: prompt for prompt in PROMPTS}, TRUTH, OPTIONS.attributes)


def test_a_planted_effect_is_shown_and_a_planted_null_is_not() -> None:
    pairs = [("ona", "gaussian"), ("ona", "random"), ("random", "gaussian")]
    effect = Analysis(OPTIONS, planted({"ona": 0.6}, seed=1)).primary(pairs)
    assert [one["shown"] for one in effect] == [True, True, False]
    assert effect[0]["mean"] == pytest.approx(0.15, abs=0.08)
    assert effect[0]["holm_low"] <= effect[0]["low"] < effect[0]["mean"]
    assert effect[2]["low"] < 0 < effect[2]["high"]
    assert all(one["p_holm"] >= one["p"] for one in effect)
    null = Analysis(OPTIONS, planted({})).primary(pairs)
    assert [one["shown"] for one in null] == [False] * 3


def test_families_of_planted_nulls_show_something_no_more_often_than_nominal() -> None:
    from scipy.stats import binom

    few = EvaluationOptions(**{**vars(OPTIONS), "resamples": 99, "permutations": 99})
    pairs = [("ona", "gaussian"), ("ona", "random"), ("ona", "ona_05")]
    shown = sum(any(one["shown"] for one in Analysis(few, planted({}, seed)).primary(pairs)) for seed in range(60))
    assert shown <= binom.ppf(0.995, 60, 0.05)


def test_arms_say_means_of_prompts_and_what_the_judge_could_not_tell() -> None:
    rows = planted({})
    arms = Analysis(OPTIONS, rows).arms()
    assert list(arms) == ["gaussian", "ona", "ona_05", "random"]
    colour = arms["ona"]["outcomes"]["right_colour"]
    assert colour["prompts"] == 80
    assert colour["low"] < colour["mean"] < colour["high"]
    assert colour["mean"] == pytest.approx(0.7, abs=0.1)
    assert arms["ona"]["unread"]["colour"] == pytest.approx(1 - colour["mean"])
    assert arms["ona"]["unread"]["motion"] == 0
    assert arms["ona"]["outcomes"]["copying"] is None
    failed = [row | {"code": "no_record", "accuracy": None} if row["prompt_id"] == "p3" else row for row in rows]
    assert Analysis(OPTIONS, failed).arms()["ona"]["failed"] == {"no_record": 2}
    compared = Analysis(OPTIONS, failed).compare("ona", "gaussian")
    assert compared is not None and compared.prompts == 79


def test_the_split_finds_an_effect_where_it_was_planted() -> None:
    split = Analysis(OPTIONS, planted({"ona": 0.6})).split()
    motion = {one["matched"]: one for one in split if one["arm"] == "ona" and one["attribute"] == "motion"}
    assert motion[True]["prompts"] == motion[False]["prompts"] == 40
    assert motion[True]["difference"]["low"] > 0.2
    assert motion[False]["difference"]["low"] < 0 < motion[False]["difference"]["high"]
    assert {one["matched"] for one in split if one["attribute"] == "colour"} == {True}


def test_everything_else_is_exploratory() -> None:
    found = Analysis(OPTIONS, planted({})).exploratory([("ona", "gaussian")])
    named = {(one["treatment"], one["control"], one["outcome"]) for one in found}
    assert ("ona", "gaussian", "accuracy") not in named
    assert {("ona", "gaussian", "right_motion"), ("ona", "random", "accuracy")} <= named
    assert ("random", "gaussian", "temporal_consistency") in named
    assert not any("p_holm" in one for one in found)


def test_curves_are_of_arms_that_differ_in_nothing_else() -> None:
    curves = Analysis(OPTIONS, planted({})).curves({arm.label: 10 for arm in ARMS})
    assert [[point["eta"] for point in curve["points"]] for curve in curves["eta"]] == [[0, 0.2, 0.5]]
    assert [point["arm"] for point in curves["eta"][0]["points"]] == ["gaussian", "ona", "ona_05"]
    assert curves["pool"] == []
    small = (*ARMS[:2], ArmOptions("nearest", "ona_05", bank="small"), ARMS[3])
    options = EvaluationOptions(**{**vars(OPTIONS), "arms": small})
    curves = Analysis(options, planted({})).curves({"gaussian": 9, "ona": 1000, "ona_05": 10, "random": 1000})
    assert [[point["pool"] for point in curve["points"]] for curve in curves["pool"]] == [[10, 1000]]


def test_points_of_a_curve_are_of_the_same_prompts() -> None:
    few = {prompt.id for prompt in PROMPTS[:10]}
    rows = [row for row in planted({}) if row["arm"] != "ona_05" or row["prompt_id"] in few]
    (curve,) = Analysis(OPTIONS, rows).curves({arm.label: 10 for arm in ARMS})["eta"]
    assert [point["prompts"] for point in curve["points"]] == [10, 10, 10]
    whole = Analysis(OPTIONS, rows).means("ona", "accuracy")
    assert curve["points"][1]["mean"] == pytest.approx(np.mean([whole[name] for name in few]))


FIXED = {
    "attributes": ["colour", "motion"],
    "contrasts": ["ona - gaussian", "ona - random"],
    "arms": [{"kind": "gaussian"}, {"kind": "nearest", "name": "ona"}, {"kind": "random"}],
    "least_prompts": 80,
    "resamples": 500,
    "permutations": 999,
}


def _registered(folder: Path, **changed: Any) -> Any:
    path = folder / "fixed.yaml"
    path.write_text(yaml.safe_dump(FIXED | changed))
    return read_preregistration(str(path))


def test_a_study_that_differs_from_what_was_fixed_is_refused(tmp_path: Path) -> None:
    registered = _registered(tmp_path)
    assert registered.contrasts == [("ona", "gaussian"), ("ona", "random")]
    check_agrees(registered, OPTIONS, 80)
    with pytest.raises(ConfigError, match="prompts: 79, at least 80 are fixed"):
        check_agrees(registered, OPTIONS, 79)
    other = (ARMS[0], ArmOptions("nearest", "ona", eta=0.3, prompts=20))
    changed = EvaluationOptions(**{**vars(OPTIONS), "arms": other, "seeds": 3, "guidance_scale": 2.0})
    with pytest.raises(ConfigError) as refused:
        check_agrees(registered, changed, 80)
    for problem in (
        "arms.ona.eta: 0.3, 0.2 is fixed",
        "arms.ona.prompts: 20, at least 80",
        "arms.random: missing",
        "seeds: 3, 2 is fixed",
        "guidance_scale: 2.0, 7.5 is fixed",
    ):
        assert problem in str(refused.value)
    elsewhere = (ARMS[0], ArmOptions("nearest", "ona", bank="oracle-bank"), *ARMS[2:])
    with pytest.raises(ConfigError, match=r"arms\.ona\.bank: 'oracle-bank', None is fixed"):
        check_agrees(registered, EvaluationOptions(**{**vars(OPTIONS), "arms": elsewhere}), 80)
    with pytest.raises(ConfigError, match="no arm 'diffuse'"):
        _registered(tmp_path, contrasts=["ona - diffuse"]).contrasts  # noqa: B018
    with pytest.raises(ConfigError, match="no primary contrast has this arm"):
        _registered(tmp_path, contrasts=["ona - gaussian"])


def test_the_report_claims_what_is_shown_and_says_what_is_excluded(tmp_path: Path) -> None:
    registered = _registered(tmp_path)
    analysis = Analysis(OPTIONS, planted({"ona": 0.6, "random": 0.6}))
    study = {
        "prompts": 80, "seeds": 2, "seed": 0, "num_inference_steps": 20, "guidance_scale": 5.0, "model": "toy",
        "model_digest": "abc", "judge": "world", "attributes": ["colour", "motion"], "pool": 100, "alpha": 0.05,
        "resamples": 500, "permutations": 999, "precision": "float32", "noisebank": "1.0", "bank": "bank",
        "snapshot": 3, "noise_set": {"inverter": "fixed-point", "num_inference_steps": 20, "dtype": "float16"},
        "refused": [{"id": "a\n## b", "code": "no_attribute", "message": "<script>"}],
    }  # fmt: skip
    table = {"clips": 9, "accuracy": 7 / 9, "confusion": {"red": {"none": 1, "red": 7}, "a|b": {"none": 1}}}
    summary = {
        "study": study,
        "preregistration": {"file": registered.name, "sha256": registered.sha256},
        "primary": {"outcome": "accuracy", "contrasts": analysis.primary(registered.contrasts)},
        "judge": {"real": {"colour": table}},
        "retrieval": {"colour": 1.0, "motion": 0.5},
        "arms": {name: arm | {"pool": 100} for name, arm in analysis.arms().items()},
        "exploratory": analysis.exploratory(registered.contrasts),
        "not_compared": [{"treatment": "oracle", "control": "ona", "prompts": 1}],
        "split": analysis.split(),
        "curves": analysis.curves({arm.label: 9 for arm in ARMS}),
    }
    text = "\n".join(report_lines([summary, summary], {"arms.png": "evidence/arms.png"}))
    assert registered.sha256 in text
    assert "ona - gaussian: **ona is better than gaussian**" in text
    assert "ona - random: no effect is shown. Effects below" in text
    assert "red for none: 1; a\\|b for none: 1" in text
    assert "- prompt a ## b is left out: no_attribute: \\<script\\>" in text
    assert text.count("![arms](evidence/arms.png)") == 1
    short = text.partition("## Study 1")[0]
    assert "- Study 1: ona - gaussian: **ona is better" in short
    assert "- Study 2: ona - random: no effect is shown" in short
    assert "The judge reads real clips right: colour 77.8%." in text
    assert "oracle - ona: 1 prompts have both arms; nothing can be said." in text
    assert "| gaussian | gaussian | - |" in text
    assert "| ona_05 | nearest, eta 0.5 | 100 records |" in text
    assert "| nearest | 0.5 | ona_05 | 80 |" in text
    assert text.count("## Study 2") == 1
    nothing = "\n".join(report_lines([summary | {"preregistration": None}], {}))
    assert "everything below is exploratory" in nothing
    assert "better than" not in nothing


def _answers(differences: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Rows of one seed whose accuracy is that of the control, 0.5, and a difference."""
    rows = []
    for arm in ARMS:
        for place, prompt in enumerate(PROMPTS[: max(map(len, differences.values()))]):
            row = {"arm": arm.label, "prompt_id": prompt.id, "seed": 0, "code": None, "message": None}
            given = differences.get(arm.label, [])
            rows.append(row | {"accuracy": 0.5 + given[place] if place < len(given) else None})
    return rows


def test_a_lost_clip_is_lost_in_both_arms() -> None:
    rows = planted({})
    by_clip = {(row["prompt_id"], row["seed"]): row for row in rows if row["arm"] == "gaussian"}
    for row in rows:
        if row["arm"] == "ona":
            row["accuracy"] = by_clip[row["prompt_id"], row["seed"]]["accuracy"]
            if row["seed"] == 1 and row["accuracy"] < 1:
                row |= {"code": "not_finite", "accuracy": None}
    one = Analysis(OPTIONS, rows).compare("ona", "gaussian")
    assert one is not None
    assert (one.mean, one.ties) == (0, 1)


def test_a_contrast_without_data_is_of_the_family() -> None:
    rng = np.random.default_rng(3)
    given = {"gaussian": [0.0] * 40, "ona": list(rng.normal(0.2, 0.2, 40)), "random": list(rng.normal(0, 0.2, 40))}
    pairs = [("ona", "gaussian"), ("random", "gaussian"), ("ona_05", "gaussian")]
    shown, null, missing = Analysis(OPTIONS, _answers(given)).primary(pairs)
    assert shown["p_holm"] == pytest.approx(3 * shown["p"])
    assert null["p_holm"] == min(1.0, 2 * null["p"])
    assert missing == {"treatment": "ona_05", "control": "gaussian", "prompts": 0, "shown": False}


@pytest.mark.parametrize("seed", range(40))
def test_what_is_not_shown_excludes_nothing_between_it_and_no_effect(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = {
        name: list(rng.choice([-1 / 3, 0, 1 / 3], 40, p=[0.2, 0.45, 0.35])) for name in ("ona", "ona_05", "random")
    }
    pairs = [(name, "gaussian") for name in given]
    found = Analysis(OPTIONS, _answers(given | {"gaussian": [0.0] * 40})).primary(pairs)
    for one in found:
        if not one["shown"]:
            low, high = re.findall(r"([+-]\d+\.\d)", _verdict(one))[:2]
            assert float(low) <= 0 <= float(high)
            assert one["detectable_holm"] >= one["detectable"]


def test_of_prompts_that_hardly_differ_nothing_is_said() -> None:
    given = {"gaussian": [0.0] * 80, "ona": [1 / 3] * 4 + [0.0] * 76, "random": [0.0] * 80}
    ona, random = Analysis(OPTIONS, _answers(given)).primary([("ona", "gaussian"), ("random", "gaussian")])
    assert "none is excluded: the arms differ on 4 of 80 prompts" in _verdict(ona)
    assert "none is excluded: the arms differ on 0 of 80 prompts" in _verdict(random)


def test_contrasts_that_were_asked_for_and_cannot_be_made_are_named() -> None:
    given = {"gaussian": [0.0] * 4, "ona": [0.1] * 4, "ona_05": [0.1]}
    found = Analysis(OPTIONS, _answers(given)).not_compared()
    assert {(one["treatment"], one["control"], one["prompts"]) for one in found} == {
        ("ona", "random", 0), ("ona_05", "gaussian", 1), ("random", "gaussian", 0)
    }  # fmt: skip


def test_seed_prompts_and_model_can_be_fixed_too(tmp_path: Path) -> None:
    registered = _registered(tmp_path, seed=1, prompts_sha256="ab", model_digest="cd", set="exact")
    with pytest.raises(ConfigError) as refused:
        check_agrees(registered, OPTIONS, 80, "xy", "cd")
    for problem in ("seed: 0, 1 is fixed", "prompts_sha256: 'xy', 'ab' is fixed", "set: None, 'exact' is fixed"):
        assert problem in str(refused.value)
    assert "model_digest" not in str(refused.value)
