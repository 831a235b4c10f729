"""The commit step: what travels to it."""

from __future__ import annotations

import pickle

from noisebank.format.receipts import Failure, Receipt
from noisebank.planning.cut import Task
from noisebank.planning.plan import plan_path
from noisebank.stages.job import Finished
from noisebank.stages.stage import ShardWork
from noisebank.storage import FileEntry
from transforms.publish import FinishedShard
from transforms.work import Done

HASH = "ab" * 16


def test_a_finished_shard_is_small_however_many_rows_failed() -> None:
    failures = tuple(
        Failure(i, f"webvid-{i}", "webvid", f"https://x.org/{i}", "clips", "http_404", "gone", False, 1)
        for i in range(512)
    )
    files = (FileEntry(f"clips/{HASH}.tar", 1 << 20, HASH * 2, 512),)
    receipt = Receipt("clips", HASH, HASH, files, 0, failures, {"description": list(range(1000))})
    shard = FinishedShard.of(Done(ShardWork(plan_path(HASH), Task("clips", ())), Finished(receipt, True, 12.5)))
    assert (shard.stage, shard.inputs, shard.made, shard.seconds) == ("clips", HASH, True, 12.5)
    assert len(pickle.dumps(shard)) < 200
