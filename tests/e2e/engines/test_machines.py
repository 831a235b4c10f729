"""Stages of one build on machines that have only the bank's bucket in common: CPUs, a GPU box, and one that commits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from noisebank.storage import open_store
from tests.support.emulators import Emulator
from tests.support.portable import ROOT, assert_same
from tests.support.projects import Project

pytestmark = pytest.mark.engines

TWO_WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


def run_on(machine: Path, command: str, config: str, *words: str) -> dict[str, Any]:
    """The document of a command that ends well on another machine: another process, in another folder."""
    machine.mkdir(exist_ok=True)
    line = [sys.executable, "-m", "pipelines.cli", command, "--json", "-c", config, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(line, cwd=machine, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert not list(machine.iterdir()), "something is left on the machine"
    document: dict[str, Any] = json.loads(ran.stdout)
    return document


def test_cpu_stages_noise_and_commit_on_three_machines_make_the_bank_of_one_build(
    s3: Emulator, project: Project, tmp_path: Path, small_model: Path
) -> None:
    rows = [row._replace(uri=str(project.folder / row.uri)) for row in project.rows(3)]
    project.write_list([*rows, rows[0]._replace(id="gone", uri="/nowhere/gone.mp4")])
    store = open_store(f"{s3.url}/shared")
    store.put("list.csv", (project.folder / "list.csv").read_bytes())
    source = project.config["sources"][0] | {"path": f"{s3.url}/shared/list.csv"}
    clips = project.config["clips"] | {"maxcount": 2}
    project.configure(bank=f"{s3.url}/machines", sources=[source], clips=clips, max_failed=0.5)
    config = f"{s3.url}/shared/bank.yaml"
    store.put("bank.yaml", yaml.safe_dump(project.config).encode())

    for command in ("clips", "captions", "index"):
        run_on(tmp_path / "cpus", command, config, *TWO_WORKERS)
    elsewhere = shutil.copytree(small_model, tmp_path / "model of the box")
    did = run_on(tmp_path / "box", "noise", config, f"--noise.small.model={elsewhere}")
    assert did["stages"]["noise/small"]["done"] == 3
    published = run_on(tmp_path / "anywhere", "commit", config)
    assert (published["committed"], published["rows"]["in_bank"]) == (True, 3)

    project.build("--bank", f"{s3.url}/whole")
    assert_same([f"{s3.url}/machines", f"{s3.url}/whole"])
