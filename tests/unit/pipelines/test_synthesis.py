"""What people see while synthetic clips are made: how many prompts are done, and what is going on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from noisebank.errors import RowFailure
from noisebank.storage import open_store
from noisebank.synthesis.entry import Prompt
from noisebank.synthesis.job import KeptWork, ShardFolder
from pipelines.synthesis import _watch


def test_progress_shows_prompts_done_and_the_stage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = open_store(tmp_path)
    shards = {
        f"{shard}" * 32: tuple(Prompt(f"{shard}-{number}", "a dog") for number in range(size))
        for shard, size in enumerate((3, 2, 2))
    }
    with _watch(store, "f", shards):
        for inputs, stage in zip(shards, ("animate", "candidates", "animate"), strict=True):
            ShardFolder(store, inputs).announce(stage)
        KeptWork(store, "f").write(shards["0" * 32][1], RowFailure("no_image", "gone"))
    assert caplog.messages[-1] == "synthesize: 2 animate, candidates: 1 of 7 prompts"
