"""Kills builds with SIGKILL at random moments and compares the bank with one that nobody disturbed, byte for byte.

    python -m tests.support.kill --kills 50 --seed 1

The build that is killed is an update with rows of all kinds. It is started again, perhaps killed again, until it ends;
then every file of the snapshot must be the same, and the snapshot too but for times and random names.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.storage import open_store
from tests.support.projects import Project, Row, write_videos
from tests.support.servers import VideoServer

FLAGS = ("--max_failed", "1", "--max_changed", "1", "--max_removed", "1")
PRELOADED = (
    "pipelines.jobs",
    "apache_beam.runners.portability.fn_api_runner",
    "sentence_transformers",
    "transformers.models.bert.modeling_bert",
    "transformers.models.clip.modeling_clip",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_3d_condition",
    "diffusers.schedulers",
)
"""What takes long to import; a fork server has it, so that every moment of a child is one of its build."""
_OF_THIS_RUN = ("uuid", "run_id", "created", "stages", "digest")


@dataclass
class Kills:
    """What was done.

    Args:
        moments: how many kills there were, by the last thing that was finished in the bank before.
        ends: how many times the build came to its end, each time with the bank as it should be.
    """

    moments: Counter[str] = field(default_factory=Counter)
    ends: int = 0


def kill_builds(project: Project, server: VideoServer, kills: int, seed: int) -> Kills:
    """Kills an update of ``project`` that many times; raises AssertionError when the bank is ever another.

    Args:
        project: with an empty bank.
        server: serves its videos, and fails for some rows.
        kills: how many.
        seed: of the moments.
    """
    first, second = _lists(project, server)
    project.configure(clips={**project.config["clips"], "maxcount": 2})
    project.write_list(first)
    assert run_build(project.config_file)[0] == 0
    before = project.folder / "before"
    shutil.copytree(project.bank, before)
    project.write_list(second)
    exit_code, seconds = run_build(project.config_file)
    assert exit_code == 0
    expected = _state(project)

    chance = random.Random(seed)
    done = Kills()
    while done.moments.total() < kills:
        shutil.rmtree(project.bank)
        shutil.copytree(before, project.bank)
        while _latest(project).number == 1:
            is_last = done.moments.total() == kills or chance.random() < 0.2
            exit_code, _ = run_build(project.config_file, None if is_last else chance.uniform(0, seconds))
            if exit_code == -signal.SIGKILL:
                done.moments[_reached(project)] += 1
            else:
                assert exit_code == 0
            assert project.look("verify")["ok"]
        assert _state(project) == expected
        done.ends += 1
    return done


def _lists(project: Project, server: VideoServer) -> tuple[list[Row], list[Row]]:
    """Two lists; between them rows are new, removed, changed in every way, missing, unavailable, invalid, repeated."""
    rows = project.rows(10, address=server.url)
    missing = Row("missing", f"{server.url}/404/v00.mp4", "a video that is not there")
    unavailable = Row("unavailable", f"{server.url}/broken/v01.mp4", "a video that may be there again")
    mute = Row("mute", f"{server.url}/v02.mp4", " ")
    first = [*rows[:6], missing, rows[0]]
    moved = rows[1]._replace(uri=f"{server.url}/v10.mp4")
    taken_down = rows[2]._replace(uri=f"{server.url}/404/v02.mp4")
    edited = rows[3]._replace(caption="a robot paints a portrait")
    return first, [rows[0], moved, taken_down, edited, rows[4], *rows[6:], missing, unavailable, mute, rows[6]]


def run_build(config_file: Path, kill_after: float | None = None) -> tuple[int | None, float]:
    """Exit code and seconds of a build in a process group of its own, killed after some seconds."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(list(PRELOADED))
    ready, told = processes.Pipe(duplex=False)
    child: BaseProcess = processes.Process(target=_build, args=(told, str(config_file)))
    child.start()
    ready.recv()
    began = time.monotonic()
    if kill_after is not None:
        child.join(kill_after)
        if child.exitcode is None and child.pid is not None:
            os.killpg(child.pid, signal.SIGKILL)
    child.join()
    return child.exitcode, time.monotonic() - began


def _build(told: Connection, config_file: str) -> None:
    """The child: a build, from the moment when its modules are there."""
    from pipelines.cli import main

    os.setsid()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = sys.stderr = nowhere
        told.send("ready")
        sys.exit(main(["build", "-c", config_file, *FLAGS]))


def _state(project: Project) -> tuple[dict[str, str], dict[str, Any]]:
    """The content of every file of the newest snapshot, and what it says itself."""
    document = json.loads((project.bank / _latest(project).path).read_bytes())
    return project.files(), {name: value for name, value in document.items() if name not in _OF_THIS_RUN}


def _reached(project: Project) -> str:
    """How far the build that updates the first snapshot had come."""
    if _latest(project).number > 1:
        return "committed"
    shards = {stage: len(list(project.bank.glob(f"{stage}/*.json"))) for stage in ("clips", "captions", "noise/small")}
    plans = len(list(project.bank.glob("plans/*/plan.json")))
    return ", ".join([f"{plans} plans", *(f"{count} {stage}" for stage, count in shards.items())])


def _latest(project: Project) -> Snapshot:
    return read_snapshot(open_store(project.bank))


def main() -> None:
    """Runs the whole in a temporary folder and prints at which moments builds were killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    from noisebank.fixtures.small_models import make_small_model

    with tempfile.TemporaryDirectory(prefix="noisebank-kill-") as scratch:
        folder = Path(scratch)
        (folder / "videos").mkdir()
        videos = write_videos(folder / "videos", 11)
        model = make_small_model("modelscope", folder / "model")
        with VideoServer(videos) as server:
            done = kill_builds(Project(folder / "project", model, videos), server, arguments.kills, arguments.seed)
    for moment, count in sorted(done.moments.items()):
        print(f"{count:3} killed at: {moment}")
    print(f"{done.moments.total()} kills; {done.ends} builds came to their end, every bank the same byte for byte")


if __name__ == "__main__":
    main()
