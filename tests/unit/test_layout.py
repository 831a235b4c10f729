"""The house rules: arrows between the packages point down only, and what is meant to be light is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("noisebank", "schemas", "transforms", "pipelines", "runners", "tests", "benchmarks")
MAY_IMPORT = {
    "noisebank": {"noisebank"},
    "schemas": {"noisebank", "schemas"},
    "transforms": {"noisebank", "schemas", "transforms"},
    "runners": {"noisebank", "runners"},
    "pipelines": {"noisebank", "schemas", "transforms", "runners", "pipelines"},
    "benchmarks": {*OURS} - {"tests"},
}
"""Which of our packages the files of a package may import."""


def imported(path: Path) -> Iterator[str]:
    """Top-level names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0] if not node.level else path.relative_to(ROOT).parts[0]


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"no files in {package}"
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_point_down_only(package: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(names)
        for path in sources(package)
        if (names := {*imported(path)} & {*OURS} - MAY_IMPORT[package])
    }
    assert not wrong


def test_the_parts_of_the_library_do_not_import_each_other_in_circles() -> None:
    arrows: dict[str, set[str]] = {}
    for path in sources("noisebank"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("noisebank."):
                part, other = path.relative_to(ROOT).parts[1].removesuffix(".py"), (node.module or "").split(".")[1]
                arrows.setdefault(part, set()).update({other} - {part})
    assert arrows["models"] >= {"inversion"}
    TopologicalSorter(arrows).prepare()


def test_the_files_of_sources_do_not_import_each_other_in_circles() -> None:
    arrows: dict[str, set[str]] = {}
    for path in (ROOT / "noisebank" / "sources").glob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("noisebank.sources"):
                names = (node.module or "").split(".")[2:] or [name.name for name in node.names]
                arrows.setdefault(path.stem, set()).update(names)
    assert arrows["files"] >= {"formats", "layouts"}
    TopologicalSorter(arrows).prepare()


@pytest.mark.parametrize("package", ["noisebank", "schemas"])
def test_the_library_knows_nothing_of_beam(package: str) -> None:
    assert not [path for path in sources(package) if "apache_beam" in {*imported(path)}]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_nothing_is_unpickled_or_executed(package: str) -> None:
    """``pickle``, ``eval`` and the like, in any file: a bank and its models are data."""
    forbidden = {"eval", "exec", "compile", "__import__"}
    for path in sources(package):
        assert not {*imported(path)} & {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}, path
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id in forbidden], path


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_files_and_functions_stay_short(package: str) -> None:
    for path in sources(package):
        text = path.read_text()
        assert text.count("\n") < 400, path
        tree = ast.parse(text)
        assert ast.get_docstring(tree) or not text.strip(), f"{path}: no docstring"
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in functions:
            lines = (function.end_lineno or 0) - function.lineno - (ast.get_docstring(function) or "").count("\n")
            assert lines < 60, f"{path}: {function.name} has {lines} lines"


def test_the_foreign_readers_import_nothing_of_ours() -> None:
    assert not {*imported(ROOT / "tests" / "e2e" / "test_foreign_readers.py")} & {*OURS}
