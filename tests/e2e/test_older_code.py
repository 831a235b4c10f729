"""A bank that older code built is a bank of today's: nothing is made again, nothing is rewritten, and it grows.

The older code is a commit of this repository, unpacked into a folder and run in a process of its own. Both write the
same files for the same list, under the same fingerprints and inputs hashes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from noisebank import NoiseBank
from tests.support.projects import CAPTIONS, Project, Row, done

ROOT = Path(__file__).parents[2]
BEFORE_THE_ROOMS = "605b8a5846e1534efad27cce0ace8aa70735c73e"
"""Newest commit of the layout before: reader, fixtures and schemas had no rooms of their own in ``noisebank/`` yet."""
OLDER_COMMITS = {"before the rooms": BEFORE_THE_ROOMS}
"""Commits whose banks today's code takes as they are; one more is one more entry."""
BEFORE_MADE_WITH = "0e3f947b11e12822d0fb8547f619d0b029652b01"
"""Newest commit whose snapshots do not say what their stages were made with."""
COMMITS_WHOSE_BANKS_GROW = OLDER_COMMITS | {"before made_with": BEFORE_MADE_WITH}
"""Those of which no more than that is asked, as each costs a build, are here alone."""
OF_A_RUN = ("uuid", "run_id", "created", "plan", "stages", "made_with", "digest")
"""What a snapshot says of the run that made it; another run has others, and older code said less."""
CLIPS = 9
NOISE_SETS = ("exact", "small")
FLAGS = ("--max_failed", "0.5")
COMMAND = """
import sys
from pathlib import Path
import noisebank, pipelines.cli, schemas, transforms, runners
for package in (noisebank, pipelines, schemas, transforms, runners):
    assert Path(package.__path__[0]).parent == Path.cwd(), f"{package.__name__} is not of the older code"
sys.exit(pipelines.cli.main())
"""
"""``python -m pipelines.cli``, once it is sure that all its packages are those of the working directory."""


