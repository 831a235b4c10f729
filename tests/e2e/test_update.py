"""A bank that lives: a second build does only what is missing, and a build that was killed goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from noisebank.stages import noise as noise_stage
from tests.support.projects import CAPTIONS, Project, Row, done
from tests.support.servers import VideoServer

ROOT = Path(__file__).parents[2]
LOOSE = ["--max_removed", 1, "--max_changed", 1]


def network_calls(bank: Path) -> int:
    """Calls of the model's network over all noise files of a bank, as their statistics say."""
    files = [pa.ipc.open_file(path.read_bytes()).read_all() for path in bank.glob("noise/*/*.arrow")]
    return sum(sum(file.column("network_calls").to_pylist()) for file in files)


def test_only_what_is_missing_is_done(project: Project, server: VideoServer) -> None:
    first = project.rows(6, address=server.url)
    project.write_list(first)
    assert done(project.build()) == {"clips": 6, "captions": 6, "index": 6, "noise/small": 6}
    calls = network_calls(project.bank)
    assert calls == 6 * 4

    new, moved = project.rows(1, start=6, address=server.url)[0], first[1]._replace(uri=f"{server.url}/v07.mp4")
    edited = first[2]._replace(caption="a robot paints a portrait")
    project.write_list([first[0], moved, edited, *first[4:], new])  # (without first[3])
    server.requests.clear()
    second = project.build(*LOOSE)
    assert set(server.requests) == {"/v06.mp4", "/v07.mp4"}
    assert {name: count for name, count in second["rows"].items() if count} == {
        "read": 6,
        "new": 1,
        "changed": 2,
        "unchanged": 3,
        "removed": 1,
        "in_bank": 6,
    }
    assert (second["snapshot"], second["parent"], second["committed"]) == (2, 1, True)
    assert done(second) == {"clips": 2, "captions": 2, "index": 2, "noise/small": 2}
    assert network_calls(project.bank) == calls + 2 * 4

    assert project.search("a robot paints a portrait") == ("mine-clip02", "a robot paints a portrait")
    assert project.search(new.caption) == ("mine-clip06", new.caption)
    hits = project.look("search", first[3].caption, "-k", 10)["hits"]
    assert sorted(hit["id"] for hit in hits) == [f"mine-clip{i:02}" for i in (0, 1, 2, 4, 5, 6)]
    assert CAPTIONS[2] not in {hit["caption"] for hit in project.look("search", CAPTIONS[2], "-k", 10)["hits"]}
    assert project.look("verify")["ok"]
    old = project.look("search", first[3].caption, "-k", 1, "--snapshot", 1)["hits"][0]
    assert (old["id"], old["caption"]) == ("mine-clip03", first[3].caption)


def test_a_changed_caption_fetches_and_inverts_nothing(project: Project, server: VideoServer) -> None:
    rows = project.rows(4, address=server.url)
    project.write_list(rows)
    project.build()
    noise = sorted(project.look("files", "--kind", "noise")["files"])
    rows[1] = rows[1]._replace(caption="a lighthouse in the fog")
    project.write_list(rows)
    server.requests.clear()
    summary = project.build(*LOOSE)
    assert not server.requests
    assert done(summary) == {"captions": 1, "index": 1}
    assert sorted(project.look("files", "--kind", "noise")["files"]) == noise
    assert project.search("a lighthouse in the fog") == ("mine-clip01", "a lighthouse in the fog")


def test_an_unchanged_input_commits_nothing(project: Project) -> None:
    project.write_list(
        [*project.rows(3), Row("bad", "videos/missing.mp4", "not there"), Row("mute", "videos/v5.mp4", "")]
    )
    project.build("--max_failed", 0.5)
    files, failures = project.files(), project.failures()
    again = project.build()
    assert (again["committed"], again["snapshot"], again["stages"]) == (False, 1, {})
    assert again["rows"]["unchanged"] == 4 and again["rows"]["invalid"] == 1
    assert again["rows"]["in_bank"] == 3 and again["rows"]["failed"] == 0
    assert project.files() == files and project.failures() == failures
    assert len(list(project.bank.glob("snapshots/*"))) == 1


