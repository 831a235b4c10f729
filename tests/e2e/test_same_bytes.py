"""Same rows, same bytes: whatever the order of the list, its files, the workers, and repeated bundles."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.projects import Project, Row

COUNT = 9

ARRANGEMENTS: dict[str, Callable[[list[Row]], list[list[Row]]]] = {
    "again": lambda rows: [rows],
    "reversed": lambda rows: [rows[::-1]],
    "split": lambda rows: [rows[4:7], rows[:1], [], rows[7:], rows[1:4]],
}
ENGINES = {
    "two threads": ["--direct_num_workers=2", "--direct_running_mode=multi_threading"],
    "two processes": ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
    "bundles repeated": ["--direct_runner_bundle_repeat=2"],
}


@pytest.fixture(scope="module")
def expected(module_project: Callable[[str], Project]) -> dict[str, str]:
    """The files of a bank of nine good rows and a bad one, built on the defaults."""
    project = module_project("expected")
    project.write_list(listed(project))
    assert project.build("--max_failed", 0.2)["rows"]["in_bank"] == COUNT
    files = project.files()
    assert {name.split("/")[0] for name in files} >= {"clips", "captions", "noise", "index", "rows", "failures"}
    assert sum(name.endswith(".tar") for name in files) == 3
    return files


def listed(project: Project) -> list[Row]:
    return [*project.rows(COUNT), Row("bad", "/nowhere/missing.mp4", "a video that is not there")]


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_however_the_rows_are_listed(project: Project, expected: dict[str, str], arrangement: str) -> None:
    lists = ARRANGEMENTS[arrangement](listed(project))
    names = [f"list{i}.csv" for i in range(len(lists))]
    for name, rows in zip(names, lists, strict=True):
        project.write_list(rows, name)
    project.configure(sources=[project.source("mine", *names)])
    project.build("--max_failed", 0.2)
    assert project.files() == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_however_the_job_is_run(project: Project, expected: dict[str, str], engine: str) -> None:
    project.write_list(listed(project))
    summary = project.build("--max_failed", 0.2, *ENGINES[engine])
    assert project.files() == expected
    assert summary["rows"]["in_bank"] == COUNT and summary["failed_by_code"] == {"missing_file": 1}


def test_options_that_only_say_how_the_work_is_done_do_not_change_a_byte(
    project: Project, expected: dict[str, str]
) -> None:
    project.write_list(listed(project))
    flags = ["--fetch.concurrency", 1, "--fetch.retries", 0, "--captions.batch_size", 3, "--max_failed", 0.3]
    project.build(*flags)
    assert project.files() == expected
