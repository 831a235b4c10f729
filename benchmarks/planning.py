"""Planning of a WebVid-like list: CPU seconds and peak memory for an empty bank and for an update of 1%.

``python -m benchmarks.planning [ROWS]...`` prints one line of JSON a size. Every plan is made by a process of its own,
through the same Beam step as a build on the local runner; ``base`` is what that process needs before it plans anything.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo, Delta
from noisebank.format.status import Status
from noisebank.options import Config, SourceOptions
from noisebank.planning.plan import Plan, read_plan
from noisebank.storage import Store, open_store
from schemas.noise import RECORDS
from schemas.rows import ROWS

NOISE_SET = "modelscope"
FINGERPRINTS = {"clips": "0" * 16, "captions": "1" * 16, f"noise/{NOISE_SET}": "2" * 16}
WORDS = """
aerial view of the beach at sunset with waves and palm trees young woman walking her dog in a park slow motion
city traffic time lapse close up hands typing on laptop businessman talking phone mountain river forest autumn
leaves falling camera moves forward abstract background particles blue red green loop animation 4k footage happy
family having dinner together children playing football drone flying over green fields clouds sky
""".split()  # noqa: SIM905


def write_list(path: Path, rows: int, edited: float = 0.0, seed: int = 0, start: int = 0) -> None:
    """Writes a csv in WebVid's layout with varied captions, one in eight of them quoted.

    Args:
        path: file to write.
        rows: how many.
        edited: share of rows whose caption differs from the list with ``edited=0``; as many rows are new.
        seed: of the captions.
        start: rows of the list that come before, in another file.
    """
    step = 50_000
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("videoid,name,page_idx,page_dir,duration,contentUrl\n")
        for first in range(start, start + rows, step):
            generator = np.random.default_rng([seed, first])
            count = min(step, start + rows - first)
            words = np.array(WORDS)[generator.integers(0, len(WORDS), (count, 14))].tolist()
            lengths = generator.integers(6, 15, count).tolist()
            changed = (np.random.default_rng([seed + 1, first]).random(count) < edited).tolist()
            file.writelines(map(_line, range(first, first + count), words, lengths, changed))


def _line(i: int, words: list[str], length: int, edited: bool) -> str:
    caption = " ".join(words[:length])
    if i % 8 == 0:
        caption = f'"{caption}, {words[0]} ""{words[1]}""."'
    if edited and i % 2:
        caption = f"edited {caption}"
    number = 1_000_000_000 + i if edited and not i % 2 else 10_000 + i * 7
    page = f"{number % 1000000:06d}_{number % 1000000 + 50:06d}"
    url = f"https://ak.picdn.net/shutterstock/videos/{number}/preview/stock-footage-{'-'.join(words[:6])}.mp4"
    return f"{number},{caption},{i % 600},{page},PT00H00M{5 + i % 50:02d}S,{url}\n"


def run(rows: int) -> dict[str, Any]:
    """Plans a list of ``rows`` rows into an empty bank, and again with 1% new or edited against that many rows.

    Returns:
        ``rows``, and for ``base``, ``empty`` and ``update`` the ``cpu_seconds``, ``peak_mb`` and ``counts``.
    """
    with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as scratch:
        first, second, bank = Path(scratch, "first.csv"), Path(scratch, "second.csv"), Path(scratch, "bank")
        write_list(first, rows)
        result: dict[str, Any] = {"rows": rows, "base": _measured("base", first, bank)}
        result["empty"] = _measured("plan", first, bank)
        publish(open_store(bank), read_plan(open_store(bank), result["empty"]["plan"]))
        first.unlink()
        write_list(second, rows, edited=0.01)
        result["update"] = _measured("plan", second, bank)
    return result


def publish(store: Store, plan: Plan) -> None:
    """Commits a snapshot as if every row of ``plan``, made for an empty bank, had got its clip, caption and record."""
    delta = Delta(
        rows=_Finished(store, plan, _row_columns), records={NOISE_SET: _Finished(store, plan, _record_columns)}
    )
    commit(store, None, delta, CommitInfo("benchmark", fingerprints=FINGERPRINTS, sources=tuple(plan.sources)))


@dataclass(frozen=True)
class _Finished:
    """The rows of a plan as a finished build leaves them, one table a file, as often as asked."""

    store: Store
    plan: Plan
    columns: Callable[[pa.Table, pa.Table], pa.Table]

    def __iter__(self) -> Iterator[pa.Table]:
        tasks = dict.fromkeys(path for task in self.plan.tasks["clips"] for path, _, _ in task.pieces)
        for entry, task in zip(self.plan.changes["rows"], tasks, strict=True):
            yield self.columns(_read(self.store, entry.path), _read(self.store, task))


def _read(store: Store, path: str) -> pa.Table:
    with store.open(path) as file:
        return pa.ipc.open_file(file).read_all()


def _files(rows: pa.Table) -> np.ndarray[Any, Any]:
    """Keys of files of about 512 neighbours each."""
    return (rows.column("num").to_numpy()[np.arange(rows.num_rows) // 512 * 512] + 1).astype(np.uint64)


def _row_columns(rows: pa.Table, task: pa.Table) -> pa.Table:
    places = np.arange(rows.num_rows) % 512
    columns = {name: rows.column(name) for name in ("num", "source", "listed")}
    columns |= {"video": task.column("video"), "caption": task.column("caption_hash")}
    columns |= {"clip_file": _files(rows), "clip_row": places, "caption_file": _files(rows), "caption_row": places}
    columns["status"] = np.full(rows.num_rows, Status.OK)
    return pa.table(columns).cast(ROWS)


def _record_columns(rows: pa.Table, task: pa.Table) -> pa.Table:
    places = np.arange(rows.num_rows) % 512
    columns = {"num": rows.column("num"), "file": _files(rows), "row": places, "checksum": task.column("video")}
    columns["status"] = np.full(rows.num_rows, Status.OK)
    return pa.table(columns).cast(RECORDS)


def _measured(what: str, path: Path, bank: Path) -> dict[str, Any]:
    """What the last line of a process of its own says."""
    command = [sys.executable, "-m", "benchmarks.planning", f"--{what}", str(path), str(bank)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return measured


def _measure(what: str, path: str, bank: str) -> dict[str, Any]:
    """Plans, or only gets ready to (``base``), and says what this process and its children used."""
    import apache_beam  # noqa: F401

    import transforms.plan  # noqa: F401

    found = measure_plan(path, bank) if what == "--plan" else {}
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in used)
    return {"cpu_seconds": round(seconds, 2), "peak_mb": peak_mb(), **found}


def measure_plan(path: str, bank: str, name: str = "webvid") -> dict[str, Any]:
    """Plans a WebVid list as the source ``name``; the plan's path and counts."""
    import apache_beam as beam

    from transforms.plan import MakePlan

    config = Config(bank=bank, sources=(SourceOptions("webvid", (path,), name=name),))
    store = open_store(bank)
    before = set(store.list("plans"))
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | MakePlan(config, FINGERPRINTS, {})
    (made,) = {key for key in store.list("plans") if key.endswith("plan.json")} - before
    plan = read_plan(store, made)
    return {"plan": plan.path, "counts": plan.counts, "todo": plan.todo()}


def peak_mb() -> int:
    """Peak memory of this process; getrusage would count what its parent had when it started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def main(arguments: list[str]) -> None:
    """Prints measurements as JSON, one line a size."""
    if arguments[:1] in (["--plan"], ["--base"]):
        print(json.dumps(_measure(*arguments)))
        return
    for rows in [int(argument) for argument in arguments] or [1_000_000, 10_000_000]:
        print(json.dumps(run(rows)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
