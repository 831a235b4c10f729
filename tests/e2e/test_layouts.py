"""Data as people have it is built with no converter: init makes a source of it, and every row is accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.bank import Bank
from tests.support.layouts import CAPTIONS, LAYOUTS
from tests.support.minilm import MINILM
from tests.support.projects import FRAMES, SIZE, Project, done, noisebank

ENDS = ("new", "changed", "unchanged", "duplicate", "invalid", "filtered")


def init(folder: Path, videos: Path, name: str) -> dict[str, Any]:
    """The source that init finds in a data set of a layout."""
    (folder / "set").mkdir(parents=True)
    LAYOUTS[name](folder / "set", videos)
    ran = noisebank("init", folder / "set", "-o", folder / "bank.yaml")
    assert ran.exit_code == 0, ran.stderr
    (source,) = yaml.safe_load((folder / "bank.yaml").read_text())["sources"]
    assert source == ran.document["source"]
    assert ran.document["videos"] == ran.document["usable"] == 2, "it says what it found"
    return dict(source)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_rows_of_every_layout_are_accounted_for(tmp_path: Path, videos: Path, name: str) -> None:
    source = init(tmp_path, videos, name)
    plan = Bank(tmp_path).plan([source])
    assert {end: plan.counts[end] for end in ("read", *ENDS)} == dict.fromkeys(ENDS, 0) | {
        "read": 3, "new": 2, "invalid": 1,
    }  # fmt: skip
    assert plan.counts["read"] == sum(plan.counts[end] for end in ENDS)


def test_all_layouts_build_as_they_are(project: Project, tmp_path: Path, videos: Path) -> None:
    sources = [{**init(tmp_path / str(i), videos, name), "name": f"s{i}"} for i, name in enumerate(LAYOUTS)]
    project.configure(sources=sources)
    rows = project.build("--max_failed", 0.5)["rows"]
    assert (rows["in_bank"], rows["failed"]) == (2 * len(LAYOUTS), 0)
    assert rows["read"] == sum(rows[end] for end in ENDS) == 3 * len(LAYOUTS)
    assert project.look("show")["sources"] == {f"s{i}": 2 for i in range(len(LAYOUTS))}


def test_a_trial_is_kept_by_the_whole_build_and_moved_videos_change_nothing(project: Project, videos: Path) -> None:
    rows = [row._replace(uri=Path(row.uri).name) for row in project.rows(6)]
    project.write_list(rows)
    source = {**project.source("mine", "list.csv"), "root": str(videos)}
    project.configure(sources=[{**source, "limit": 2}])
    trial = project.build()
    assert (trial["rows"]["new"], trial["rows"]["filtered"], trial["rows"]["in_bank"]) == (2, 4, 2)
    elsewhere = project.folder / "elsewhere"
    elsewhere.symlink_to(videos)
    project.configure(sources=[{**source, "root": str(elsewhere)}])
    whole = project.build()
    assert done(whole)["clips"] == 4
    assert {name: whole["rows"][name] for name in ("new", "unchanged", "changed", "in_bank")} == {
        "new": 4, "unchanged": 2, "changed": 0, "in_bank": 6,
    }  # fmt: skip
    project.configure(sources=[{**source, "where": {"caption": "contains dog"}}])
    refused = project.run("build")
    assert refused.exit_code == 1
    assert "by its filter: where caption contains dog), more than max_removed 0.1" in refused.stderr


def test_videos_with_captions_beside_them_take_three_commands(
    tmp_path: Path, videos: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.mp4").symlink_to(videos / f"v{i:02}.mp4")
        (folder / f"{i}.txt").write_text(f"{CAPTIONS[i % 2]}, number {i}\n")
    monkeypatch.chdir(tmp_path)
    assert noisebank("init", "mine").document["layout"] == "a folder of videos with captions beside them"
    noise = json.dumps([{"name": "small", "model": str(small_model), "inverter": "ddim", "num_inference_steps": 4}])
    small = ["--clips.frames", FRAMES, "--clips.frame_stride", 1, "--clips.size", SIZE, "--captions.model", MINILM]
    built = noisebank("build", "-c", "bank.yaml", *small, "--noise", noise)
    assert built.exit_code == 0 and built.document["rows"]["in_bank"] == 4, built.stderr
    (hit,) = noisebank("search", "bank", f"{CAPTIONS[1]}, number 3", "-k", 1).document["hits"]
    assert hit["id"] == "folder-3"
