"""What a node does with its devices: models are tried before anything is fetched, and clips inverted while others are
being fetched."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from noisebank.config import load_config
from pipelines.jobs import run_stages
from tests.support.projects import Project
from tests.support.servers import VideoServer

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def break_model(model: Path, folder: Path) -> Path:
    """A copy of a model with NaN where a weight was."""
    broken = shutil.copytree(model, folder)
    weights = load_file(broken / WEIGHTS)
    weights["conv_out.bias"].fill_(float("nan"))
    save_file(weights, broken / WEIGHTS, metadata={"format": "pt"})
    return broken


def test_a_broken_model_fails_before_the_first_fetch(
    project: Project, server: VideoServer, small_model: Path, tmp_path: Path
) -> None:
    project.write_list(project.rows(3, address=server.url))
    broken = break_model(small_model, tmp_path / "broken")
    for command in (["build"], ["plan", "--probe"]):
        ran = project.run(*command, "--noise.small.model", broken)
        assert ran.exit_code == 1, ran.stderr
        assert f"noise.small: model '{broken}' on cpu" in ran.document["error"]["message"]
        assert "gives noise with NaN or infinite values for a made-up clip" in ran.document["error"]["message"]
        assert not server.requests
    assert project.build()["rows"]["in_bank"] == 3
    assert sum(server.requests.values()) == 3


def test_a_build_says_once_what_its_model_takes_and_loads_none_without_work(project: Project) -> None:
    project.write_list(project.rows(2))
    (line,) = (line for line in project.run("build").stderr.splitlines() if "a made-up one" in line)
    assert "noise/small: on cpu (torch sees no GPU here) in float32, 4 clips a batch, at least " in line
    assert "; the plan's 2 clips: at least " in line and line.endswith(" s, and 0.0041 MB")
    assert "a made-up one" not in project.run("build").stderr
    probed = project.run("plan", "--probe").document["probe"]["noise/small"]
    assert probed["device"].startswith("cpu") and probed["batch_size"] == 4 and probed["seconds_a_clip"] > 0


def test_a_gpu_that_is_not_there_is_a_usage_error(project: Project, server: VideoServer) -> None:
    project.write_list(project.rows(1, address=server.url))
    ran = project.run("build", "--noise.small.device", "cuda")
    assert ran.exit_code == 2 and "device 'cuda': torch sees no GPU here" in ran.document["error"]["message"]
    assert not server.requests
    assert project.run("clips", "--noise.small.device", "cuda").exit_code == 0


def test_noise_that_follows_clips_gives_the_files_of_a_build(
    project: Project, module_project: Callable[[str], Project], server: VideoServer
) -> None:
    whole = module_project("whole")
    for one in (project, whole):
        one.configure(clips={**one.config["clips"], "maxcount": 2})
        one.write_list(
            [*one.rows(7, address=server.url), one.rows(1, address=f"{server.url}/404")[0]._replace(id="bad")]
        )
    whole.build("--max_failed", 0.2)
    project.configure(max_failed=0.2)
    config = load_config(project.config_file)
    assert project.run("noise", "--follow", 0.05).exit_code == 2  # (there is no plan yet)

    with ThreadPoolExecutor(2) as pool:
        clips = pool.submit(run_stages, config, [], "clips")
        while not list(project.bank.glob("plans/*/plan.json")):
            assert not clips.done(), clips.result()
            time.sleep(0.01)
        noise = pool.submit(run_stages, config, [], "noise", 0.05)
        made = clips.result()["stages"]["clips"], noise.result()["stages"]["noise/small"]
    assert [(figures["done"], figures["failed"]) for figures in made] == [(7, 1), (7, 0)]
    assert not list(project.bank.glob("snapshots/*"))
    again = project.run("noise", "--follow").document["stages"]["noise/small"]
    assert (again["done"], again["skipped"]) == (0, 7)
    for command in ("captions", "index", "commit"):
        assert project.run(command).exit_code == 0
    assert project.files() == whole.files()


def test_shards_are_inverted_before_the_clips_of_others_are_finished(project: Project) -> None:
    project.configure(clips={**project.config["clips"], "maxcount": 2})
    project.write_list(project.rows(6))
    assert project.run("clips").exit_code == 0
    unfinished, *_ = sorted(project.bank.glob("clips/*.json"))
    held = unfinished.read_bytes()
    unfinished.unlink()
    with ThreadPoolExecutor(1) as pool:
        noise = pool.submit(run_stages, load_config(project.config_file), [], "noise", 0.05)
        try:
            while len(list(project.bank.glob("noise/small/*.json"))) < 2:
                assert not noise.done(), noise.result()
                time.sleep(0.01)
            assert not noise.done()
        finally:
            unfinished.write_bytes(held)
        assert noise.result()["stages"]["noise/small"]["done"] == 6


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--follow", "0"], "--follow: 0 is not allowed; from above 0 to 86400 seconds are"),
        (["--follow", "--runner=PrismRunner"], "--follow: it runs on this machine alone; leave out --runner"),
    ],
)
def test_what_cannot_be_followed_is_refused(project: Project, flags: list[str], said: str) -> None:
    project.write_list(project.rows(1))
    ran = project.run("noise", *flags)
    assert (ran.exit_code, ran.document["error"]["message"]) == (2, said)
