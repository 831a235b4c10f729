"""One build on each engine: seconds, CPU, memory, bytes shuffled, and what the engine adds to the bare functions.

    python -m benchmarks.engines [--clips N]
    python -m benchmarks.engines --prism .venv/engines/bin/prism --flink JOB_ENDPOINT WORKER_POOL PID

Each side is a process of its own that builds a bank of the same list. The floor plans the same bank and calls the
stages' functions one after the other, without Beam. CPU and memory are those of the process and of all that it starts
(of Flink: also of the cluster, which is running and whose parts the process PID started); memory is the largest sum of
their proportional set sizes. What is shuffled is counted once, on the local engine, in a run that is not timed. Prints
a table.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import yaml

from benchmarks.shuffled import watch_shuffles
from noisebank.config import load_config
from noisebank.fixtures.captions_model import packaged_captions_model
from noisebank.fixtures.small_models import make_small_model
from noisebank.fixtures.videos import make_sample_videos
from noisebank.format.stage_names import CAPTIONS, CLIPS
from noisebank.options import Config
from noisebank.planning.plan import open_plans
from noisebank.stages.configured import all_stages, identify_stages, with_absolute_paths
from noisebank.stages.index import index_job
from noisebank.stages.job import run_job
from noisebank.stages.stage import LazyModel, ShardWork
from noisebank.storage import BankWriter, FileEntry, open_store
from pipelines.jobs import run_pipeline, run_stages
from runners.engines import find_engine
from transforms.plan import MakePlan
from transforms.shards import MakeShards

ROWS_A_SHARD = 8
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Measured:
    """What a process and all that it started took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(command: Sequence[str], folder: Path, also: int | None = None) -> Measured:
    """Runs a command in a folder; ``also``: a process whose children count too."""
    others = [psutil.Process(also)] if also else []
    before, began = _cpu_seconds(others), time.monotonic()
    peak, ended = 0, threading.Event()
    with (folder / "log").open("ab") as log, psutil.Popen(command, cwd=folder, stdout=log, stderr=log) as running:

        def watch() -> None:
            nonlocal peak
            while not ended.wait(_PAUSE_S):
                peak = max(peak, _memory([running, *others]))

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, used = os.wait4(running.pid, 0)
        ended.set()
        watcher.join()
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{(folder / 'log').read_text()[-2000:]}")
    cpu = used.ru_utime + used.ru_stime + _cpu_seconds(others) - before
    return Measured(time.monotonic() - began, cpu, peak)


def _tree(roots: Sequence[psutil.Process]) -> list[psutil.Process]:
    found = []
    for root in roots:
        with suppress(psutil.Error):
            found += [root, *root.children(recursive=True)]
    return found


def _memory(roots: Sequence[psutil.Process]) -> int:
    total = 0
    for process in _tree(roots):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def _cpu_seconds(roots: Sequence[psutil.Process]) -> float:
    """Of processes and of those of their children that have ended."""
    total = 0.0
    for process in _tree(roots):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def build_bare(config: Config) -> None:
    """The floor: a plan, made as ever, is carried out in this thread; nothing is committed."""
    bank, stages = open_store(config.bank), all_stages(config)
    identity = identify_stages(config)
    run_pipeline(find_engine([]), lambda pipeline: pipeline | MakePlan(config, *identity))
    (plan,) = open_plans(bank, "")
    first, *following = [MakeShards(config.bank, stage, threads=config.threads) for stage in stages]
    models = [LazyModel(step.stage.load_model) for step in following]
    captions: list[FileEntry] = []
    for task in plan.tasks[CLIPS]:
        for clips in first.finish(ShardWork(plan.path, task)):
            for step, model in zip(following, models, strict=True):
                stage = step.stage
                for work in stage.split(plan, ShardWork(plan.path, task, clips.finished.receipt)):
                    made = step.finish(work, model)
                    captions += [
                        file for one in made if stage.name.name == CAPTIONS for file in one.finished.receipt.files
                    ]
    if job := index_job(bank, plan, captions, config.index):
        run_job(job, BankWriter(bank), True, True)


def write_project(folder: Path, clips: int) -> Path:
    """A list of videos, a small model and a configuration of paths relative to the folder."""
    samples = make_sample_videos(folder / "videos", clips)
    make_small_model("modelscope", folder / "model")
    lines = [f"{i},videos/{sample.path.name},{sample.caption}" for i, sample in enumerate(samples)]
    (folder / "list.csv").write_text("\n".join(["id,uri,caption", *lines]) + "\n")
    source = {"kind": "table", "path": "list.csv", "id": "id", "uri": "uri", "caption": "caption"}
    config = {
        "bank": "bank",
        "sources": [source],
        "clips": {"frames": 8, "frame_stride": 4, "size": 64, "maxcount": ROWS_A_SHARD},
        "captions": {"model": str(packaged_captions_model())},
        "noise": [{"name": "small", "model": "model", "num_inference_steps": 10, "device": "cpu"}],
        "threads": 1,
    }
    (folder / "bank.yaml").write_text(yaml.safe_dump(config))
    return folder / "bank.yaml"


def count_shuffled(config_file: Path) -> int:
    """Bytes that a build in this process shuffles."""
    os.chdir(config_file.parent)
    config = load_config(str(config_file))
    with watch_shuffles() as shuffled:
        run_stages(replace(config, bank="shuffled"), [], "build")
    return sum(one.bytes for one in shuffled)


def main(arguments: argparse.Namespace) -> None:
    """Measures all engines that there are, and prints the table."""
    engines: dict[str, tuple[list[str], int | None]] = {
        "local, in memory": (["--direct_running_mode=in_memory"], None),
        "local, two worker processes": (["--direct_running_mode=multi_processing", "--direct_num_workers=2"], None),
    }
    if arguments.prism:
        location = f"--prism_location={Path(arguments.prism).absolute()}"
        engines["Prism"] = (["--runner=PrismRunner", location], None)
    if arguments.flink:
        endpoint, pool, number = arguments.flink
        words = [f"--job_endpoint={endpoint}", "--environment_type=EXTERNAL", f"--environment_config={pool}"]
        engines["Flink"] = (["--runner=PortableRunner", *words, "--parallelism=2"], int(number))
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as scratch:
        folder = Path(scratch)
        config_file = write_project(folder, arguments.clips)
        command = [sys.executable, "-m", "pipelines.cli", "build", "-c", "bank.yaml", "--bank"]
        bare = measure([sys.executable, "-m", "benchmarks.engines", "--bare", "bare"], folder)
        rows = {"bare functions": bare}
        for number, (name, (words, also)) in enumerate(engines.items()):
            rows[name] = measure([*command, f"bank{number}", *words], folder, also)
        shuffled = count_shuffled(config_file) / arguments.clips
    print(f"{arguments.clips} clips, {ROWS_A_SHARD} a shard; {shuffled:.0f} bytes shuffled a row\n")
    print("| engine | s | CPU-s | CPU-s over the bare functions | MB at the most |\n|---|---|---|---|---|")
    for name, one in rows.items():
        over = one.cpu_seconds - bare.cpu_seconds
        print(f"| {name} | {one.seconds:.1f} | {one.cpu_seconds:.1f} | {over:.1f} | {one.peak_bytes / 1e6:.0f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--prism", metavar="FILE", help="its program")
    parser.add_argument("--flink", nargs=3, metavar=("JOB_ENDPOINT", "WORKER_POOL", "PID"), help="a cluster that runs")
    parser.add_argument("--bare", metavar="FOLDER", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        build_bare(with_absolute_paths(load_config("bank.yaml", {"bank": given.bare})))
    else:
        main(given)