def test_a_build_with_nothing_to_do_leaves_every_file_of_the_bank_as_it_was(project: Project) -> None:
    rows = project.rows(3)
    bad = [Row("bad", "videos/missing.mp4", "not there"), Row("mute", "videos/v05.mp4", "")]
    project.write_list([*rows, *bad, rows[0], rows[1]._replace(caption="listed before")])
    project.build("--max_failed", 0.5)
    before, paths = project.hashes(), sorted(project.bank.rglob("*"))
    for flags in ([], ["--max_failed", 0], ["--direct_runner_bundle_repeat=1"], ["--direct_num_workers=2"]):
        summary = project.build(*flags)
        assert (summary["committed"], summary["snapshot"], summary["stages"]) == (False, 1, {})
        counts = {name: count for name, count in summary["rows"].items() if count}
        assert counts == {"read": 7, "unchanged": 4, "invalid": 1, "duplicate": 2, "in_bank": 3}
        assert project.hashes() == before and sorted(project.bank.rglob("*")) == paths, flags
    planned = project.run("plan")
    assert {todo["rows"] for todo in planned.document["stages"].values()} == {0}
    assert project.hashes() == before and sorted(project.bank.rglob("*")) == paths


def test_a_model_that_the_bank_was_made_with_is_not_checked_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []
    check = noise_stage.check_model
    monkeypatch.setattr(noise_stage, "check_model", lambda *words: (checked.append(words), check(*words))[1])
    project.write_list(project.rows(2))
    for wanted, words in [(1, []), (1, []), (2, ["--noise.small.num_inference_steps", 5]), (3, ["--clips.frames", 3])]:
        project.build(*words, "--max_redone", 1)
        assert len(checked) == wanted


def test_a_row_that_only_became_invalid_keeps_its_clip_and_the_failure_is_committed(project: Project) -> None:
    rows = project.rows(3)
    project.write_list(rows)
    project.build()
    project.write_list([rows[0]._replace(caption=" "), *rows[1:]])
    summary = project.build(*LOOSE, "--max_failed", 1)
    assert summary["committed"] and summary["rows"]["in_bank"] == 3 and summary["rows"]["invalid"] == 1
    assert project.failures() == {"mine-clip00": "empty_caption"}
    assert project.search(CAPTIONS[0]) == ("mine-clip00", CAPTIONS[0])


def test_a_changed_row_whose_new_video_is_gone_keeps_its_old_record(project: Project) -> None:
    rows = project.rows(3)
    project.write_list(rows)
    project.build()
    files = project.look("files", "--kind", "noise")["files"]
    project.write_list([rows[0]._replace(uri="videos/taken_down.mp4"), *rows[1:]])
    summary = project.build(*LOOSE, "--max_failed", 1)
    assert summary["rows"]["changed"] == summary["rows"]["failed"] == 1 and summary["rows"]["in_bank"] == 3
    assert project.failures() == {"mine-clip00": "missing_file"}
    assert project.search(CAPTIONS[0]) == ("mine-clip00", CAPTIONS[0])
    assert project.look("files", "--kind", "noise")["files"] == files


def test_a_new_noise_set_inverts_the_tars_that_exist(project: Project, server: VideoServer) -> None:
    project.write_list(project.rows(5, address=server.url))
    project.build()
    (small,) = project.config["noise"]
    project.configure(noise=[small, {**small, "name": "finer", "num_inference_steps": 6}])
    server.requests.clear()
    summary = project.build()
    assert not server.requests
    assert done(summary) == {"noise/finer": 5}
    shown = project.look("show")
    assert {name: (noise["records"], noise["num_inference_steps"]) for name, noise in shown["noise"].items()} == {
        "small": (5, 4),
        "finer": (5, 6),
    }
    assert summary["rows"]["in_bank"] == 5


def test_other_options_of_the_clips_redo_what_depends_on_them(project: Project, server: VideoServer) -> None:
    project.write_list(project.rows(4, address=server.url))
    project.build()
    project.configure(clips={**project.config["clips"], "frame_stride": 2}, max_redone=1)
    server.requests.clear()
    summary = project.build()
    assert sum(server.requests.values()) == 4
    assert done(summary) == {"clips": 4, "noise/small": 4}
    assert summary["rows"]["unchanged"] == summary["rows"]["in_bank"] == 4


def test_a_clip_that_other_options_take_away_is_not_found_any_more(project: Project) -> None:
    rows, video = project.rows(3), project.folder / "own.mp4"
    rows[1] = rows[1]._replace(uri=video.name)
    shutil.copy(project.folder / "videos" / "v01.mp4", video)
    project.write_list(rows)
    project.build()
    video.rename(project.folder / "elsewhere.mp4")
    project.configure(clips={**project.config["clips"], "frame_stride": 2}, max_redone=1)
    assert project.build("--max_failed", 1)["rows"]["in_bank"] == 2
    assert project.failures() == {"mine-clip01": "missing_file"}
    assert project.search(rows[1].caption)[0] != "mine-clip01"
    assert project.look("show")["index"]["size"] == 2
    assert project.look("verify")["ok"]

    (project.folder / "elsewhere.mp4").rename(video)
    again = done(project.build("--retry_failures"))
    assert again.pop("index") in (1, 3)  # (a segment of its own, or all merged)
    assert again == {"clips": 1, "captions": 1, "noise/small": 1}
    assert project.search(rows[1].caption) == ("mine-clip01", rows[1].caption)


