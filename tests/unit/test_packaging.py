"""What ``pip install .`` puts on a machine: every package of the source tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).parents[2]
HOUSES = ("noisebank", "schemas", "transforms", "pipelines", "runners")

PACKAGES = "import setuptools, distutils.core as d; print(*d.run_setup('setup.py', stop_after='init').packages)"


def test_every_package_of_the_source_tree_is_installed() -> None:
    found = find_packages(str(ROOT), include=[pattern for house in HOUSES for pattern in (house, f"{house}.*")])
    ran = subprocess.run([sys.executable, "-c", PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    assert sorted(ran.stdout.split()) == sorted(found)


def test_a_command_starts_without_what_only_its_job_needs() -> None:
    heavy = "{'apache_beam', 'pandas', 'torch', 'faiss', 'diffusers', 'transformers'}"
    code = f"import sys, pipelines.cli; print(*sorted({heavy} & {{*sys.modules}}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == []
