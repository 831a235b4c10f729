"""A bank of ten million made-up clips is opened, searched, read, planned against, committed to and described.

``python -m benchmarks.rehearsal [CLIPS] [--folder DIR]`` makes the bank, runs each step in a process of its own, prints
a table, and removes the bank (about 0.6 GB a million clips). Its tables are those of a commit, of random numbers. Of
the index the layout is real (inverted lists, 8 bits, 384 dimensions), the codes are random: what a search costs does
not depend on what it finds. Every noise shard is a link to one sparse file of zeros. The list that is planned against
it has 15% as many rows, all new; all of them fail.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.planning import FINGERPRINTS, NOISE_SET, WORDS, measure_plan, peak_mb
from benchmarks.planning import write_list as write_webvid
from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo, Delta
from noisebank.commits.publishing import BuildResult
from noisebank.format.manifest import IndexSegment, read_snapshot
from noisebank.format.receipts import Failure, Receipt
from noisebank.format.schemas import CLIPS, ENTRIES, RECORDS, ROWS, noise_schema
from noisebank.format.status import Status
from noisebank.format.tables import write_parquet
from noisebank.ids import Hashes, Nums, source_number
from noisebank.planning.plan import read_plan, read_task
from noisebank.storage import BankWriter, FileEntry, open_store

DIM, SHAPE = 384, (4, 16, 32, 32)
SHARD_ROWS = 512
FAILING = 0.15
"""New rows, as a share of those in the bank, all of which fail."""
SOURCE = "made-up"
_BLOCK = 1 << 20
_NPROBE = 64
_QUERIES = 100
_MEASURED = 0.05
_SEED = 5


def make_bank(bank: Path, clips: int) -> None:
    """Publishes ``clips`` clips with an index and noise."""
    import xxhash

    store = open_store(bank)
    nums = np.sort(np.random.default_rng(_SEED).integers(1, 2**63 - 1, clips))
    layout, template = _write_template(bank)
    checksum = xxhash.xxh3_64(bytes(math.prod(SHAPE) * 2)).intdigest()
    delta = Delta(
        rows=_Blocks(nums, _rows),
        records={NOISE_SET: _Blocks(nums, partial(_records, checksum))},
        receipts=[*_receipts(bank, nums, layout, template)],
        index=_write_index(BankWriter(store), nums, bank),
    )
    model = {"model": "made-up", "dtype": "float16", "shape": list(SHAPE), "layout": "BCFHW", "num_inference_steps": 50}
    info = CommitInfo(
        "rehearsal",
        fingerprints=FINGERPRINTS,
        sources=(SOURCE,),
        noise_sets=(NOISE_SET,),
        models={"captions": {"model": "made-up", "dim": DIM}, f"noise/{NOISE_SET}": model},
    )
    commit(store, None, delta, info)


@dataclass(frozen=True)
class _Blocks:
    """Tables of the clips ``nums``, a block after the other, as often as asked."""

    nums: Nums
    columns: Callable[[Nums], pa.Table]

    def __iter__(self) -> Iterator[pa.Table]:
        for start in range(0, len(self.nums), _BLOCK):
            yield self.columns(self.nums[start : start + _BLOCK])


def _files(nums: Nums) -> Hashes:
    """Keys of files of 512 neighbours each."""
    return (nums[np.arange(len(nums)) // SHARD_ROWS * SHARD_ROWS] + 1).astype(np.uint64)


def _rows(nums: Nums) -> pa.Table:
    places, hashes = np.arange(len(nums)) % SHARD_ROWS, nums.astype(np.uint64)
    fixed = {"source": np.full(len(nums), source_number(SOURCE)), "status": np.full(len(nums), int(Status.OK))}
    columns = {"num": nums, "listed": hashes, "video": hashes, "caption": hashes, **fixed}
    columns |= {"clip_file": _files(nums), "clip_row": places, "caption_file": _files(nums), "caption_row": places}
    return pa.table({name: columns[name] for name in ROWS.names}).cast(ROWS)


def _records(checksum: int, nums: Nums) -> pa.Table:
    columns = {"num": nums, "file": _files(nums), "row": np.arange(len(nums)) % SHARD_ROWS}
    columns |= {"checksum": np.full(len(nums), checksum, np.uint64), "status": np.full(len(nums), int(Status.OK))}
    return pa.table({name: columns[name] for name in RECORDS.names}).cast(RECORDS)


def _entries(nums: Nums) -> pa.Table:
    words, random = pa.array(WORDS), np.random.default_rng(int(nums[0]))
    drawn = [words.take(pa.array(random.integers(0, len(words), len(nums)))) for _ in range(9)]
    ids = pc.binary_join_element_wise(SOURCE, pa.array(nums).cast(pa.string()), "-")
    columns = {"num": nums, "id": ids, "source": pa.array([SOURCE]).take(pa.array(np.zeros(len(nums), int)))}
    columns["caption"] = pc.binary_join_element_wise(*drawn, " ")
    return pa.table({name: columns[name] for name in ENTRIES.names}).cast(ENTRIES)


def _write_template(bank: Path) -> tuple[dict[str, int], FileEntry]:
    """A sparse noise shard of zeros, where its records are, and its entry."""
    import torch

    from noisebank.format.noise_file import NoiseWriter
    from noisebank.storage import file_sha256

    random = np.random.default_rng(_SEED)
    path, sparse = bank / "template", bank / "template.arrow"
    names = [name for name in noise_schema(SHAPE, "float16").names if name not in ("noise", "checksum")]
    with NoiseWriter(path, noise_schema(SHAPE, "float16")) as writer:
        for number in range(SHARD_ROWS):
            error = float(random.lognormal(-7)) if random.random() < _MEASURED else None
            known: dict[str, Any] = dict.fromkeys(names, 0) | {"num": number, "id": str(number), "sha256": ""}
            known |= {"mean": [0.0] * SHAPE[0], "std": [1.0] * SHAPE[0], "reconstruction_error": None}
            known |= {"stored_reconstruction_error": error, "max_residual": float(random.lognormal(-6))}
            writer.append(torch.zeros(SHAPE), known)
        layout = writer.finish()
    subprocess.run(["cp", "--sparse=always", path, sparse], check=True)
    path.unlink()
    entry = FileEntry(f"noise/{NOISE_SET}/{0:032x}.arrow", sparse.stat().st_size, file_sha256(sparse), SHARD_ROWS)
    return layout, entry


def _receipts(bank: Path, nums: Nums, layout: dict[str, int], template: FileEntry) -> Iterator[Receipt]:
    """The receipts of all shards; tars, sidecars and captions are named only, noise is linked."""
    (bank / "noise" / NOISE_SET).mkdir(parents=True)
    for start in range(0, len(nums), _BLOCK):
        for key in dict.fromkeys(_files(nums[start : start + _BLOCK]).tolist()):
            stem = f"{key:016x}{0:016x}"
            noise = FileEntry(f"noise/{NOISE_SET}/{stem}.arrow", template.bytes, template.sha256, SHARD_ROWS)
            os.link(bank / "template.arrow", bank / noise.path)
            tar = FileEntry(f"clips/{stem}.tar", 25_000_000, "", SHARD_ROWS)
            sidecar = FileEntry(f"clips/{stem}.parquet", 100_000, "", SHARD_ROWS)
            captions = FileEntry(f"captions/{stem}.parquet", 800_000, "", SHARD_ROWS)
            yield Receipt("clips", stem, FINGERPRINTS["clips"], (tar, sidecar), SHARD_ROWS)
            yield Receipt("captions", stem, FINGERPRINTS["captions"], (captions,), SHARD_ROWS)
            name = f"noise/{NOISE_SET}"
            yield Receipt(name, stem, FINGERPRINTS[name], (noise,), SHARD_ROWS, info=layout)


def _write_index(writer: BankWriter, nums: Nums, scratch: Path) -> IndexSegment:
    """A segment with the layout of a real one: a code of 384 bytes a clip, in ``4 sqrt(clips)`` lists."""
    import faiss

    from noisebank.search.segments import ENTRY_GROUP

    entries, clips = scratch / "entries", len(nums)
    with pq.ParquetWriter(entries, ENTRIES, compression="zstd") as file:
        for table in _Blocks(nums, _entries):
            file.write_table(table, row_group_size=ENTRY_GROUP)
    random = np.random.default_rng(_SEED)
    nlist = min(clips, round(4 * math.sqrt(clips)))
    index = faiss.index_factory(DIM, f"IVF{nlist},SQ8", faiss.METRIC_INNER_PRODUCT)
    centroids = random.standard_normal((nlist, DIM), np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    index.quantizer.add(centroids)
    index.sq.train(random.standard_normal((4096, DIM), np.float32) / 40)  # (of residuals)
    for number, positions in enumerate(np.array_split(random.permutation(clips), nlist)):
        codes = random.integers(0, 256, (len(positions), DIM), np.uint8)
        index.invlists.add_entries(number, len(positions), faiss.swig_ptr(positions), faiss.swig_ptr(codes))
    index.ntotal, index.nprobe, index.is_trained = clips, _NPROBE, True
    vectors, info = scratch / "vectors", scratch / "info"
    faiss.write_index(index, str(vectors))
    info.write_text("{}")
    suffixes = {vectors: ".faiss", entries: ".parquet", info: ".json"}
    files = [writer.file(path, "index", suffix, clips) for path, suffix in suffixes.items()]
    for path in suffixes:
        path.unlink(missing_ok=True)
    return IndexSegment(*files, deleted=None, kind=f"IVF{nlist},SQ8", size=clips, recall=1.0)


def step_open(bank: Path) -> dict[str, Any]:
    """Opens a bank with its index and its noise set, as the first lookup does."""
    from noisebank import NoiseBank

    with NoiseBank.open(bank) as opened:
        pinned = opened._pinned
        return {"captions": sum(segment.size for segment in pinned.segments), "set": pinned.noise_set(NOISE_SET).name}


def step_search(bank: Path) -> dict[str, Any]:
    """A hundred searches, one by one."""
    from noisebank.reader.pinned import PinnedSnapshot

    pinned = PinnedSnapshot(open_store(bank), read_snapshot(open_store(bank)))
    queries = np.random.default_rng(_SEED).standard_normal((_QUERIES, 1, DIM), np.float32)
    queries /= np.linalg.norm(queries, axis=2, keepdims=True)
    _ = pinned.segments
    began = time.perf_counter()
    hits = [pinned.nearest(query, 5) for query in queries]
    return {"hits": sum(len(one[0]) for one in hits), "ms_each": 1000 * (time.perf_counter() - began) / _QUERIES}


def step_read(bank: Path) -> dict[str, Any]:
    """The records of a hundred clips, looked up by their numbers."""
    from noisebank.reader.pinned import PinnedSnapshot

    pinned = PinnedSnapshot(open_store(bank), read_snapshot(open_store(bank)))
    records, (segment, *_) = pinned.noise_set(NOISE_SET), pinned.segments
    places = np.random.default_rng(_SEED).integers(0, segment.size, _QUERIES).tolist()
    nums = [segment.entries.at(place).num for place in places]
    began = time.perf_counter()
    noise = [records.noise(clip) for num in nums if (clip := pinned.find(num))]
    ms = 1000 * (time.perf_counter() - began) / _QUERIES
    return {"records": len(noise), "values": sum(one.numel() for one in noise), "ms_each": ms}


def step_plan(bank: Path, path: str) -> dict[str, Any]:
    """Plans a list of new rows."""
    return measure_plan(path, str(bank), name="more")


def step_fail(bank: Path, path: str) -> dict[str, Any]:
    """Leaves the sidecars and receipts of shards of clips all of which failed, as the stage would."""
    store = open_store(bank)
    writer, plan = BankWriter(store), read_plan(store, path)
    names = {source_number(name): name for name in plan.sources}
    for number, task in enumerate(plan.tasks["clips"]):
        rows = read_task(store, task).to_pylist()
        failed = [
            {**row, "source": names[row["source"]], "clip_row": -1, "retryable": False}
            | {"code": "http_404", "message": f"{row['uri']}: HTTP 404"}
            for row in rows
        ]
        sidecar = write_parquet(writer, "clips", pa.Table.from_pylist(failed, CLIPS))
        failures = tuple(
            Failure(
                *(row[name] for name in ("num", "id", "source", "uri")),
                "clips",
                *(row[name] for name in ("code", "message", "retryable", "attempt")),
            )
            for row in failed
        )
        receipt = Receipt("clips", f"{number:032x}", FINGERPRINTS["clips"], (sidecar,), 0, failures)
        store.put(receipt.path, receipt.to_bytes())
    return {"shards": len(plan.tasks["clips"])}


def step_commit(bank: Path, path: str) -> dict[str, Any]:
    """Commits what those shards came to."""
    store = open_store(bank)
    plan = read_plan(store, path)
    shards = [("clips", f"{number:032x}") for number in range(len(plan.tasks["clips"]))]
    with BuildResult(store, plan, read_snapshot(store), shards) as result:
        info = CommitInfo("failed", plan=plan.hash, fingerprints=plan.fingerprints, sources=tuple(plan.sources))
        snapshot = commit(store, result.parent, result.delta(), info)
    return {"failures": snapshot.failure_counts}


def step_show(bank: Path) -> dict[str, Any]:
    """``noisebank show``."""
    from noisebank.describe import describe

    return {"rows": describe(open_store(bank), read_snapshot(open_store(bank)))["rows"]}


def step_report(bank: Path) -> dict[str, Any]:
    """``noisebank report --compare 1``; without a gallery, for there are no clips."""
    from noisebank.report.page import make_report

    return {"bytes": len(make_report(open_store(bank), compare=1, clips=0).html)}


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "plan": step_plan,
    "open": step_open,
    "search": step_search,
    "read": step_read,
    "fail": step_fail,
    "commit": step_commit,
    "show": step_show,
    "report": step_report,
}
_IMPORTS = {
    "plan": "apache_beam, transforms.plan",
    "open": "noisebank, noisebank.reader.bank",
    "show": "noisebank.describe",
    "fail": "transforms.publish",
    "commit": "transforms.publish",
    "report": "noisebank.report.page, matplotlib.figure, jinja2",
}
"""What a step imports, and so counts as start-up, beside what this module does."""


def _in_process(step: str, bank: Path, *words: str) -> dict[str, Any]:
    """What a step measured, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.rehearsal", "--step", step, str(bank), *words]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    print(f"{step}: {measured}", file=sys.stderr, flush=True)
    return measured


