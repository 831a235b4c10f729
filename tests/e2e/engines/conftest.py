"""What tests of engines compare with."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from tests.support.portable import build, portable_project
from tests.support.projects import Project


@pytest.fixture
def make_project(tmp_path: Path, small_model: Path, videos: Path) -> Callable[..., Project]:
    """Makes the project that every engine builds (:func:`tests.support.portable.portable_project`)."""
    return lambda **options: portable_project(tmp_path / "project", small_model, videos, **options)


@pytest.fixture(scope="session")
def expected_bank(tmp_path_factory: pytest.TempPathFactory, small_model: Path, videos: Path) -> Callable[[bool], Path]:
    """The bank of this process's own engine, built at once, with one noise set or two."""

    @lru_cache
    def make(second_set: bool) -> Path:
        folder = tmp_path_factory.mktemp("expected") / "project"
        project = portable_project(folder, small_model, videos, second_set=second_set)
        build(project)
        return project.bank

    return make
