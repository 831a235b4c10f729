"""Studies of noise arms through the command: small random models of two families, a bank of the small world."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from diffusers.utils.torch_utils import randn_tensor

from noisebank.config import decode_options
from noisebank.evaluation import evaluate as study_module
from noisebank.evaluation.cells import seed_of
from noisebank.evaluation.options import EvaluationOptions
from noisebank.evaluation.pool import read_study_prompts
from noisebank.fixtures.small_models import make_small_model
from noisebank.format.sealed import unseal
from noisebank.reader.mixing import noise_digest
from noisebank.world.lists import write_study
from tests.support.chat import ChatServer
from tests.support.minilm import MINILM
from tests.support.projects import Ran, noisebank

PLUGINS = Path(__file__).parents[1] / "support" / "plugins"
POOL, PROMPTS, SEEDS = 8, 3, 2
ARMS = (
    {"kind": "gaussian"},
    {"kind": "nearest", "name": "ona"},
    {"kind": "random"},
    {"kind": "oracle"},
    {"kind": "contradicting"},
    {"kind": "shuffled"},
    {"kind": "spectrum"},
    {"kind": "moments", "eta": 0.5, "prior": "mixed", "lowpass": "gaussian"},
)


class Study:
    """A configuration ``evaluate.yaml`` in a folder of its own."""

    def __init__(self, world: Path, folder: Path) -> None:
        self.folder, self.file, self.out = folder, folder / "evaluate.yaml", folder / "out"
        self.config: dict[str, Any] = {
            "out": str(self.out),
            "bank": str(world / "bank"),
            "set": "exact",
            "model": str(world / "modelscope"),
            "prompts": str(world / "prompts.csv"),
            "clips": str(world / "clips.csv"),
            "attributes": ["colour", "motion"],
            "judged_clips": 2,
            "seeds": SEEDS,
            "num_inference_steps": 2,
            "guidance_scale": 2,
            "resamples": 100,
            "permutations": 100,
            "arms": [*ARMS],
        }

    def run(self, *words: object, **changed: Any) -> Ran:
        self.file.write_text(yaml.safe_dump(self.config | changed))
        return noisebank("evaluate", "-c", self.file, *words)

    def rows(self) -> list[dict[str, Any]]:
        return pq.read_table(self.out / "outcomes.parquet").to_pylist()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    """Videos, prompts, two models, and a bank with three noise sets."""
    folder = tmp_path_factory.mktemp("world")
    write_study(folder, seed=0, pool=POOL, oracle=0, prompts=PROMPTS)
    (folder / "modelscope").symlink_to(small_model)
    make_small_model("wan", folder / "wan")
    fixed = {"num_inference_steps": 2, "measured": 0}
    modelscope = fixed | {"model": str(small_model)}
    config = {
        "bank": str(folder / "bank"),
        "sources": [{"kind": "webvid", "name": "pool", "path": str(folder / "pool.csv")}],
        "clips": {"frames": 8, "frame_stride": 1, "size": 64, "maxcount": 4, "pixel_format": "yuv444p"},
        "captions": {"model": MINILM},
        "noise": [
            modelscope | {"name": "exact", "inverter": "ddim"},
            modelscope | {"name": "diffuse", "inverter": "diffuse"},
            fixed | {"name": "wan", "model": str(folder / "wan"), "inverter": "ddim", "frames": 5},
        ],
    }
    (folder / "bank.yaml").write_text(yaml.safe_dump(config))
    built = noisebank("build", "-c", folder / "bank.yaml")
    assert built.exit_code == 0, built.stderr
    return folder


@pytest.fixture
def study(world: Path, tmp_path: Path) -> Study:
    return Study(world, tmp_path)


def test_every_arm_gets_the_same_prompts_seeds_and_draws(study: Study) -> None:
    ran = study.run()
    assert ran.exit_code == 0, ran.stderr
    rows = study.rows()
    cells = Counter((row["arm"], row["prompt_id"], row["seed"]) for row in rows)
    assert len(cells) == len(rows) == len(ARMS) * PROMPTS * SEEDS
    for name, arm in ran.document["arms"].items():
        assert arm["clips"] + sum(arm["failed"].values()) == PROMPTS * SEEDS, name
    assert ran.document["arms"]["oracle"]["failed"] == {"no_record": PROMPTS * SEEDS}
    drawn: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        if row["code"] is None and row["arm"] != "moments":
            drawn.setdefault((row["prompt_id"], row["seed"]), set()).add(row["drawn_digest"])
    assert {len(digests) for digests in drawn.values()} == {1}
    generator = torch.Generator().manual_seed(seed_of(0, "p1", "fresh 1"))
    assert drawn["p1", 1] == {noise_digest(randn_tensor((1, 4, 8, 8, 8), generator=generator, dtype=torch.float32))}
    by_arm = {row["arm"]: row for row in rows if row["prompt_id"] == "p0" and not row["seed"]}
    assert by_arm["ona"]["clip"] == by_arm["ona"]["nearest"] == by_arm["shuffled"]["clip"] != by_arm["random"]["clip"]
    assert by_arm["gaussian"]["clip"] is None and by_arm["gaussian"]["copying"] is None
    assert by_arm["ona"]["copying"] == by_arm["ona"]["similarity"] > by_arm["gaussian"]["similarity"]
    assert by_arm["moments"]["temporal_consistency"] > by_arm["gaussian"]["temporal_consistency"]
    judged = ran.document["judge"]
    assert [judged[look]["colour"]["clips"] for look in ("real", "reconstructed", "denoised")] == [2, 2, 2]
    assert judged["real"]["motion"]["accuracy"] == 1
    assert ran.document["preregistration"] is None
    assert json.loads((study.out / "summary.json").read_text())["arms"] == ran.document["arms"]
    assert "everything below is exploratory" in (study.out / "report.md").read_text()


def test_an_arm_without_a_set_takes_the_studys_whatever_arms_are_before_it(study: Study, world: Path) -> None:
    other = {"kind": "nearest", "bank": f"{world}/./bank"}
    ran = study.run(arms=[*ARMS[:2], other | {"name": "first", "set": "diffuse"}, other | {"name": "second"}])
    assert ran.exit_code == 0, ran.stderr
    looks = {name: [row["similarity"] for row in study.rows() if row["arm"] == name] for name in ran.document["arms"]}
    assert looks["second"] == looks["ona"] != looks["first"]


def test_a_killed_study_goes_on_where_it_was(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = [*ARMS[:3]]
    made: list[str] = []
    generate = study_module.generate_piece

    def counted(plan: Any, *rest: Any) -> Any:
        if len(made) == 2:
            raise KeyboardInterrupt
        rows = generate(plan, *rest)
        made.append(plan.name)
        return rows

    monkeypatch.setattr(study_module, "generate_piece", counted)
    assert study.run("--batch_size", SEEDS, arms=arms).exit_code == 130
    assert made == ["gaussian"] * 2
    made[:] = ["before"]
    monkeypatch.setattr(
        study_module, "generate_piece", lambda plan, *rest: made.append(plan.name) or generate(plan, *rest)
    )
    ran = study.run("--batch_size", SEEDS, arms=arms)
    assert ran.exit_code == 0, ran.stderr
    assert Counter(made[1:]) == {"gaussian": 1, "ona": PROMPTS, "random": PROMPTS}
    first = study.rows()
    monkeypatch.setattr(study_module, "load_for_inversion", lambda *_: pytest.fail("nothing is left to be made"))
    again = study.run("--batch_size", SEEDS, arms=arms)
    assert again.document["arms"] == ran.document["arms"]
    assert study.rows() == first
    piece = next((study.out / "pieces" / "ona").iterdir())
    whole = unseal(piece.read_bytes(), piece.name)
    piece.write_bytes(piece.read_bytes()[:-9])
    monkeypatch.undo()
    made.clear()
    monkeypatch.setattr(
        study_module, "generate_piece", lambda plan, *rest: made.append(plan.name) or generate(plan, *rest)
    )
    assert study.run("--batch_size", SEEDS, arms=arms, contrasts=["ona - random"]).exit_code == 0
    assert made == ["ona"]
    assert unseal(piece.read_bytes(), piece.name) == whole


def test_the_same_study_of_another_family_with_a_judge_of_ones_own(
    study: Study, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    listed = study.folder / "prompts.csv"
    with listed.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("id", "prompt", "light"), ("a", "a red disc", "light"), ("b", "a blue box", "dark")]
        )
    own = {"modules": "lamps", "judge": {"kind": "lamp"}, "attributes": "light", "prompts": str(listed), "clips": []}
    arms = [*ARMS[:2], {"kind": "mean_alone", "eta": 2.0}]
    readings = {}
    for family in ("modelscope", "wan"):
        words = ["--model", world / family, "--set", {"modelscope": "exact"}.get(family, family)]
        ran = study.run(*words, **own, arms=arms)
        assert ran.exit_code == 0, ran.stderr
        rows = study.rows()
        assert Counter(row["arm"] for row in rows) == dict.fromkeys(("gaussian", "ona", "mean_alone"), 2 * SEEDS)
        assert {row["code"] for row in rows} == {None}
        readings[family] = [(row["read_light"], row["dynamic_degree"]) for row in rows]
        assert {reading for reading, _ in readings[family]} <= {"light", "dark"}
        assert ran.document["judge"]["real"]["light"]["clips"] == 0
    assert readings["modelscope"] != readings["wan"]
    dark = study.run(*words, "--judge.brightest", 255, "--arms.ona.eta", 0.5, **own, arms=arms)
    assert dark.document["arms"]["ona"]["options"]["eta"] == 0.5
    assert {row["read_light"] for row in study.rows()} == {"dark"}
    wrong = study.run("--model", world / "wan", **own, arms=arms)
    assert wrong.exit_code == 1
    assert "does not fit this WanPipeline" in wrong.stderr


def test_a_judge_is_measured_on_as_many_frames_as_the_records_are_of(study: Study, world: Path) -> None:
    ran = study.run("--model", world / "wan", "--set", "wan", arms=[*ARMS[:2]])  # (5 frames of clips of 8)
    assert ran.exit_code == 0, ran.stderr
    assert [ran.document["judge"][look]["motion"]["clips"] for look in ("real", "denoised")] == [2, 2]
    assert ran.document["arms"]["ona"]["clips"] == PROMPTS * SEEDS


def test_what_was_fixed_beforehand_is_primary_and_binds(study: Study) -> None:
    fixed = study.folder / "preregistration.yaml"
    plan = {
        "attributes": ["colour", "motion"],
        "contrasts": ["ona - gaussian", "ona - diffuse"],
        "arms": [{"kind": "gaussian"}, {"kind": "nearest", "name": "ona"}, {"kind": "nearest", "name": "diffuse"}],
        "least_prompts": PROMPTS,
        "num_inference_steps": 2,
        "guidance_scale": 2,
        "resamples": 100,
        "permutations": 100,
    }
    plan["arms"][2]["set"] = "diffuse"  # type: ignore[index]
    fixed.write_text(yaml.safe_dump(plan))
    arms = [*ARMS[:2], {"kind": "nearest", "name": "diffuse", "set": "diffuse"}]
    (study.folder / "limits.md").write_text("## What this cannot tell\n\nAnything about real models.\n")
    also = {"preregistration": str(fixed), "notes": str(study.folder / "limits.md")}
    also["report"] = str(study.folder / "evidence.md")
    refused = study.run(**also, arms=arms[:2])
    assert refused.exit_code == 2
    assert "arms.diffuse: missing" in refused.stderr
    ran = study.run(**also, arms=arms)
    assert ran.exit_code == 0, ran.stderr
    primary = ran.document["primary"]["contrasts"]
    assert [(one["treatment"], one["control"]) for one in primary] == [("ona", "gaussian"), ("ona", "diffuse")]
    assert all(one["prompts"] == PROMPTS and one["p_holm"] >= one["p"] for one in primary)
    report = (study.folder / "evidence.md").read_text()
    assert (study.folder / "evidence" / "summary.json").read_bytes() == (study.out / "summary.json").read_bytes()
    assert ran.document["preregistration"]["sha256"] in report
    assert report.rstrip().endswith("Anything about real models.")
    other = study.folder / "second"
    beside = study.run("--out", other, "--seed", 1, "--beside", study.out, **also, arms=arms)
    assert beside.exit_code == 0, beside.stderr
    report = (study.folder / "evidence.md").read_text()
    assert "## Study 1, seed 1" in report and "## Study 2, seed 0" in report


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as running:
        yield running


def test_rewritten_prompts_lead_the_first_steps_of_an_arm(study: Study, world: Path, server: ChatServer) -> None:
    words = ["-o", study.folder / "rewrites", "--endpoint", server.url, "--endpoint_model", "any"]
    rewritten = noisebank("rewrite", world / "bank", world / "prompts.csv", *words)
    assert rewritten.exit_code == 0, rewritten.stderr
    hybrid = {"kind": "nearest", "name": "hybrid", "gamma": 0.5, "rewrites": str(study.folder / "rewrites")}
    listed = hybrid | {"name": "listed", "rewrites": str(study.folder / "some.csv")}
    again = {row["prompt"]: row["rewritten"] for row in csv.DictReader((world / "rewrites.csv").open())}
    (study.folder / "some.csv").write_text("\n".join(["prompt,rewritten", *map(",".join, [*again.items()][:-1])]))
    ran = study.run(arms=[*ARMS[:2], hybrid, listed])
    assert ran.exit_code == 0, ran.stderr
    rows = {(row["arm"], row["prompt_id"], row["seed"]): row for row in study.rows()}
    plain, led = rows["ona", "p0", 0], rows["hybrid", "p0", 0]
    assert led["rewritten"] and plain["rewritten"] is None
    assert (led["clip"], led["drawn_digest"]) == (plain["clip"], plain["drawn_digest"])
    assert led["similarity"] != plain["similarity"]
    assert rows["listed", "p0", 0]["rewritten"] == again[plain["prompt"]] != plain["prompt"]
    assert ran.document["arms"]["listed"]["failed"] == {"no_rewrite": SEEDS}


def test_a_piece_of_another_shape_is_another_piece(study: Study) -> None:
    keys = []
    for name in ("exact", "wan"):
        options = decode_options(EvaluationOptions, study.config | {"set": name, "arms": [{"kind": "gaussian"}]})
        prompts, _ = read_study_prompts(options.prompts, options.attributes)
        ready = study_module.Study(options, prompts, None)
        (plan,) = ready.plans
        keys.append(plan.key(plan.cells(prompts), ready.fingerprint, ready.judge_fingerprint))
    assert keys[0] != keys[1]


def test_a_prompt_that_is_asked_twice_is_one_prompt(study: Study, world: Path) -> None:
    rows = (world / "prompts.csv").read_text().splitlines()
    again = study.folder / "again.csv"
    again.write_text("\n".join([*rows, "other" + rows[1].removeprefix("p0")]) + "\n")
    prompts, refused = read_study_prompts(str(again), ["colour", "motion"])
    assert len(prompts) == PROMPTS
    assert [(row["id"], row["code"]) for row in refused] == [("other", "prompt_taken")]


def test_what_cannot_work_is_refused_before_any_work(study: Study) -> None:
    foreign, poor, silent = (str(study.folder / f"{name}.csv") for name in ("foreign", "poor", "silent"))
    Path(foreign).write_text("id,colour,motion\nother-1,red,left\n")
    Path(poor).write_text("id,colour\npool-0-0-1000,red\n")
    Path(silent).write_text("prompt,colour\na red circle,red\na blue circle,blue\n")
    for changed, said in (
        ({"attributes": []}, "attributes: at least one is wanted"),
        ({"arms": [{"kind": "gaussian"}, {"kind": "gaussian"}]}, "arms[1].name: 'gaussian' is taken"),
        ({"arms": [{"kind": "psychic"}]}, "arms[0].kind: 'psychic' is not allowed"),
        ({"contrasts": ["ona - nothing"]}, "no arm 'nothing'"),
        ({"arms": [{"kind": "nearest", "gamma": 0.1}]}, "wants rewrites"),
        ({"arms": [{"kind": "nearest", "prior": "odd"}]}, "prior 'odd' is not allowed"),
        (
            {"arms": [{"kind": "gaussian"}, {"kind": "nearest", "set": "wan"}]},
            "arms.nearest: its records have the shape",
        ),
        ({"report": str(study.folder / "evidence")}, "a file whose name ends in .md is wanted"),
        ({"report": str(study.folder / "none" / "evidence.md")}, "its folder does not exist"),
        ({"notes": str(study.folder / "none.md")}, "none.md: cannot be read"),
        ({"clips": foreign}, "none of its 1 ids is of a clip of"),
        ({"clips": poor}, "column 'motion' is missing; found: colour, id"),
        ({"clips": str(study.folder / "none.csv")}, "none.csv: no such file"),
        ({"prompts": silent}, "no row has a value of 'motion'"),
        ({"out": study.config["bank"]}, "is the bank; name another folder"),
        ({"beside": [str(study.folder / "none")]}, "beside: a study without a summary.json"),
    ):
        ran = study.run(**changed)  # type: ignore[arg-type]
        assert (ran.exit_code, said in ran.stderr) == (2, True), ran.stderr
    assert study.run("--colour", "red").exit_code == 2
    assert not study.out.exists() or not [*study.out.rglob("*.json")]


def test_the_bank_of_a_study_is_diagnosed(world: Path) -> None:
    ran = noisebank("diagnose", world / "bank", "--sample", 6)
    assert ran.exit_code == 0, ran.stderr
    sets = ran.document["sets"]
    assert {name: one["noise"]["records"] for name, one in sets.items()} == {"exact": 6, "diffuse": 6, "wan": 6}
    assert sets["wan"]["shape"] == [4, 2, 8, 8]
    assert sets["diffuse"]["noise"]["rms"]["mean"] == pytest.approx(1, abs=0.05)
    assert (sets["exact"]["inverter"], sets["exact"]["num_inference_steps"]) == ("ddim", 2)
    refused = noisebank("diagnose", world / "bank", "--set", "none")
    assert "it has diffuse, exact, wan" in refused.stderr
