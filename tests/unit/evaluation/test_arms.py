"""Arms take the records that their names say, and controls keep of a record what they are a control of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from noisebank import UnknownNoiseSet
from noisebank.errors import ConfigError
from noisebank.evaluation.arms import keep_moments, keep_spectrum, shuffle_frames
from noisebank.evaluation.cells import ArmPlan, cut, seed_of
from noisebank.evaluation.options import ArmOptions, ContradictingOptions, EvaluationOptions
from noisebank.evaluation.pool import Pool, StudyPrompt, read_study_prompts, read_truth
from noisebank.reader.frequencies import LowPass, mix_frequencies
from noisebank.reader.priors import mixed
from noisebank.storage import open_store
from tests.support.bank import build
from tests.support.made_up import SHAPE

URI = "memory://arms"
CAPTIONS = {
    "mine-0": "a red dog runs left",
    "mine-1": "a red dog runs right",
    "mine-2": "a blue cat runs left",
    "mine-3": "a blue cat sleeps",
}
TRUTH = {
    "mine-0": {"colour": "red", "motion": "left"},
    "mine-1": {"colour": "red", "motion": "right"},
    "mine-2": {"colour": "blue", "motion": "left"},
    "elsewhere-9": {"colour": "blue", "motion": "right"},
}
STUDY = EvaluationOptions(prompts="p.csv", attributes=("colour", "motion"), seeds=2, seed=3)
RED_LEFT = StudyPrompt("p1", "a red dog runs left", {"colour": "red", "motion": "left"})
BLUE_RIGHT = StudyPrompt("p2", "a blue dog runs right", {"colour": "blue", "motion": "right"})


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    build(open_store(URI), CAPTIONS, sets={"exact": CAPTIONS, "other": list(CAPTIONS)[:2]})
    yield Pool(URI, "exact", TRUTH)


def plan(pool: Pool, kind: str = "nearest", options: type[ArmOptions] = ArmOptions, **values: object) -> ArmPlan:
    return ArmPlan(options(kind, **values), STUDY, pool, pool)


def test_each_arm_takes_the_record_of_its_name(pool: Pool) -> None:
    (nearest,) = plan(pool).cells([RED_LEFT])
    assert nearest.hit is not None and nearest.hit.id == nearest.nearest.id == "mine-0"
    (fresh,) = plan(pool, "gaussian").cells([RED_LEFT])
    assert fresh.hit is None and fresh.record is None
    asked = [StudyPrompt(str(number), RED_LEFT.text, {}) for number in range(40)]
    others = {cell.hit.id for cell in plan(pool, "random").cells(asked) if cell.hit}
    assert others == {"mine-1", "mine-2", "mine-3"}
    (oracle,) = plan(pool, "oracle").cells([RED_LEFT])
    assert oracle.hit is not None and oracle.hit.id == "mine-0"
    contradicting = plan(pool, "contradicting", ContradictingOptions)
    assert [cell.hit.id for cell in contradicting.cells([RED_LEFT]) if cell.hit] == ["mine-1"]
    colour = plan(pool, "contradicting", ContradictingOptions, differs="colour")
    assert [cell.hit.id for cell in colour.cells([RED_LEFT]) if cell.hit] == ["mine-2"]
    (same,) = plan(pool, "random").cells([RED_LEFT])
    assert plan(pool, "random").cells([RED_LEFT])[0].hit == same.hit


def test_a_prompt_without_a_record_fails_alone(pool: Pool) -> None:
    red, blue = plan(pool, "oracle").cells([RED_LEFT, BLUE_RIGHT])
    assert red.failure is None
    assert blue.failure is not None and blue.failure["code"] == "no_record"
    assert "no clip of colour blue, motion right has a record" in blue.failure["message"]
    (missing,) = plan(pool, set_="other").cells([BLUE_RIGHT])
    assert missing.failure is not None and missing.failure["code"] == "no_record"


def test_fresh_noise_is_the_same_in_every_arm_and_diffusers_own(pool: Pool) -> None:
    plans = [plan(pool, "gaussian"), plan(pool), plan(pool, "random"), plan(pool, "moments"), plan(pool, eta=0.0)]
    drawn = [one.noise(one.cells([RED_LEFT])[0], 1) for one in plans]
    assert len({digest for _, digest in drawn}) == 1
    generator = torch.Generator().manual_seed(seed_of(3, "p1", "fresh 1"))
    expected = randn_tensor((1, *SHAPE), generator=generator, dtype=torch.float32)
    assert torch.equal(drawn[0][0], expected)
    assert torch.equal(drawn[4][0], expected)
    record = plans[1].cells([RED_LEFT])[0].record
    assert record is not None
    assert torch.allclose(drawn[1][0], (expected + 0.2 * record) / 1.04**0.5, atol=1e-6)
    first, _ = plans[0].noise(plans[0].cells([RED_LEFT])[0], 0)
    assert not torch.equal(first, expected)


def test_an_arm_has_prior_filter_and_weight_of_its_own(pool: Pool) -> None:
    one = plan(pool, prior="mixed", alpha=2.0, lowpass="gaussian", spatial=0.5, eta=float("inf"))
    cell = one.cells([RED_LEFT])[0]
    latents, _ = one.noise(cell, 0)
    white = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(seed_of(3, "p1", "fresh 0")))
    assert cell.record is not None
    low_pass = LowPass("gaussian", 0.5, 0.25)
    expected = mix_frequencies(mixed(2.0).correlate(white, 2), cell.record[None], float("inf"), low_pass)
    assert torch.allclose(latents, expected, atol=1e-6)
    normalised = plan(pool, normalize="global").cells([RED_LEFT])[0].record
    assert normalised is not None
    assert (float(normalised.mean()), float(normalised.std(correction=0))) == pytest.approx((0, 1), abs=1e-5)


def test_controls_keep_what_they_control_for() -> None:
    record = 0.3 + 1.5 * torch.randn(4, 6, 5, 8, generator=torch.Generator().manual_seed(0)).cumsum(1)
    generator = torch.Generator().manual_seed(1)
    spectrum, moments = keep_spectrum(record, generator), keep_moments(record, generator)
    shuffled = shuffle_frames(record, generator)
    power = [torch.fft.fftn(x.double(), dim=(1, 2, 3)).abs() for x in (record, spectrum)]
    assert torch.allclose(*power, rtol=1e-4, atol=1e-3)
    assert torch.allclose(moments.mean((1, 2, 3)), record.mean((1, 2, 3)), atol=1e-4)
    assert torch.allclose(moments.std((1, 2, 3)), record.std((1, 2, 3)), rtol=1e-4)
    assert not torch.equal(shuffled, record)
    assert torch.equal(shuffled.sort(1).values, record.sort(1).values)
    for control in (spectrum, moments):
        cosine = torch.nn.functional.cosine_similarity(
            (control - control.mean()).flatten(), (record - record.mean()).flatten(), dim=0
        )
        assert abs(float(cosine)) < 0.15


def test_a_piece_is_known_by_what_goes_into_it(pool: Pool) -> None:
    one = plan(pool)
    cells = one.cells([RED_LEFT, BLUE_RIGHT])
    key = one.key(cells, "study", "judge")
    assert plan(pool, name="another", prompts=5).key(cells, "study", "judge") == key
    differing = [
        one.key(cells[:1], "study", "judge"),
        one.key(cells, "other", "judge"),
        one.key(cells, "study", "other"),
        plan(pool, eta=0.3).key(cells, "study", "judge"),
        one.key(plan(pool, normalize="global").cells([RED_LEFT, BLUE_RIGHT]), "study", "judge"),
    ]
    assert len({key, *differing}) == 6
    assert [len(piece) for piece in cut([RED_LEFT] * 7, 2, 6)] == [3, 3, 1]
    assert [len(piece) for piece in cut([RED_LEFT] * 2, 8, 6)] == [1, 1]


def test_sets_and_kinds_that_are_not_there_are_named(pool: Pool) -> None:
    with pytest.raises(UnknownNoiseSet, match="name a set; it has exact, other"):
        Pool(URI, None, {})
    with pytest.raises(UnknownNoiseSet, match="no noise set 'third'"):
        plan(pool, set_="third")
    with pytest.raises(ConfigError, match="'telepathy' is not known"):
        plan(pool, "telepathy")


def test_prompts_and_truth_are_read_row_by_row(tmp_path: Path) -> None:
    listed = tmp_path / "prompts.csv"
    listed.write_text("id,prompt,colour\na,red dog,red\nb,blue dog,\na,again,red\nc,,red\nd,green dog,green\n")
    prompts, refused = read_study_prompts(str(listed), ["colour"])
    assert [(prompt.id, prompt.truth["colour"]) for prompt in prompts] == [("a", "red"), ("d", "green")]
    assert [(row["id"], row["code"]) for row in refused] == [
        ("b", "no_attribute"),
        ("a", "id_taken"),
        ("c", "empty_prompt"),
    ]
    csv, jsonl = tmp_path / "clips.csv", tmp_path / "more.jsonl"
    csv.write_text("id,colour,other\n007,red,1\nx,,2\n")
    jsonl.write_text('{"id": "y", "colour": "blue"}\n')
    assert read_truth([str(csv), str(jsonl)], ["colour"]) == {"007": {"colour": "red"}, "y": {"colour": "blue"}}
    jsonl.write_text('{"id": "z", "colour": 0}\n')
    assert read_truth([str(jsonl)], ["colour"]) == {"z": {"colour": "0"}}
    jsonl.write_text("[1, 2]\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_truth([str(jsonl)], ["colour"])
    jsonl.write_text('{"id": "007", "colour": "blue"}\n')
    with pytest.raises(ConfigError, match="clip 007 is there with other attributes"):
        read_truth([str(csv), str(jsonl)], ["colour"])
    with pytest.raises(ConfigError, match="column 'size' is missing; found: colour, id, other"):
        read_truth([str(csv)], ["size"])
