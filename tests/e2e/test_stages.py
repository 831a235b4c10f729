"""The stages as commands of their own, as on several machines: the same snapshot as build, or a clear refusal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from noisebank.format.manifest import read_snapshot
from noisebank.storage import open_store
from pipelines.cli import main
from tests.support.projects import CAPTIONS, Project, Row
from transforms.work import plan_of

BAD = Row("bad", "/nowhere/missing.mp4", "a video that is not there")
ROWS = ("read", "new", "changed", "unchanged", "removed", "duplicate", "invalid", "filtered", "retried")
REFUSALS = [
    ("captions", "no open plan; run 'noisebank clips' or 'build'"),
    ("noise", "no open plan; run 'noisebank clips' or 'build'"),
    ("index", "no open plan; run 'noisebank clips' or 'build'"),
    ("commit", "no open plan; run 'noisebank clips' or 'build'"),
    ("clips", ""),
    ("index", "captions: a shard of"),
    ("commit", "is not finished; run 'noisebank"),
    ("captions", ""),
    ("commit", "noise/small: a shard of"),
    ("noise", ""),
    ("commit", "index: a shard of 6 rows is not finished; run 'noisebank index' or 'build'"),
    ("index", ""),
    ("commit", ""),
]
"""Commands in turn, and what each says; nothing: it succeeds."""


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file in a folder."""
    stats = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def test_stages_run_one_by_one_give_what_build_gives_and_refuse_when_it_is_too_early(
    project: Project, module_project: Callable[[str], Project]
) -> None:
    whole = module_project("whole")
    for one in (project, whole):
        one.write_list([*one.rows(6), BAD])
        one.configure(max_failed=0.2)
    summary = whole.build()

    for command, said in REFUSALS:
        ran = project.run(command)
        if not said:
            assert ran.exit_code == 0, f"{command}: {ran.stderr}"
            continue
        code, error = (2, "ConfigError") if "no open plan" in said else (1, "JobFailed")
        assert (ran.exit_code, ran.document["error"]["type"]) == (code, error), f"{command} too early"
        assert said in ran.document["error"]["message"]
        assert not list(project.bank.glob("snapshots/*")), command
    assert project.files() == whole.files()
    assert ran.document["rows"] == summary["rows"]
    assert ran.document["committed"] and ran.document["snapshot"] == 1
    assert ran.document["failed_by_code"] == {"missing_file": 1}
    assert project.search(CAPTIONS[2]) == ("mine-clip02", CAPTIONS[2])


def test_commit_publishes_once_and_then_says_what_it_published(project: Project) -> None:
    project.write_list([*project.rows(3), BAD])
    for command in ("clips", "captions", "index", "noise"):
        ran = project.run(command)
        assert ran.exit_code == 0, ran.stderr
        assert ("'commit' would refuse this: 1 of 4 rows failed" in ran.stderr) is (command == "clips")
    for _ in range(2):
        ran = project.run("commit")
        assert ran.exit_code == 1 and "larger max_failed" in ran.document["error"]["message"]
    assert not list(project.bank.glob("snapshots/*"))
    first = project.run("commit", "--max_failed", 0.3).document
    assert first["committed"] and first["rows"]["in_bank"] == 3
    again = project.run("commit", "--max_failed", 0.3)
    assert again.exit_code == 0, again.stderr
    assert (again.document["snapshot"], again.document["committed"]) == (1, False)
    assert again.document["rows"] == first["rows"]
    assert again.document.keys() == first.keys()


def test_a_stage_that_is_finished_does_nothing_again(project: Project) -> None:
    project.write_list(project.rows(3))
    names = {"clips": "clips", "captions": "captions", "noise": "noise/small", "index": "index"}
    for command, name in names.items():
        did = project.run(command).document
        assert {stage: {**figures, "seconds": 0} for stage, figures in did["stages"].items()} == {
            name: {"done": 3, "skipped": 0, "failed": 0, "seconds": 0}
        }
        assert did["stages"][name]["seconds"] > 0
        assert did["rows"] == {**dict.fromkeys(ROWS, 0), "read": 3, "new": 3}
    before = everything(project.bank)
    for command in ("noise", "captions", "index"):
        (figures,) = project.run(command).document["stages"].values()
        assert (figures["done"], figures["skipped"]) == (0, 3)
    assert everything(project.bank) == before
    summary = project.run("commit").document
    assert summary["rows"]["in_bank"] == 3
    assert {stage: figures["done"] for stage, figures in summary["stages"].items()} == {
        "clips": 0,
        "captions": 0,
        "index": 0,
        "noise/small": 0,
    }
    assert {figures["skipped"] for figures in summary["stages"].values()} == {3}