def _run_step(step: str, bank: Path, words: list[str]) -> dict[str, Any]:
    """Runs a step in this process: seconds of wall and CPU, and peak memory, of which so much was the start-up's."""
    for name in _IMPORTS.get(step, "noisebank.reader.pinned").split(", "):
        importlib.import_module(name)
    base, wall, cpu = peak_mb(), time.perf_counter(), time.process_time()
    found = STEPS[step](bank, *words)
    used = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return {**{name: round(value, 3) for name, value in used.items()}, "peak_mb": peak_mb(), "base_mb": base, **found}


def run(clips: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Makes a bank and goes through all steps; what each measured."""
    with tempfile.TemporaryDirectory(prefix="noisebank-rehearsal-", dir=folder) as scratch:
        bank, listed = Path(scratch, "bank"), Path(scratch, "list.csv")
        bank.mkdir()
        make_bank(bank, clips)
        found = {}
        for step in ("open", "search", "read", "show"):
            found[step] = _in_process(step, bank)
        write_webvid(listed, round(clips * FAILING))
        found["plan"] = _in_process("plan", bank, str(listed))
        found["fail"] = _in_process("fail", bank, found["plan"]["plan"])
        found["commit"] = _in_process("commit", bank, found["plan"]["plan"])
        for step in ("show", "report"):
            found[f"{step} after it"] = _in_process(step, bank)
        found["disk"] = {"bytes": int(subprocess.check_output(["du", "-sb", bank]).split()[0])}
        shutil.rmtree(bank)
    return found


def lines(clips: int, found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A table in markdown."""
    yield f"| {clips:,} clips | seconds | CPU-s | peak MB | of it start-up | notes |"
    yield "|---|---|---|---|---|---|"
    for step, one in found.items():
        if "seconds" in one:
            cells = [f"{one[name]}" for name in ("seconds", "cpu_seconds", "peak_mb", "base_mb")]
            notes = [f"{name} {one[name]:.3g}" for name in ("ms_each", "hits", "rows", "bytes") if name in one]
            yield f"| {step} | {' | '.join(cells)} | {', '.join(notes)} |"


def main(arguments: list[str]) -> None:
    """Runs one step for :func:`run`, or all of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rehearsal", description=__doc__)
    parser.add_argument("clips", type=int, nargs="?", default=10_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="with 10 GB free")
    if arguments[:1] == ["--step"]:
        print(json.dumps(_run_step(arguments[1], Path(arguments[2]), arguments[3:])))
        return
    options = parser.parse_args(arguments)
    print("\n".join(lines(options.clips, run(options.clips, options.folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
