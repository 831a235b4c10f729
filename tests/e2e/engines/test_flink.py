"""The same job on a real Flink cluster, two TaskManagers with a worker pool between them: the same bank, at once and
stage by stage, whatever is killed meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.flink_cluster import ROOT, FlinkCluster, flink_cluster
from tests.support.portable import PINNED, assert_same, build, portable_project, run_in_folder
from tests.support.projects import Project
from tests.support.servers import VideoServer

pytestmark = pytest.mark.engines
SLOW = "/hang/v05.mp4"
KEPT = "--environment_cache_millis=20000"
"""Where nobody is killed, workers are kept from stage to stage."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    with flink_cluster(tmp_path_factory.mktemp("flink") / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def web(videos: Path) -> Iterator[VideoServer]:
    """Serves one of the videos, for which one shard of clips must wait while it is not healthy."""
    with VideoServer(videos) as server:
        server.healthy = True
        yield server


@pytest.fixture(scope="module")
def make_project(
    tmp_path_factory: pytest.TempPathFactory, small_model: Path, videos: Path, web: VideoServer
) -> Callable[..., Project]:
    def make(name: str, **options: Any) -> Project:
        folder = tmp_path_factory.mktemp(name) / "project"
        project = portable_project(folder, small_model, videos, second_set=True, **options)
        rows = (folder / "list.csv").read_text()
        (folder / "list.csv").write_text(rows.replace("videos/v05.mp4", f"{web.url}{SLOW}"))
        project.configure(fetch={**project.config["fetch"], "timeout": 60})
        return project

    return make


@pytest.fixture(scope="module")
def expected(make_project: Callable[..., Project]) -> Path:
    """The bank as this machine's own engine makes it."""
    project = make_project("expected")
    build(project)
    return project.bank


def by_endpoint(cluster: FlinkCluster) -> list[str]:
    """The job server that runs, which need not send Flink the jars that it has already, and the pool."""
    spared = f"--files_to_stage={cluster.job_server_jar()}"
    workers = ["--environment_type=EXTERNAL", f"--environment_config={cluster.pool}"]
    server = ["--runner=PortableRunner", f"--job_endpoint={cluster.job_endpoint}", f"--flink_master={cluster.rest}"]
    return [*server, *workers, "--parallelism=2", spared]


@contextmanager
def running(project: Project, command: str, words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A command in the project's folder."""
    line = [sys.executable, "-m", "pipelines.cli", command, "--json", "-c", "bank.yaml", *words]
    merged = {**os.environ, "PYTHONPATH": str(ROOT), **PINNED}
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, cwd=project.folder, env=merged, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def end_well(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The document of a command that ends well."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def wait_for_worker(cluster: FlinkCluster, seen: int, line: str) -> int:
    """The process id of the first worker that says ``line`` (a pattern) in the pool's log after ``seen`` characters."""
    pattern = re.compile(rf"\[(\d+)\] {line}")
    found = cluster.wait_for(lambda: pattern.search(cluster.log("pool"), seen), f"a worker says {line!r}", 400)
    return int(found[1])


def test_at_once_by_the_address_of_the_cluster(
    cluster: FlinkCluster, make_project: Callable[..., Project], expected: Path
) -> None:
    """A relative bank, two noise sets, an accelerator hint; and shards of each stage on both TaskManagers' workers."""
    project, seen = make_project("at-once", accelerator=True), len(cluster.log("pool"))
    master = [f"--flink_master={cluster.rest}", f"--flink_job_server_jar={cluster.job_server_jar()}"]
    workers = ["--environment_type=EXTERNAL", f"--environment_config={cluster.pool}"]
    build(project, "--runner=FlinkRunner", *master, *workers, "--parallelism=2", KEPT)
    assert_same([expected, project.bank])
    made = defaultdict(set)
    for worker, stage in re.findall(r"\[(\d+)\] ([\w/]+)(?: of \S+)?: \d+ made", cluster.log("pool")[seen:]):
        made[stage].add(worker)
    assert {stage: len(workers) for stage, workers in made.items()} == {
        "clips": 2, "captions": 2, "noise/small": 2, "noise/second": 2, "index": 1,
    }  # fmt: skip


def test_stage_by_stage_though_workers_are_killed_and_a_job_is_cancelled(
    cluster: FlinkCluster, make_project: Callable[..., Project], expected: Path, web: VideoServer
) -> None:
    project, words = make_project("by-stage"), by_endpoint(cluster)

    cluster.wait_for(lambda: not cluster.workers(), "workers of other jobs are ended")
    web.healthy, seen = False, len(cluster.log("pool"))
    with running(project, "clips", words) as command:
        first, *_ = cluster.wait_for(cluster.workers, "a worker is started", 300)
        os.kill(first, signal.SIGKILL)  # (before it connects)
        cluster.wait_for(lambda: web.requests[SLOW], "a shard waits for its video", 300)
        cluster.wait_for(lambda: len(re.findall("clips: . made", cluster.log("pool")[seen:])) > 1, "two are made", 300)
        (job,) = cluster.jobs()
        cluster.cancel(job)
        _, err = command.communicate(timeout=300)
    assert command.returncode == 1
    assert "the job ended as CANCELLED; run the same command again to go on from what is finished" in err
    assert f"process {first}: killed by SIGKILL before it worked; starts it again" in cluster.log("pool")
    web.healthy = True
    clips = run_in_folder(project, "clips", *words, KEPT)["stages"]["clips"]
    assert clips["skipped"] and clips["done"]

    run_in_folder(project, "captions", *words, KEPT)
    run_in_folder(project, "index", *words[:3], "--parallelism=2")  # (with workers of the command's own)

    seen = len(cluster.log("pool"))
    with running(project, "noise", words) as command:
        worker = wait_for_worker(cluster, seen, "noise/small: on cpu ")
        os.kill(worker, signal.SIGKILL)  # (in the middle of a shard)
        end_well(command)
    assert not re.search(rf"\[{worker}\] noise/small of ", cluster.log("pool"))
    assert f"process {worker}: killed by SIGKILL at its work" in cluster.log("pool")

    run_in_folder(project, "commit", *words, KEPT)
    assert_same([expected, project.bank])


def test_a_task_manager_is_killed_where_the_other_has_slots_for_its_work(
    cluster: FlinkCluster, make_project: Callable[..., Project], expected: Path
) -> None:
    project, seen = make_project("task-manager"), len(cluster.log("pool"))
    with running(project, "build", by_endpoint(cluster)) as command:
        wait_for_worker(cluster, seen, "noise/small: on cpu .*\n(.*\n)*.*noise/small: on cpu ")
        cluster.kill("tm2")
        summary = end_well(command)
    assert cluster.task_managers() == ["tm1"]
    assert summary["committed"]
    assert_same([expected, project.bank])
    cluster.wait_for(lambda: not cluster.workers(), "the workers of both TaskManagers are ended")
    cluster.start_task_manager("tm2")
