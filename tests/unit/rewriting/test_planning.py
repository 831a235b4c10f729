"""What a plan of rewrites writes down for its workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from noisebank import BankDamaged
from noisebank.prompts import read_prompts
from noisebank.rewriting.options import RewriteOptions
from noisebank.rewriting.planning import plan_rewrites, read_work
from noisebank.storage import open_store


def test_a_worker_takes_the_rows_of_its_own_shard_alone(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a dog\na cat\n")
    out = open_store(tmp_path / "out")
    prompts, options = read_prompts(str(tmp_path / "prompts.txt")), RewriteOptions(maxcount=1)
    plan, beside = (plan_rewrites(out, prompts, options, "fingerprint") for _ in range(2))
    assert plan.pieces == beside.pieces and plan.path != beside.path
    first, second = plan.todo
    assert read_work(out, plan.path, first).column("prompt").to_pylist() == ["a dog"]
    with pytest.raises(BankDamaged, match=r"plans/.*other prompts than were planned; run the same command again"):
        read_work(out, plan.path, replace(first, batch=second.batch))
