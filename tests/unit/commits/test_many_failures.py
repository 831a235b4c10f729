"""A commit step with very many failures: it holds a few receipts at a time, never all of them."""

import json
import subprocess
import sys
from pathlib import Path

from noisebank.format.manifest import read_snapshot
from noisebank.format.tables import FAILURE_KEY, OverlayTable
from tests.support.bank import Bank, webvid_row, write_csv

ROOT = Path(__file__).parents[3]
FAILURES = 200_000
MEGABYTES = 240
"""Most that the step may add to its process; it adds 180, and 300 where it holds all receipts."""
STEP = """
import json, resource, sys
from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo
from noisebank.commits.publishing import BuildResult
from noisebank.format.receipts import list_receipts
from noisebank.planning.plan import read_plan
from noisebank.storage import open_store

store = open_store(sys.argv[1])
plan = read_plan(store, sys.argv[2])
shards = [("clips", inputs) for inputs in list_receipts(store, "clips")]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with BuildResult(store, plan, None, shards) as result:
    info = CommitInfo("run", fingerprints=plan.fingerprints, sources=tuple(plan.source_names.values()))
    commit(store, None, result.delta(), info)
    codes, failed = result.failed.codes, len(result.failed.nums)
unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit
print(json.dumps({"codes": codes, "failed": failed, "shards": len(shards), "grown": grown}))
"""


def test_memory_stays_small(tmp_path: Path) -> None:
    bank = Bank(tmp_path)
    plan = bank.plan(write_csv(tmp_path / "list.csv", [webvid_row(i) for i in range(FAILURES)]))
    gone = dict.fromkeys((f"webvid-{i}-0-5000" for i in range(FAILURES)), ("http_404", False))
    bank.make(plan, {"clips": gone}, ["clips"])
    command = [sys.executable, "-c", STEP, str(tmp_path / "bank"), plan.path]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert (said["codes"], said["failed"]) == ({"http_404": FAILURES}, FAILURES)
    assert said["shards"] == len(plan.tasks["clips"]) > 300
    assert said["grown"] < MEGABYTES
    snapshot = read_snapshot(bank.store)
    assert (snapshot.failure_counts, snapshot.in_bank) == ({"http_404": FAILURES}, 0)
    row = OverlayTable(bank.store, snapshot.failures, FAILURE_KEY).slice(0, 1 << 55).to_pylist()[0]
    said_of_it = (row["stage"], row["message"], row["attempts"], row["first_snapshot"])
    assert row["id"] in gone and said_of_it == ("clips", f"http_404 of {row['id']}", 1, 1)
