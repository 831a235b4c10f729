"""The jars of Flink and of Beam's runner for it, which ``make flink`` fetches, and programs of ours against them."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

_JARS = Path(sysconfig.get_path("scripts")).parent / "engines/flink/lib"


def find_class_path() -> str:
    """The class path of the jars; the test is skipped, by name, where they or Java are not there."""
    if shutil.which("java") is None:
        pytest.skip("java is not installed")
    if not (_JARS / ".fetched").exists():
        pytest.skip("the jars of Flink are not installed: make flink")
    return f"{_JARS}/*"


def run_java(source: Path, *arguments: object) -> str:
    """What a program of one file of Java prints."""
    line = ["java", "-XX:TieredStopAtLevel=1", "-cp", find_class_path(), str(source), *map(str, arguments)]
    ran = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