def test_a_stage_says_what_failed_and_that_it_knows_its_plan_alone(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(command: str) -> str:
        assert main([command, "-c", str(project.config_file)]) == 0
        return capsys.readouterr().out

    project.write_list([*project.rows(2), BAD])
    assert "clips: 2 done, 0 skipped, 1 failed, " in said("clips")
    assert project.run("build", "--max_failed", 0.5).document["committed"]
    project.write_list([*project.rows(2), BAD])
    assert "nothing to commit; snapshot 1 is up to date\n" in said("build")
    project.write_list([*project.rows(3), BAD])
    for command in ("captions", "index", "noise", "commit"):
        headline = said(command).splitlines()[0]
        assert headline.startswith(f"{command}: nothing left to do in the plan of ")
        assert headline.endswith("; if lists or options changed since, run 'noisebank clips' or 'build'")
    assert "clips: 1 done, 0 skipped, 0 failed, " in said("clips")
    assert "captions: 1 done, 0 skipped, 0 failed, " in said("captions")


OTHERWISE = [
    (["--noise.small.inverter", "diffuse"], "noise.small.inverter: 'diffuse' in the configuration, 'ddim' in the plan"),
    (["--clips.size", "[64, 128]"], "clips.size: (64, 128) in the configuration, 64 in the plan"),
    (["--noise", "[{name: a}, {name: b}]"], "noise: ['a', 'b'] in the configuration, ['small'] in the plan"),
    (["--sources.mine.name", "other"], "sources: ['other'] in the configuration, ['mine'] in the plan"),
]
"""Flags, and how they differ from the plan."""


@pytest.mark.parametrize(("flags", "said"), OTHERWISE, ids=[flags[0] for flags, _ in OTHERWISE])
def test_a_stage_refuses_what_was_planned_otherwise(project: Project, flags: list[str], said: str) -> None:
    project.write_list(project.rows(1))
    assert project.run("clips").exit_code == 0
    before = everything(project.bank)
    for command in ("captions", "index", "noise", "commit"):
        ran = project.run(command, *flags)
        assert ran.exit_code == 2, command
        assert ran.document["error"]["message"].startswith(said)
        assert "run 'noisebank clips' or 'build'" in ran.document["error"]["message"]
    assert everything(project.bank) == before


def test_options_that_change_no_output_and_the_folder_of_a_model_may_differ(project: Project, tmp_path: Path) -> None:
    project.write_list(project.rows(2))
    assert project.run("clips").exit_code == 0
    moved = shutil.copytree(project.config["noise"][0]["model"], tmp_path / "moved")
    assert project.run("captions", "--captions.batch_size", 1).exit_code == 0
    assert project.run("index").exit_code == 0
    ran = project.run("noise", "--noise.small.model", moved, "--noise.small.batch_size", 1, "--fetch.retries", 0)
    assert ran.exit_code == 0, ran.stderr
    assert project.run("commit", "--max_failed", 0.5).document["rows"]["in_bank"] == 2


def test_a_finished_shard_that_a_plan_takes_over_and_that_is_lost_is_made_again(project: Project) -> None:
    for count in (2, 3):
        project.write_list(project.rows(count))
        assert project.run("clips").exit_code == 0
    for tar in project.bank.glob("clips/*.tar"):
        tar.unlink()
    plan_of.cache_clear()  # (what a worker process has read)
    assert project.build()["rows"]["in_bank"] == 3
    assert project.look("verify")["ok"]


@pytest.mark.parametrize(("command", "flag"), [("captions", "--captions.model"), ("noise", "--noise.small.model")])
def test_a_stage_refuses_another_model(project: Project, tmp_path: Path, command: str, flag: str) -> None:
    project.write_list(project.rows(1))
    assert project.run("clips").exit_code == 0
    model = project.config["captions"]["model"] if command == "captions" else project.config["noise"][0]["model"]
    other = shutil.copytree(model, tmp_path / "other")
    for config in other.rglob("config.json"):  # (a file that loading reads)
        config.write_text(f"{config.read_text()} ")
    ran = project.run(command, flag, other)
    assert ran.exit_code == 2 and f"model '{other}' has digest" in ran.document["error"]["message"]
    assert project.run(command).exit_code == 0


def test_every_configuration_has_an_open_plan_of_its_own(project: Project) -> None:
    project.write_list(project.rows(2))
    project.write_list(project.rows(3, start=5), "others.csv")
    mine = project.config["sources"]
    assert project.run("clips").exit_code == 0
    project.configure(sources=[project.source("others", "others.csv")])
    assert project.run("clips").exit_code == 0
    project.configure(sources=mine)
    for command in ("captions", "index", "noise", "commit"):
        ran = project.run(command)
        assert ran.exit_code == 0, ran.stderr
    assert ran.document["rows"]["read"] == ran.document["rows"]["in_bank"] == 2
    assert dict(read_snapshot(open_store(project.bank)).sources) == {"mine": 2}
    assert project.look("verify")["ok"]


@pytest.mark.parametrize("damage", ["tar gone", "receipt cut"])
def test_plan_leaves_unfinished_work_as_it_is_and_build_makes_it_again(project: Project, damage: str) -> None:
    project.write_list(project.rows(4))
    assert project.run("clips").exit_code == 0
    if damage == "tar gone":
        next(project.bank.glob("clips/*.tar")).unlink()
    else:
        receipt = next(project.bank.glob("clips/*.json"))
        receipt.write_bytes(receipt.read_bytes()[:-9])
    before = everything(project.folder)
    planned = project.run("plan")
    assert planned.exit_code == 0 and planned.document["stages"]["clips"]["rows"] > 0
    assert everything(project.folder) == before
    assert project.build()["rows"]["in_bank"] == 4
    assert project.look("verify")["ok"]


def test_plan_writes_nothing_and_says_what_build_then_does(project: Project) -> None:
    project.write_list([*project.rows(6), project.rows(1)[0], Row("mute", "videos/v07.mp4", "")])
    before = everything(project.folder)
    planned = project.run("plan", "--max_failed", 0.2)
    assert planned.exit_code == 0
    assert everything(project.folder) == before and not project.bank.exists()
    built = project.build("--max_failed", 0.2)
    assert planned.document["rows"] == {**built["rows"], "in_bank": 0}
    assert planned.document["rows"]["duplicate"] == planned.document["rows"]["invalid"] == 1
    stages = {stage: todo["rows"] for stage, todo in planned.document["stages"].items()}
    assert stages == {"clips": 6, "captions": 6, "noise/small": 6}
    assert {stage: built["stages"][stage]["done"] for stage in stages} == stages
    assert planned.document["stages"]["clips"]["shards"] == len(list(project.bank.glob("clips/*.tar")))

    rows = project.rows(7)
    rows[2] = rows[2]._replace(caption="a caption that was corrected")
    project.write_list(rows)
    before = everything(project.folder)
    planned = project.run("plan", "--max_changed", 1)
    assert everything(project.folder) == before
    assert planned.document["parent"] == 1
    built = project.build("--max_changed", 1)
    assert planned.document["rows"] == {**built["rows"], "in_bank": 6}
    stages = {stage: todo["rows"] for stage, todo in planned.document["stages"].items()}
    assert stages == {"clips": 1, "captions": 2, "noise/small": 1}
    assert {stage: built["stages"][stage]["done"] for stage in stages} == stages

    planned = project.run("plan")
    assert {todo["rows"] for todo in planned.document["stages"].values()} == {0}
    assert planned.document["refused"] == []


def test_plan_says_when_build_would_refuse(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_list(project.rows(5))
    project.build()
    rows = project.rows(4)
    project.write_list([rows[0]._replace(caption="other words"), rows[1]._replace(caption="more of them"), *rows[2:]])
    planned = project.run("plan")
    assert planned.exit_code == 0 and planned.document["refused"] == [
        "source mine: 1 of 5 rows removed, more than max_removed 0.1; check its lists, or raise max_removed",
        "source mine: 2 of 5 rows changed, more than max_changed 0.1; check its lists, or raise max_changed",
    ]
    assert main(["plan", "-c", str(project.config_file)]) == 0
    assert "\nbuild would refuse: source mine: 1 of 5 rows removed" in capsys.readouterr().out
    refused = project.run("build")
    assert refused.exit_code == 1
    assert refused.document["error"]["message"] == "; ".join(planned.document["refused"])
    limits = ("--max_removed", 0.2, "--max_changed", 0.4)
    assert project.run("plan", *limits).document["refused"] == []
    assert project.build(*limits)["committed"]


@pytest.mark.parametrize("command", ["plan", "build", "clips"])
def test_a_noise_set_that_cannot_take_the_clips_fails_before_any_work(project: Project, command: str) -> None:
    project.write_list(project.rows(2))
    ran = project.run(command, "--clips.size", "[64, 80]", "--clips.frames", 4, "--noise.small.frames", 5)
    assert ran.exit_code == 2
    assert "noise.small.frames: 5 is not allowed; a clip has 4" in ran.stderr
    assert not project.bank.exists()