class OlderCode(NamedTuple):
    """The unpacked tree of an older commit."""

    folder: Path

    def run(self, *words: object, exit_code: int = 0) -> dict[str, Any]:
        """The JSON document of a command of the older code that ends with that exit code."""
        ran = subprocess.run(
            [sys.executable, "-c", COMMAND, str(words[0]), "--json", *map(str, words[1:])],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert ran.returncode == exit_code, ran.stderr
        return dict(json.loads(ran.stdout))


@pytest.fixture(scope="module", params=OLDER_COMMITS.values(), ids=OLDER_COMMITS.keys())
def older_code(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OlderCode:
    """An older commit, unpacked; a checkout that does not have it skips the test."""
    if shutil.which("git") is None:
        pytest.skip("the older code is taken out of git, which is not installed")
    archive = subprocess.run(["git", "archive", request.param], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip(f"this checkout has no commit {request.param}: {archive.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return OlderCode(folder)


@pytest.fixture(scope="module")
def older_project(older_code: OlderCode, module_project: Callable[[str], Project]) -> Project:
    """A project with a bank that the older code built."""
    project = configured(module_project("older-bank"))
    project.write_list(listed(CLIPS, project))
    summary = older_code.run("build", "-c", project.config_file, *FLAGS)
    assert summary["committed"]
    assert summary["rows"]["in_bank"] == CLIPS
    return project


@pytest.fixture
def older_bank(older_project: Project, project: Project) -> Project:
    """A project of the test's own with a copy of that bank and the same list."""
    shutil.copytree(older_project.bank, project.bank)
    project.write_list(listed(CLIPS, project))
    return configured(project)


def configured(project: Project) -> Project:
    """The project with two noise sets, of both dtypes and both inverters."""
    (small,) = project.config["noise"]
    exact = {**small, "name": "exact", "inverter": "fixed-point", "dtype": "int8", "num_inference_steps": 3}
    project.configure(noise=[small, exact])
    return project


def listed(clips: int, project: Project) -> list[Row]:
    """That many good rows, one that cannot be had, one without a caption, and one that is listed twice."""
    rows = project.rows(clips)
    bad = [Row("gone", "/nowhere/missing.mp4", "a video that is not there"), Row("mute", "videos/v01.mp4", " ")]
    return [*rows, *bad, rows[0]]


def new_files(project: Project, before: dict[str, str]) -> set[str]:
    """Paths of the files that a bank has beside those there were ``before``, which must all be as they were."""
    after = project.hashes()
    assert {path: after.get(path) for path in before} == before
    return after.keys() - before.keys()


def records(bank: Path) -> dict[str, bytes]:
    """The record of every clip in every noise set, as :class:`NoiseBank` decodes it."""
    found = {}
    for noise_set in NOISE_SETS:
        with NoiseBank.open(bank, noise_set=noise_set) as opened:
            for row in range(CLIPS):
                record = opened.inverted(f"mine-clip{row:02}")
                found[f"{noise_set} {record.id}"] = record.noise.numpy().tobytes()
    return found


def snapshot(project: Project) -> dict[str, Any]:
    """What the first snapshot says, but for its run."""
    document = json.loads((project.bank / "snapshots" / "00000001.json").read_bytes())
    document["counts"].pop("filtered", None)
    return {name: value for name, value in document.items() if name not in OF_A_RUN}


all_that_grow = pytest.mark.parametrize(
    "older_code", COMMITS_WHOSE_BANKS_GROW.values(), ids=COMMITS_WHOSE_BANKS_GROW.keys(), indirect=True
)


@all_that_grow
def test_there_is_nothing_to_do(older_bank: Project) -> None:
    before = older_bank.hashes()
    summary = older_bank.build()
    assert (summary["committed"], summary["snapshot"], summary["stages"]) == (False, 1, {})
    counts = {name: count for name, count in summary["rows"].items() if count}
    assert counts == {"read": CLIPS + 3, "unchanged": CLIPS + 1, "duplicate": 1, "invalid": 1, "in_bank": CLIPS}
    assert older_bank.hashes() == before


def test_it_reads_the_same(older_code: OlderCode, older_bank: Project) -> None:
    verified = older_bank.look("verify")
    assert (verified["ok"], verified["damaged"]) == (True, [])
    assert older_bank.failures() == {"mine-gone": "missing_file", "mine-mute": "empty_caption"}
    assert older_bank.search(CAPTIONS[3]) == ("mine-clip03", CAPTIONS[3])
    for noise_set in NOISE_SETS:
        words = [older_bank.bank, CAPTIONS[3], "--set", noise_set, "--eta", 0.5, "--seed", 1, "-o"]
        theirs, ours = (older_bank.folder / f"{noise_set}-{whose}.safetensors" for whose in ("theirs", "ours"))
        older_code.run("sample", *words, theirs)
        assert older_bank.look("sample", *words[1:], ours)["id"] == "mine-clip03"
        assert ours.read_bytes() == theirs.read_bytes()


@all_that_grow
def test_it_grows_by_one_clip(older_bank: Project) -> None:
    before, held = older_bank.hashes(), records(older_bank.bank)
    older_bank.write_list(listed(CLIPS + 1, older_bank))
    summary = older_bank.build()
    assert (summary["committed"], summary["snapshot"], summary["parent"]) == (True, 2, 1)
    assert (summary["rows"]["new"], summary["rows"]["in_bank"]) == (1, CLIPS + 1)
    worked = done(summary)
    assert worked.pop("index") in (1, CLIPS + 1)  # (a segment of its own, or all merged)
    assert worked == {"clips": 1, "captions": 1, "noise/exact": 1, "noise/small": 1}
    new_files(older_bank, before)
    assert records(older_bank.bank) == held
    for row in (0, CLIPS):
        assert older_bank.search(CAPTIONS[row]) == (f"mine-clip{row:02}", CAPTIONS[row])
    assert older_bank.look("verify")["ok"]


def test_today_the_same_list_gives_the_same_files(older_project: Project, project: Project) -> None:
    """All but the noise: fewer of its clips are measured, and a batch that is not full runs in another size."""
    configured(project).write_list(listed(CLIPS, project))
    project.build(*FLAGS)
    ours, theirs = (
        {path for path in one.files() if not path.startswith(("noise/", "parts/", "records/"))}
        for one in (project, older_project)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("command", "exit_code"), [(("clips",), 0), (("build", "--max_failed", "0"), 1)], ids=["clips alone", "refused"]
)
def test_finished_shards_that_it_did_not_publish_are_taken_up(
    older_code: OlderCode, project: Project, command: tuple[str, ...], exit_code: int
) -> None:
    configured(project).write_list(listed(CLIPS, project))
    older_code.run(command[0], "-c", project.config_file, *command[1:], exit_code=exit_code)
    before = project.hashes()
    assert sum(path.endswith(".tar") for path in before) == 3
    assert not list(project.bank.glob("snapshots/*"))
    summary = project.build(*FLAGS)
    assert done(summary) == {"captions": CLIPS, "index": CLIPS, "noise/exact": CLIPS, "noise/small": CLIPS}
    assert summary["rows"]["in_bank"] == CLIPS
    assert not [path for path in new_files(project, before) if path.startswith("clips/")]


def test_what_it_finished_before_it_was_killed_is_published_as_it_is(older_bank: Project) -> None:
    """Killed at the last moment: everything is there but the snapshot."""
    expected, before = snapshot(older_bank), older_bank.hashes()
    del before["snapshots/00000001.json"]
    (older_bank.bank / "snapshots" / "00000001.json").unlink()
    summary = older_bank.build(*FLAGS)
    assert summary["committed"]
    assert done(summary) == {"index": CLIPS}  # (over captions taken over: other inputs, the same files)
    assert snapshot(older_bank) == expected
    new_files(older_bank, before)
