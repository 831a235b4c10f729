"""A real Flink cluster on loopback, each of its parts a process: a JobManager, TaskManagers, Beam's job server and our
worker pool, which both TaskManagers share.

    python -m tests.support.flink_cluster FOLDER

keeps one running, for trying out; its logs are in the folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from tests.support.emulators import free_port, listens
from tests.support.jars import find_class_path
from tests.support.portable import PINNED

T = TypeVar("T")
START_S = 120
_OPENED = ("lang", "lang.reflect", "net", "nio", "text", "time", "util", "util.concurrent")
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
ROOT = Path(__file__).parents[2]


class FlinkCluster:
    """Started by :func:`flink_cluster`.

    Args:
        folder: for configurations, logs and temporary files.
        class_path: of the jars of Flink and of Beam's runner for it.

    Attributes:
        rest: host and port of Flink's REST API, which is what ``--flink_master`` names.
        job_endpoint: of the job server.
        pool: address of the worker pool.
    """

    def __init__(self, folder: Path, class_path: str) -> None:
        self.folder, self._class_path = folder, class_path
        ports = [free_port() for _ in range(5)]
        self.rest, self.job_endpoint, self.pool = (f"localhost:{port}" for port in ports[:3])
        self._rpc, self._artifacts = ports[3:]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "tmp").mkdir(parents=True)
        self._write_configuration()

    def _write_configuration(self) -> None:
        sizes = {"framework.heap": "128m", "framework.off-heap": "64m", "task.heap": "512m", "task.off-heap": "64m"}
        memory = {f"{name}.size": size for name, size in sizes.items()}
        memory |= {"managed.size": "64m", "jvm-metaspace.size": "256m"}
        memory |= {f"{name}.{end}": size for name, size in (("network", "256m"), ("jvm-overhead", "128m"))
                   for end in ("min", "max")}  # fmt: skip
        host, _, port = self.rest.partition(":")
        settings = {
            "jobmanager.rpc.address": host,
            "jobmanager.rpc.port": self._rpc,
            "jobmanager.memory.process.size": "768m",
            "rest.address": host,
            "rest.port": int(port),
            "taskmanager.host": host,
            "taskmanager.cpu.cores": 1.0,
            "taskmanager.numberOfTaskSlots": 2,
            **{f"taskmanager.memory.{name}": size for name, size in memory.items()},
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 20,
            "restart-strategy.fixed-delay.delay": "5 s",
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 6000,
            "slot.request.timeout": 20000,
            "cluster.evenly-spread-out-slots": True,
            "classloader.resolve-order": "parent-first",
            "io.tmp.dirs": str(self.folder / "tmp"),
        }
        (self.folder / "conf").mkdir()
        (self.folder / "conf" / "config.yaml").write_text(yaml.safe_dump(settings))

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Starts a process, whose log is ``<name>.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []  # (it ends with this one)
            merged, silent = {**os.environ, **(environment or {})}, subprocess.DEVNULL
            self._processes[name] = subprocess.Popen(
                [*bound, *command], env=merged, cwd=self.folder, stdin=silent, stdout=log, stderr=log
            )

    def start_java(self, name: str, main: str, memory: Sequence[str], words: Sequence[str]) -> None:
        """Starts a part of Flink's or Beam's."""
        opens = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED]
        frugal = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *memory]
        self.start(name, ["java", *frugal, *opens, "-cp", self._class_path, main, *words])

    def start_task_manager(self, name: str) -> None:
        """Starts a TaskManager of two slots; it is there when :meth:`task_managers` has it."""
        words = ["--configDir", str(self.folder / "conf"), "-D", f"taskmanager.resource-id={name}"]
        self.start_java(name, _TASK_MANAGER, ["-Xmx640m", "-XX:MaxDirectMemorySize=448m"], words)

    def start_pool(self, *words: str) -> None:
        """Starts the worker pool."""
        _, _, port = self.pool.partition(":")
        python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "runners.worker_pool", "--port", port, *words]
        self.start("pool", command, {**PINNED, "PYTHONPATH": python_path})
        self.wait_for(lambda: listens(int(port)), "the worker pool listens")

    def job_server_jar(self) -> Path:
        """A jar for ``--flink_job_server_jar``: a manifest that names the others."""
        jars = sorted(Path(self._class_path).parent.glob("*.jar"))
        opens = " ".join(f"java.base/java.{package}" for package in _OPENED)
        lines = {"Main-Class": _JOB_SERVER, "Class-Path": " ".join(jar.as_uri() for jar in jars), "Add-Opens": opens}
        path = self.folder / "job-server.jar"
        with zipfile.ZipFile(path, "w") as jar:
            wrapped = ["\r\n ".join(re.findall(".{1,70}", f"{key}: {value}")) for key, value in lines.items()]
            jar.writestr("META-INF/MANIFEST.MF", "\r\n".join(["Manifest-Version: 1.0", *wrapped, ""]))
        return path

    def start_all(self) -> None:
        """Starts all parts, and returns when they are there."""
        conf = str(self.folder / "conf")
        self.start_java("jobmanager", _JOB_MANAGER, ["-Xmx384m"], ["--configDir", conf])
        for name in ("tm1", "tm2"):
            self.start_task_manager(name)
        host, _, port = self.job_endpoint.partition(":")
        words = [f"--flink-master={self.rest}", f"--flink-conf-dir={conf}", f"--job-host={host}", f"--job-port={port}"]
        words += [f"--artifact-port={self._artifacts}", "--expansion-port=0", f"--artifacts-dir={self.folder}/staged"]
        self.start_java("jobserver", _JOB_SERVER, ["-Xmx512m"], words)
        self.start_pool()
        self.wait_for(lambda: len(self.task_managers()) == 2, "both TaskManagers are there")
        self.wait_for(lambda: listens(int(port)), "the job server listens")

    def wait_for(self, look: Callable[[], T], what: str, seconds: float = START_S) -> T:
        """What ``look`` returns once it is true; fails the test, with the ends of the logs, when that is not soon."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := look():
                return found
            time.sleep(0.05)
        ends = [f"{path.name}: ...{path.read_text(errors='replace')[-2000:]}" for path in self.folder.glob("*.log")]
        pytest.fail("\n\n".join([f"{what}: not within {seconds:g} s", *ends]))

    def ask(self, path: str, method: str = "GET") -> Any:
        """What Flink's REST API answers; None where nothing does."""
        request = urllib.request.Request(f"http://{self.rest}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read() or b"{}")
        except OSError:
            return None

    def task_managers(self) -> list[str]:
        """Names of the TaskManagers that the JobManager knows."""
        answer = self.ask("/taskmanagers") or {"taskmanagers": []}
        return sorted(manager["id"] for manager in answer["taskmanagers"])

    def jobs(self, state: str = "RUNNING") -> list[str]:
        """Ids of the jobs in a state."""
        answer = self.ask("/jobs") or {"jobs": []}
        return [job["id"] for job in answer["jobs"] if job["status"] == state]

    def cancel(self, job: str) -> None:
        """Cancels a job."""
        self.ask(f"/jobs/{job}?mode=cancel", "PATCH")

    def workers(self) -> list[int]:
        """Process ids of the workers that the pool has now."""
        pool = self._processes["pool"].pid
        found = subprocess.run(["pgrep", "-P", str(pool), "-f", "runners.worker "], capture_output=True, text=True)
        return [int(line) for line in found.stdout.split()]

    def log(self, name: str) -> str:
        """What a process has said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def kill(self, name: str) -> None:
        """Ends a process at once, as a crash does."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop_all(self) -> None:
        """Ends all processes."""
        for name in list(self._processes):
            self.kill(name)
        for path in ("tmp", "staged"):
            shutil.rmtree(self.folder / path, ignore_errors=True)  # (152 MB of jars a job)


@contextmanager
def flink_cluster(folder: Path) -> Iterator[FlinkCluster]:
    """While a cluster of two TaskManagers with two slots each runs, with a job server and a worker pool."""
    cluster = FlinkCluster(folder, find_class_path())
    try:
        cluster.start_all()
        yield cluster
    finally:
        cluster.stop_all()


def main() -> None:
    """Keeps a cluster until it is interrupted or terminated."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with flink_cluster(Path(sys.argv[1]).resolve()) as cluster:
        pool = f"--environment_type=EXTERNAL --environment_config={cluster.pool}"
        print(f"--runner=PortableRunner --job_endpoint={cluster.job_endpoint} {pool}")
        print(f"--runner=FlinkRunner --flink_master={cluster.rest} --flink_job_server_jar={cluster.job_server_jar()}")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main()
