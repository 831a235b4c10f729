"""An inverter of one's own, from the configuration to records that worker processes make with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.projects import Project

ROOT = Path(__file__).parents[2]


def test_workers_import_the_modules_of_the_configuration(project: Project) -> None:
    project.write_list(project.rows(2))
    (small,) = project.config["noise"]
    project.configure(modules=["tests.support.momentum"], noise=[small | {"inverter": "steady"}])
    words = [sys.executable, "-m", "pipelines.cli", "build", "-c", str(project.config_file)]
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    ran = subprocess.run([*words, *workers], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    made = project.look("show")["noise"]["small"]
    assert (made["inverter"], made["records"]) == ("steady", 2)
