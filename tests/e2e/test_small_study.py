"""The study of the repository, a few clips and prompts long: its own files, the shipped model, all of its arms."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from noisebank.config import load_document
from noisebank.world.lists import write_study
from tests.support.minilm import MINILM
from tests.support.projects import noisebank
from tests.support.shipped import trained_model

STUDY = Path(__file__).parents[2] / "examples" / "toy" / "study"
POOL, ORACLE, PROMPTS = 16, 8, 6


def test_the_whole_study_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_study(Path("study"), seed=0, pool=POOL, oracle=ORACLE, prompts=PROMPTS)
    Path("study/model").symlink_to(trained_model())
    oracle = "[{kind: webvid, name: oracle, path: study/oracle.csv}]"
    for words in ([], ["--bank", "study/oracle-bank", "--sources", oracle]):
        built = noisebank("build", "-c", STUDY / "bank.yaml", "--captions.model", MINILM, *words)
        assert built.exit_code == 0, built.stderr

    few = ["--seeds", 1, "--judged_clips", 8, "--preregistration", "null", "--notes", STUDY / "limits.md"]
    ran = noisebank("evaluate", "-c", STUDY / "evaluate.yaml", *few)
    assert ran.exit_code == 0, ran.stderr
    arms = load_document(str(STUDY / "evaluate.yaml"))["arms"]
    rows = pq.read_table("study/results/outcomes.parquet").to_pylist()
    assert len(rows) == len(arms) * PROMPTS
    needs_a_match = {"oracle", "contradicting"}
    assert {row["arm"] for row in rows if row["code"]} <= needs_a_match
    found = ran.document["arms"]
    assert found["gaussian"]["outcomes"]["right_colour"]["mean"] >= 0.6
    assert found["replay"]["outcomes"]["copying"]["mean"] > 0.9 > found["gaussian"]["outcomes"]["similarity"]["mean"]
    assert ran.document["judge"]["reconstructed"]["colour"]["accuracy"] == 1
    report = Path("study/results/report.md").read_text()
    assert "everything below is exploratory" in report
    assert "What this world cannot tell" in report