def test_a_source_left_out_keeps_its_rows_until_prune(project: Project) -> None:
    rows = project.rows(6)
    project.write_list(rows[:4])
    project.write_list(rows[4:], "yours.csv")
    mine, yours = project.source("mine", "list.csv"), project.source("yours", "yours.csv")
    project.configure(sources=[mine, yours])
    project.build()
    project.configure(sources=[mine])
    kept = project.build()
    assert (kept["committed"], kept["rows"]["in_bank"]) == (False, 6)
    assert project.search(rows[5].caption)[0] == "yours-clip05"
    pruned = project.build("--prune")
    assert (pruned["rows"]["removed"], pruned["rows"]["in_bank"]) == (2, 4)
    found = {hit["id"] for hit in project.look("search", rows[5].caption, "-k", 10)["hits"]}
    assert found == {f"mine-clip{i:02}" for i in range(4)}


def test_a_list_cut_in_half_stops_the_build(project: Project) -> None:
    rows = project.rows(6)
    project.write_list(rows)
    project.build()
    project.write_list(rows[:3])
    stopped = project.run("build")
    assert stopped.exit_code == 1
    assert "source mine: 3 of 6 rows removed, more than max_removed 0.1" in stopped.document["error"]["message"]
    assert project.look("show")["snapshot"] == 1
    project.write_list([row._replace(caption=f"not {row.caption}") for row in rows])
    stopped = project.run("build")
    assert "source mine: 6 of 6 rows changed, more than max_changed 0.1" in stopped.document["error"]["message"]
    assert project.build("--max_changed", 1)["rows"]["changed"] == 6


def test_a_list_that_changed_before_anything_was_published_keeps_the_finished_work(
    project: Project, server: VideoServer
) -> None:
    """Stages without a commit leave what a build does that is killed at its end."""
    rows = project.rows(6, address=server.url)
    project.write_list(rows)
    for stage in ("clips", "captions", "noise", "index"):
        assert project.run(stage).exit_code == 0
    edited = rows[1]._replace(caption="a robot paints a portrait")
    added = project.rows(1, start=6, address=server.url)[0]
    project.write_list([edited, *rows[2:], added])
    server.requests.clear()
    summary = project.build()
    assert server.requests == {"/v06.mp4": 1}
    assert {name: count for name, count in summary["rows"].items() if count} == {"read": 6, "new": 6, "in_bank": 6}
    assert done(summary) == {"clips": 1, "captions": 2, "index": 6, "noise/small": 1}
    for row in (edited, *rows[2:], added):
        assert project.search(row.caption) == (f"mine-{row.id}", row.caption)
        said = project.look("sample", row.caption, "--eta", "inf", "-o", project.folder / "latents.safetensors")
        assert said["id"] == f"mine-{row.id}"
    assert len(project.look("search", rows[0].caption, "-k", 10)["hits"]) == 6
    assert project.look("verify")["ok"]
    again = project.build()
    assert (again["committed"], again["stages"]) == (False, {})


@pytest.fixture(scope="module")
def undisturbed(module_project: Callable[[str], Project]) -> dict[str, str]:
    """The files of a bank whose build nobody disturbed."""
    project = module_project("undisturbed")
    project.write_list(project.rows(8))
    project.build()
    return project.files()


@pytest.mark.parametrize("moment", ["clips/*.json", "noise/small/*.json"])
def test_a_build_that_was_killed_goes_on_to_the_same_bank(
    project: Project, undisturbed: dict[str, str], moment: str
) -> None:
    """Killed as soon as the first receipt of a stage is there."""
    project.write_list(project.rows(8))
    command = [sys.executable, "-m", "pipelines.cli", "build", "-c", str(project.config_file)]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as build:
        while not list(project.bank.glob(moment)):
            assert build.poll() is None, (build.stderr or sys.stderr).read()
            time.sleep(0.002)
        os.killpg(build.pid, signal.SIGKILL)
    assert build.returncode == -signal.SIGKILL
    assert not list(project.bank.glob("snapshots/*"))
    finished = {path: path.stat().st_mtime_ns for path in project.bank.glob("*/*.tar")}
    summary = project.build()
    assert project.files() == undisturbed
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    clips = summary["stages"]["clips"]
    assert clips["done"] + clips["skipped"] == 8 and clips["skipped"] > 0
