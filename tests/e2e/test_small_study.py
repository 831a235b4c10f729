"""The study of the repository, a few clips and prompts long: its own files, the shipped model, all of its arms."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from noisebank.config import load_document
from noisebank.world.lists import write_study
from tests.support.minilm import MINILM
from tests.support.projects import noisebank
from tests.support.shipped import trained_model

STUDY = Path(__file__).parents[2] / "examples" / "toy" / "study"
POOL, ORACLE, PROMPTS, STEPS = 8, 4, 3, 5
SMALLER = {60: 2, 250: 4}
"""Sizes of the study's smaller pools, and what they are here."""


def test_the_whole_study_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_study(Path("study"), seed=0, pool=POOL, oracle=ORACLE, prompts=PROMPTS, sizes=list(SMALLER.values()))
    Path("study/model").symlink_to(trained_model())
    sets = load_document(str(STUDY / "bank.yaml"))["noise"]
    steps = [word for noise in sets for word in (f"--noise.{noise['name']}.num_inference_steps", STEPS)]

    def build(*words: object) -> None:
        built = noisebank("build", "-c", STUDY / "bank.yaml", "--captions.model", MINILM, *steps, *words)
        assert built.exit_code == 0, built.stderr

    build()
    build("--bank", "study/oracle-bank", "--sources", "[{kind: webvid, name: oracle, path: study/oracle.csv}]")
    for size, here in SMALLER.items():
        shutil.copytree("study/bank", f"study/bank-{size}")
        smaller = f"[{{kind: webvid, name: pool, path: study/pool-{here}.csv}}]"
        build("--bank", f"study/bank-{size}", "--sources", smaller, "--max_removed", 1)

    few = ["--num_inference_steps", STEPS, "--seeds", 1, "--judged_clips", 4, "--preregistration", "null"]
    few += [word for arm in ("ona", "gaussian") for word in (f"--arms.{arm}_hybrid.gamma", 1 / STEPS)]
    ran = noisebank("evaluate", "-c", STUDY / "evaluate.yaml", *few, "--notes", STUDY / "limits.md")
    assert ran.exit_code == 0, ran.stderr
    arms = load_document(str(STUDY / "evaluate.yaml"))["arms"]
    rows = pq.read_table("study/results/outcomes.parquet").to_pylist()
    assert len(rows) == len(arms) * PROMPTS
    needs_a_match = {"oracle", "contradicting"}
    assert {row["arm"] for row in rows if row["code"]} <= needs_a_match
    found = ran.document["arms"]
    assert found["gaussian"]["outcomes"]["right_colour"]["mean"] >= 0.6
    copying = [found[name]["outcomes"]["copying"]["mean"] for name in ("ona", "ona_05", "ona_10", "replay")]
    assert copying == sorted(copying)
    assert copying[-1] > 0.3 > found["gaussian"]["outcomes"]["similarity"]["mean"]
    (sizes,) = ran.document["curves"]["pool"]
    assert [point["pool"] for point in sizes["points"]] == [*SMALLER.values(), POOL]
    assert found["ona_hybrid"]["outcomes"] != found["ona"]["outcomes"]
    assert ran.document["judge"]["reconstructed"]["colour"]["accuracy"] == 1
    report = Path("study/results/report.md").read_text()
    assert "everything below is exploratory" in report
    assert "What this world cannot tell" in report
