"""The image's recipe: what it copies is there, its versions are those of the constraints, and nothing is downloaded
by its workers."""

from __future__ import annotations

import re
import runpy
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest
import setuptools

from runners.dataflow import DataflowOptions

ROOT = Path(__file__).parents[3]
RECIPE = (ROOT / "runners/containers/Dockerfile").read_text(encoding="utf-8")
STEPS = re.findall(r"^([A-Z]+) +(.*)$", re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", RECIPE, flags=re.M)), re.M)


def arguments(name: str) -> list[list[str]]:
    """The words of every step of a kind, in order."""
    return [shlex.split(text) for kind, text in STEPS if kind == name]


def variables(name: str) -> dict[str, str]:
    words = [word for words in arguments(name) for word in words]
    return dict(word.split("=", 1) for word in words if "=" in word)


def copied() -> list[str]:
    """What is copied from the source tree."""
    return [source for *sources, _ in arguments("COPY") for source in sources if not sources[0].startswith("--from")]


def is_ignored(path: str) -> bool:
    """By .dockerignore, whose last line that matches counts."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!")
        if pattern and not pattern.startswith("#") and fnmatch(path.rstrip("/"), pattern):
            ignored = not line.startswith("!")
    return ignored


def test_everything_that_is_copied_exists_and_is_not_ignored() -> None:
    for source in copied():
        assert (ROOT / source).exists(), source
        assert (ROOT / source).is_dir() == source.endswith("/"), source
        assert not is_ignored(source), source
    assert is_ignored("tests") and is_ignored(".venv") and is_ignored("docs")


def test_every_package_and_what_its_set_up_reads_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, list[str]] = {}
    monkeypatch.setattr(setuptools, "setup", said.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    assert {f"{package.partition('.')[0]}/" for package in said["packages"]} <= {*copied()}
    assert {"setup.py", "pyproject.toml", "constraints.txt", "README.md"} <= {*copied()}
    assert {"jobs", "gcp"} <= said["extras_require"].keys() and "'.[jobs,gcp]'" in RECIPE


def test_versions_are_those_of_the_constraints() -> None:
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    versions = variables("ARG")
    assert versions["BEAM_VERSION"] == constraints["apache-beam"]
    python = versions["PYTHON_VERSION"]
    assert f"Python :: {python}" in (ROOT / "setup.py").read_text()
    stages = [words[0] for words in arguments("FROM")]
    assert stages[0] == "apache/beam_python${PYTHON_VERSION}_sdk:${BEAM_VERSION}"
    assert f"python{python.replace('.', '')}-template-launcher" in stages[1]
    assert stages[-1].startswith("python:${PYTHON_VERSION}")


def test_steps_of_other_images_are_copied_from_stages_that_are_there() -> None:
    names = {words[2] for words in arguments("FROM") if len(words) == 3}
    taken = {words[0].removeprefix("--from=") for words in arguments("COPY") if words[0].startswith("--from=")}
    assert taken == names == {"beam", "launcher", "models"}


def test_workers_download_nothing_and_find_their_models_where_the_engine_looks() -> None:
    models = next(words[-1] for words in arguments("COPY") if words[0] == "--from=models")
    environment = variables("ENV")
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["HF_HOME"] == models.rstrip("/") == DataflowOptions([]).image_models
    assert arguments("ENTRYPOINT") == [["[/opt/apache/beam/boot]"]]
    assert ["--from=beam", "/opt/apache/beam", "/opt/apache/beam"] in arguments("COPY")
    assert f"cp pipelines/build.py {environment['FLEX_TEMPLATE_PYTHON_PY_FILE']}" in " ".join(RECIPE.split())
