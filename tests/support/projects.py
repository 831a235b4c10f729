"""Helpers of the end-to-end tests: a folder with a list, a configuration and a bank, driven through the commands."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from noisebank.fixtures.videos import write_video
from pipelines.cli import main
from tests.support.minilm import MINILM

VIDEOS = 12
FRAMES, SIZE = 4, 64
CAPTIONS = (
    "a dog runs on the beach",
    "cars drive through a city at night",
    "a chef cuts onions in a kitchen",
    "clouds move over a mountain",
    "a cat sleeps on a sofa",
    "waves break on a rocky shore",
    "a child builds a sand castle",
    "a train leaves the station",
    "bees visit a purple flower",
    "an old man plays the violin",
    "snow falls on a quiet forest",
    "a boat sails under a bridge",
)


class Ran(NamedTuple):
    """How a command ended: its exit code, its JSON document (empty where it printed none) and what it said."""

    exit_code: int
    document: dict[str, Any]
    stderr: str


class Row(NamedTuple):
    """One row of a list."""

    id: str
    uri: str
    caption: str


def noisebank(*words: object) -> Ran:
    """Runs a command in this process with ``--json``; its stdout must be one line of JSON and nothing else."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in (words[0], "--json", *words[1:])])
        except SystemExit as stop:  # (how argparse ends on a usage error)
            code = int(stop.code or 0)
    printed = out.getvalue()
    assert printed.count("\n") == (1 if printed else 0), printed
    return Ran(code, json.loads(printed) if printed else {}, err.getvalue())


class Project:
    """A folder with a list ``list.csv``, a configuration ``bank.yaml`` and a bank.

    Args:
        folder: to make everything in.
        model: folder of the text-to-video model.
        videos: folder of the videos; :meth:`rows` refers to them by path.
    """

    def __init__(self, folder: Path, model: Path, videos: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "videos").symlink_to(videos)
        self.folder, self.bank, self.config_file = folder, folder / "bank", folder / "bank.yaml"
        self.config: dict[str, Any] = {
            "bank": str(self.bank),
            "sources": [self.source("mine", "list.csv")],
            "fetch": {"allow_private_hosts": True, "timeout": 5, "retries": 1},
            "clips": {"frames": FRAMES, "frame_stride": 1, "size": SIZE, "maxcount": 4},
            "captions": {"model": MINILM},
            "noise": [{"name": "small", "model": str(model), "inverter": "ddim", "num_inference_steps": 4}],
        }
        self.configure()

    def source(self, name: str, *lists: str) -> dict[str, Any]:
        """A table source of lists in the folder."""
        paths = [str(self.folder / file) for file in lists]
        return {"name": name, "kind": "table", "path": paths, "id": "id", "uri": "uri", "caption": "caption"}

    def configure(self, **sections: Any) -> None:
        """Writes the configuration with these sections in place of what they were."""
        self.config.update(sections)
        self.config_file.write_text(yaml.safe_dump(self.config))

    def rows(self, count: int, start: int = 0, address: str = "videos") -> list[Row]:
        """Rows for the videos ``start`` to ``start + count``, by path or at the address of a server."""
        numbers = range(start, start + count)
        return [Row(f"clip{i:02}", f"{address}/v{i:02}.mp4", CAPTIONS[i]) for i in numbers]

    def write_list(self, rows: Iterable[Sequence[str]], name: str = "list.csv") -> None:
        """Writes a list of the columns id, uri, caption."""
        with (self.folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows(rows)

    def run(self, command: str, *words: object) -> Ran:
        """Runs a command that takes the configuration."""
        return noisebank(command, "-c", self.config_file, *words)

    def build(self, *words: object) -> dict[str, Any]:
        """The summary of a build that ends well."""
        ran = self.run("build", *words)
        assert ran.exit_code == 0, ran.stderr
        return ran.document

    def look(self, command: str, *words: object) -> dict[str, Any]:
        """What a read-side command says of the bank."""
        ran = noisebank(command, self.bank, *words)
        assert ran.exit_code == 0, ran.stderr
        return ran.document

    def files(self) -> dict[str, str]:
        """SHA-256 of every file of the latest snapshot, by path inside the bank."""
        paths = [Path(path) for path in self.look("files")["files"]]
        return {str(path.relative_to(self.bank)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file in the bank's folder, whether a snapshot has it or not."""
        paths = [path for path in self.bank.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.bank)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def failures(self) -> dict[str, str]:
        """Code of every failure by the row's id."""
        return {failure["id"]: failure["code"] for failure in self.look("failures")["failures"]}

    def search(self, prompt: str) -> tuple[str, str]:
        """Id and caption of the nearest clip."""
        hit = self.look("search", prompt, "-k", 1)["hits"][0]
        return hit["id"], hit["caption"]


def done(summary: dict[str, Any]) -> dict[str, int]:
    """Rows that each stage really worked on."""
    return {stage: figures["done"] for stage, figures in summary["stages"].items() if figures["done"]}


def write_videos(folder: Path, count: int) -> Path:
    """``v00.mp4``, ``v01.mp4``...: eight frames of different drifting colours each."""
    from noisebank.fixtures.small_models import smooth_clip

    for i in range(count):
        write_video(folder / f"v{i:02}.mp4", list(smooth_clip(8, SIZE, SIZE, seed=i).numpy()))
    return folder
