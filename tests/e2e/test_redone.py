"""A change that would make a built bank again is refused before any work; a change that changes nothing is not one."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.support.hub import HubCache
from tests.support.projects import Project, done, noisebank
from tests.support.servers import VideoServer

ID = "noisebank/small"


def test_another_size_of_clips_is_refused_before_anything_is_fetched(project: Project, server: VideoServer) -> None:
    project.write_list(project.rows(3, address=server.url))
    project.build()
    server.requests.clear()
    files = project.files()
    project.configure(clips={**project.config["clips"], "size": 80})
    for command in ("build", "clips"):
        refused = project.run(command)
        assert refused.exit_code == 1
        message = refused.document["error"]["message"]
        assert "clips: 3 of 3 records would be made again" in message and "clips.size was 64, is 80" in message
        assert "max_redone 0.1" in message and "--max-redone 1" in message
    assert project.run("noise").exit_code == 1, "a stage on its own does not go past the gate either"
    assert not server.requests and project.files() == files and project.look("show")["snapshot"] == 1
    planned = project.run("plan").document
    assert planned["redone"] == {"clips": {"records": 3, "redone": 3}}
    assert "max_redone" in planned["refused"][0]
    allowed = project.build("--max-redone", 1)
    assert done(allowed) == {"clips": 3, "noise/small": 3}
    assert project.run("plan").document["redone"] == {}


def test_a_commit_to_the_readme_of_a_model_and_the_same_files_in_a_folder_redo_nothing(
    project: Project, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, copy = HubCache(tmp_path / "hub"), shutil.copytree(small_model, tmp_path / "copy")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache.folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    first = cache.commit(ID, copy, "a")
    noise = project.config["noise"][0]
    project.write_list(project.rows(2))
    project.configure(noise=[{**noise, "model": ID}])
    assert project.build()["rows"]["in_bank"] == 2
    (copy / "README.md").write_text("now with an example")
    cache.commit(ID, copy, "b")
    for model in (ID, f"{ID}@{first}", str(copy), str(small_model)):
        project.configure(noise=[{**noise, "model": model}])
        again = project.run("plan").document
        assert again["stages"]["noise/small"] == {"rows": 0, "shards": 0} and again["redone"] == {}
    assert not project.build()["committed"]
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    cache.commit(ID, copy, "c")
    project.configure(noise=[{**noise, "model": ID}])
    refused = project.run("build")
    assert refused.exit_code == 1
    assert "noise/small: 2 of 2 records would be made again" in refused.document["error"]["message"]
    assert "the model's files was " in refused.document["error"]["message"]
    project.configure(noise=[{**noise, "model": ID, "revision": first}])
    assert not project.build()["committed"]
    assert noisebank("verify", project.bank).document["ok"]
