"""Prism makes the bank that the local engine makes, at once and stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.emulators import find_engine
from tests.support.portable import assert_same, build
from tests.support.projects import Project

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def words() -> list[str]:
    return ["--runner=PrismRunner", f"--prism_location={find_engine('prism')}"]


def test_a_build_at_once_with_two_noise_sets_and_an_accelerator_hint(
    words: list[str], make_project: Callable[..., Project], expected_bank: Callable[[bool], Path]
) -> None:
    project = make_project(second_set=True, accelerator=True)
    build(project, *words)
    assert_same([expected_bank(True), project.bank])


def test_a_build_stage_by_stage(
    words: list[str], make_project: Callable[..., Project], expected_bank: Callable[[bool], Path]
) -> None:
    project = make_project()
    build(project, *words, by_stage=True)
    assert_same([expected_bank(False), project.bank])
