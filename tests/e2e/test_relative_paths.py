"""Paths relative to the folder that a command is started in mean the same to workers that start elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from apache_beam.portability.python_urns import SUBPROCESS_SDK

from noisebank.config import config_from_mapping
from noisebank.stages.configured import identify_stages, with_absolute_paths
from tests.support.portable import ROOT, build, portable_project
from tests.support.projects import FRAMES, SIZE


def test_paths_become_absolute_and_addresses_and_hub_ids_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    source = {"kind": "webvid", "path": ["a.csv", "b/{0..3}.csv", "gs://b/*.csv", "https://h/c.csv"], "root": "videos"}
    noise = [{"name": "one", "model": "model"}, {"name": "two", "model": "org/model", "motion_adapter": "model"}]
    document = {"bank": "./bank", "sources": [source], "captions": {"model": "model"}, "noise": noise}
    config = with_absolute_paths(config_from_mapping(document))
    here = str(tmp_path)
    assert config.bank == f"{here}/bank" and config.sources[0].root == f"{here}/videos"
    assert config.sources[0].path == (f"{here}/a.csv", f"{here}/b/{{0..3}}.csv", "gs://b/*.csv", "https://h/c.csv")
    assert [options.model for options in config.noise] == [f"{here}/model", "org/model"]
    assert config.noise[1].motion_adapter == config.captions.model == f"{here}/model"


def test_stages_and_what_the_bank_says_of_models_are_the_same_for_both(
    tmp_path: Path, small_model: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = portable_project(tmp_path / "project", small_model, videos)
    monkeypatch.chdir(project.folder)
    config = config_from_mapping(project.config)
    assert (config.clips.frames, config.clips.size) == (FRAMES, SIZE)
    assert identify_stages(with_absolute_paths(config)) == identify_stages(config)


def test_a_build_with_workers_in_another_folder(tmp_path: Path, small_model: Path, videos: Path) -> None:
    project = portable_project(tmp_path / "project", small_model, videos)
    worker = f"cd / && PYTHONPATH={ROOT} exec {sys.executable} -m apache_beam.runners.worker.sdk_worker_main"
    words = ["--job_endpoint=embed", f"--environment_type={SUBPROCESS_SDK}", f"--environment_config={worker}"]
    build(project, "--runner=PortableRunner", *words)
    assert {path.name for path in project.folder.iterdir()} == {"bank", "bank.yaml", "list.csv", "videos"}
