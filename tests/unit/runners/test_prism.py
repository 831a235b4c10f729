"""Prism: which program is started, where its workers are, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PortableOptions, PrismRunnerOptions
from apache_beam.runners.portability.prism_runner import PrismJobServer

from noisebank.errors import ConfigError
from runners.engine import Needs
from runners.engines import find_engine
from runners.prism import PROGRAM


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, which is on no PATH; nor is any other."""
    path = tmp_path / "bin" / PROGRAM
    path.parent.mkdir()
    path.touch(0o755)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(PrismJobServer, "BIN_CACHE", str(tmp_path / "cache"))
    return path


def prepare(*words: str) -> tuple[str, str]:
    """The program and the environment of a job."""
    engine = find_engine(["--runner=PrismRunner", *words])
    engine.prepare(Needs(["./bank"]))
    options = engine.options
    return options.view_as(PrismRunnerOptions).prism_location, options.view_as(PortableOptions).environment_type


def test_the_program_is_the_one_given_or_found_and_the_work_is_done_here(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare(f"--prism_location={program}") == (str(program), "LOOPBACK")
    assert prepare(f"--prism_location={program}", "--environment_type=DOCKER") == (str(program), "DOCKER")
    monkeypatch.chdir(program.parent)
    assert prepare(f"--prism_location={PROGRAM}") == (str(program), "LOOPBACK")
    monkeypatch.setenv("PATH", str(program.parent))
    assert prepare() == (str(program), "LOOPBACK")


def test_where_there_is_no_program_the_error_says_how_to_get_one(program: Path) -> None:
    said = r"--prism_location: .*go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2"
    for words in ([], [f"--prism_location={program.parent}"], ["--prism_location=/nowhere/prism"]):
        with pytest.raises(ConfigError, match=said):
            prepare(*words)


def test_a_bank_in_memory_is_for_threads_of_this_process(program: Path) -> None:
    find_engine(["--runner=PrismRunner"]).check_addresses(["memory://bank"])
    with pytest.raises(ConfigError, match="memory://bank: workers in other processes"):
        find_engine(["--runner=PrismRunner", "--environment_type=DOCKER"]).check_addresses(["memory://bank"])
