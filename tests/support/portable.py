"""One build that every engine must make the same bank of, and what of two banks must be the same.

Everything in its configuration is relative to its folder, the bank included; it has good and bad rows, and noise.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from noisebank.describe import snapshot_files
from noisebank.format.manifest import read_snapshot, snapshot_numbers, snapshot_path
from noisebank.storage import open_store
from tests.support.minilm import MINILM
from tests.support.projects import Project, Row

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "tests/support/plugins"
THREADS = 2
"""Of torch in a worker; one by default in the processes that are started here."""
GOOD = 13
"""Rows that get into the bank: four shards of clips."""
FAILURES = {"missing_file": 1, "not_video": 1}
STAGES = ("clips", "captions", "index", "noise", "commit")
ACCELERATOR = "type:nvidia-l4;count:1"
_SECOND_SET = {"name": "second", "inverter": "fixed-point", "num_inference_steps": 2}
PINNED = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_OF_ONE_RUN = {"uuid", "created", "run_id", "digest", "plan"}
"""What two snapshots of the same content do not share (a plan is named by the folder of the bank, too)."""


def portable_project(
    folder: Path, model: Path, videos: Path, *, second_set: bool = False, accelerator: bool = False
) -> Project:
    """The project, whose bank is not built.

    Args:
        folder: to make it in.
        model: folder of the text-to-video model.
        videos: folder of at least twelve videos; one of them is in the list twice, cut differently.
        second_set: whether it has a second noise set.
        accelerator: whether its noise asks for a GPU in Beam's words (what computes is the CPU).
    """
    project = Project(folder, model, videos)
    rows = project.rows(GOOD - 1)
    rows.append(rows[0]._replace(id="again", caption="a dog, once more"))
    page = videos.with_name("page.mp4")  # (a failure names the file, so it is the same one for all banks)
    page.write_text("<html>This is no video.</html>")
    bad = [
        Row("gone", "/nowhere/gone.mp4", "a video that is not there"),
        Row("page", str(page), "a page of text called mp4"),
        Row("mute", "videos/v01.mp4", " "),
        rows[3],
    ]
    project.write_list([*rows, *bad])
    (noise,) = project.config["noise"]
    noise = {**noise, "model": os.path.relpath(model, folder), "device": "cpu", "batch_size": 2}
    noise |= {"accelerator": ACCELERATOR} if accelerator else {}
    project.configure(
        bank="./bank",
        sources=[{**project.source("mine"), "path": "list.csv"}],
        captions={"model": os.path.relpath(MINILM, folder)},
        noise=[noise, {**noise, **_SECOND_SET}] if second_set else [noise],
        threads=THREADS,
        max_failed=0.3,
    )
    return project


def run_in_folder(
    project: Project, command: str, *words: object, environment: Mapping[str, str] | None = None, seconds: float = 600
) -> dict[str, Any]:
    """The document of a command that ends well, in a process of its own that starts in the project's folder."""
    line = [sys.executable, "-m", "pipelines.cli", command, "--json", "-c", "bank.yaml", *map(str, words)]
    merged = {**os.environ, "PYTHONPATH": str(ROOT), **PINNED, **(environment or {})}
    ran = subprocess.run(line, cwd=project.folder, env=merged, capture_output=True, text=True, timeout=seconds)
    assert ran.returncode == 0, ran.stderr
    document: dict[str, Any] = json.loads(ran.stdout)
    return document


def build(
    project: Project, *words: object, by_stage: bool = False, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Builds the bank, at once or stage by stage; the document of the last command, which committed the good rows."""
    for command in STAGES if by_stage else ["build"]:
        summary = run_in_folder(project, command, *words, environment=environment)
    assert summary["committed"] and summary["rows"]["in_bank"] == GOOD
    assert summary["failed_by_code"] == FAILURES
    return summary


def bank_content(bank: Path | str) -> dict[str, Any]:
    """Everything of a bank that does not depend on when and where it was made: the SHA-256 of every file of the latest
    snapshot, by its path, and each snapshot's document."""
    store = open_store(bank)
    files = snapshot_files(store, read_snapshot(store))
    content: dict[str, Any] = {file.path: hashlib.sha256(store.read(file.path)).hexdigest() for file in files}
    for number in snapshot_numbers(store):
        document = json.loads(store.read(snapshot_path(number)))
        document["stages"] = {name: _worked_on(figures) for name, figures in document["stages"].items()}
        document["models"] = _without_folders(document["models"])
        content[snapshot_path(number)] = {key: value for key, value in document.items() if key not in _OF_ONE_RUN}
    return content


def assert_same(banks: Iterable[Path | str]) -> None:
    """Fails unless all banks have the same content."""
    first, *others = map(bank_content, banks)
    kinds = {path.partition("/")[0] for path in first}
    assert kinds >= {"clips", "captions", "noise", "index", "rows", "failures", "snapshots"}
    for other in others:
        assert other == first


def _worked_on(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures of a stage in a snapshot, whether the run that committed did its work or found it done."""
    return {"rows": figures["done"] + figures["skipped"], "failed": figures["failed"]}


def _without_folders(models: Mapping[str, Any]) -> dict[str, Any]:
    """What a snapshot says of models, but for the folder that each was read from; its digest tells which it is."""
    return {
        name: _without_folders(value) if isinstance(value, dict) else value
        for name, value in models.items()
        if name != "model"
    }
