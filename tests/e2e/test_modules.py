"""A package of a user's own, named in ``modules``: its kind of source, inverter and stage are used from the command
line by worker processes, count in fingerprints, and are updated like everything else."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from noisebank import NoiseBank
from noisebank.format.stage_names import StageName
from noisebank.video.frames import decode_mp4
from tests.support.projects import CAPTIONS, Project

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests" / "support" / "plugins"
WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


@pytest.fixture
def toys(project: Project, small_model: Path) -> Project:
    """A project whose source, noise set and extra stage are of the package ``toys``."""
    with (project.folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "text_en", "text_nl"])
        writer.writerows([f"videos/v{i:02}.mp4", CAPTIONS[i], f"nummer {i}"] for i in range(6))
    noise = {"name": "toy", "model": str(small_model), "inverter": "damped", "damping": 0.5, "num_inference_steps": 4}
    project.configure(
        modules=["toys"],
        sources=[{"kind": "dubbed", "path": str(project.folder / "list.csv"), "language": "nl"}],
        noise=[noise],
        stages=[{"kind": "flow", "name": "near"}],
    )
    return project


def run(project: Project, command: str, *words: object, plugins: Path = PLUGINS) -> tuple[int, dict[str, Any]]:
    """A command in a process of its own that finds the package; its exit code and document."""
    line = [sys.executable, "-m", "pipelines.cli", command, "--json", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(plugins), str(ROOT)])}
    done = subprocess.run(line, cwd=project.folder, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, json.loads(done.stdout or "{}")


def build(project: Project, *words: object, **options: Any) -> dict[str, Any]:
    code, document = run(project, "build", "-c", project.config_file, *words, **options)
    assert code == 0, document
    return document


def flows(project: Project) -> dict[str, float]:
    """The score of every clip."""
    _, listed = run(project, "files", project.bank, "--kind", "flow/near")
    return {row["id"]: row["flow"] for path in listed["files"] for row in pq.read_table(path).to_pylist()}


def test_a_package_of_ones_own_is_used_by_worker_processes(toys: Project) -> None:
    summary = build(toys, *WORKERS)
    stages = {stage: (figures["done"], figures["failed"]) for stage, figures in summary["stages"].items()}
    assert stages == {"clips": (6, 0), "captions": (6, 0), "index": (6, 0), "noise/toy": (6, 0), "flow/near": (6, 0)}
    assert summary["rows"]["in_bank"] == 6

    bank = NoiseBank.open(toys.bank)
    hits = bank.search("nummer 3", k=6)
    assert {hit.caption for hit in hits} == {f"nummer {i}" for i in range(6)}, "the option chose the column"
    assert run(toys, "verify", toys.bank)[1]["ok"]
    scores = flows(toys)
    assert set(scores) == {hit.id for hit in hits}
    tars = run(toys, "files", toys.bank, "--kind", "clips")[1]["files"]
    for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
        frames = decode_mp4(sample["mp4"]).astype(np.float64)
        assert scores[sample["__key__"]] == pytest.approx(float(np.abs(frames[1:] - frames[:-1]).mean()))

    # nothing to do
    again = build(toys)
    assert not again["committed"] and not any(figures["done"] for figures in again["stages"].values())

    # an option of the inverter redoes the inversion alone; the noise is what the option says
    before = {hit.id: bank.inverted(hit.id).noise for hit in hits}
    summary = build(toys, "--noise.toy.damping", "0.25", "--max_redone", "1")
    assert [stage for stage, figures in summary["stages"].items() if figures["done"]] == ["noise/toy"]
    halved = NoiseBank.open(toys.bank)
    for id, noise in before.items():
        np.testing.assert_allclose(halved.inverted(id).noise, noise / 2, rtol=2e-3, atol=1e-4)

    # an option of the stage redoes the stage alone, and the rows that it cannot do are failures
    toys.configure(noise=[toys.config["noise"][0] | {"damping": 0.25}])
    summary = build(toys, "--stages.near.step", "2", "--max_redone", "1")
    assert [stage for stage, figures in summary["stages"].items() if figures["done"]] == ["flow/near"]
    assert flows(toys) != scores
    code, refused = run(toys, "build", "-c", toys.config_file, "--stages.near.step", "50", "--max_redone", "1")
    assert code == 1 and "clips of flow/near failed" in refused["error"]["message"]


def test_a_clip_that_is_new_or_gone_is_new_or_gone_in_the_stage_too(toys: Project) -> None:
    build(toys)
    before = flows(toys)
    lines = (toys.folder / "list.csv").read_text().splitlines()
    (toys.folder / "list.csv").write_text("\n".join([lines[0], *lines[2:], f"videos/v06.mp4,{CAPTIONS[6]},nummer 6"]))
    summary = build(toys, "--max_removed", "1")
    assert (summary["stages"]["flow/near"]["done"], summary["rows"]["in_bank"]) == (1, 6)
    run(toys, "compact", toys.bank)
    after = flows(toys)
    assert len(before.keys() - after.keys()) == 1 and len(after.keys() - before.keys()) == 1
    assert all(after[id] == before[id] for id in before.keys() & after.keys())
    assert run(toys, "verify", toys.bank)[1]["ok"]
    assert run(toys, "drop", toys.bank, "--set", "flow/near")[0] == 0
    assert run(toys, "files", toys.bank, "--kind", "flow/near")[0] == 2, "the snapshot has no such stage any more"


def test_another_version_of_the_package_does_its_work_again(toys: Project, tmp_path: Path) -> None:
    build(toys)
    newer = tmp_path / "newer" / "toys"
    newer.mkdir(parents=True)
    text = (PLUGINS / "toys" / "__init__.py").read_text()
    (newer / "__init__.py").write_text(text.replace('__version__ = "1.0"', '__version__ = "1.1"'))
    code, refused = run(toys, "build", "-c", toys.config_file, plugins=newer.parent)
    assert code == 1 and "the package of its kind was 'toys 1.0', is 'toys 1.1'" in refused["error"]["message"]
    summary = build(toys, "--max_redone", "1", plugins=newer.parent)
    assert [stage for stage, figures in summary["stages"].items() if figures["done"]] == ["flow/near", "noise/toy"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modules": []}, "dubbed"),
        ({"modules": ["no_such_package"]}, "no_such_package"),
        ({"stages": [{"kind": "flow", "name": "near", "steps": 2}]}, "steps"),
        ({"stages": [{"kind": "flow", "name": "near", "step": 0}]}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_done(toys: Project, change: dict[str, Any], said: str) -> None:
    toys.configure(**change)
    code, document = run(toys, "build", "-c", toys.config_file)
    assert code == 2 and said in document["error"]["message"]
    assert not toys.bank.exists()


def test_a_snapshot_tells_the_stages_of_modules_from_noise_sets() -> None:
    assert [StageName.of_records(key).name for key in ("toy", "flow/near")] == ["noise/toy", "flow/near"]
