"""A bank for the reader's tests: real embeddings, a real index and real noise files; only the clips are stand-ins."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo, Delta
from noisebank.format.manifest import Snapshot, latest_snapshot
from noisebank.format.noise_file import NoiseWriter
from noisebank.format.receipts import Receipt, finish, inputs_hash
from noisebank.format.schemas import RECORDS, ROWS, captions_schema, noise_schema
from noisebank.format.status import Status
from noisebank.ids import clip_number, source_number, xxh64
from noisebank.options import CaptionOptions, IndexOptions
from noisebank.search.embed import Embedder, load_embedder
from noisebank.stages.captions import CaptionsJob
from noisebank.stages.index import IndexJob, segment_of
from noisebank.stages.job import run_job
from noisebank.storage import BankWriter, Store
from tests.support.minilm import MINILM

SHAPE = (4, 2, 4, 6)
OPTIONS = CaptionOptions(model=MINILM)
FINGERPRINT = "captions-1"
DESCRIPTION = {"layout": "BCFHW", "shape": list(SHAPE), "spatial_ratio": 8, "temporal_ratio": 1, "call": {}}
_runs = itertools.count()
_loaded: list[Embedder] = []


def embedder() -> Embedder:
    """The captions model, loaded once."""
    if not _loaded:
        _loaded.append(load_embedder(MINILM))
    return _loaded[0]


def record_of(id: str, shape: Sequence[int] = SHAPE) -> torch.Tensor:
    """The noise that the tests store for a clip: with a mean and a spread of its own."""
    noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(xxh64(id) >> 1))
    return 0.1 + 1.2 * noise


def caption_rows(captions: Mapping[str, str]) -> pa.Table:
    """Rows of a captions shard, sorted by num."""
    rows = [
        {"num": clip_number(id), "id": id, "source": id.split("-")[0], "caption": text, "caption_hash": xxh64(text)}
        for id, text in captions.items()
    ]
    schema = captions_schema(1).remove(5)
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["num"]), schema)


def embed(store: Store, captions: Mapping[str, str], fingerprint: str = FINGERPRINT) -> Receipt:
    """The receipt of a captions shard."""
    rows = caption_rows(captions)
    return run_job(CaptionsJob(rows, fingerprint, embedder), BankWriter(store)).receipt


def index_job(store: Store, receipts: Sequence[Receipt], parent: Snapshot | None, **options: Any) -> IndexJob:
    """The index job of a build."""
    files = tuple(file for receipt in receipts for file in receipt.files)
    values = {"fingerprint": FINGERPRINT, "options": IndexOptions(), "gone": np.zeros(0, np.int64)}
    return IndexJob(store, files, parent, **{**values, **options})


def invert(
    store: Store, noise_set: str, ids: Sequence[str], dtype: str = "float16", shape: Sequence[int] = SHAPE
) -> tuple[Receipt, list[dict[str, Any]]]:
    """A noise shard of :func:`record_of`: its receipt and the rows of the table of records."""
    ids = sorted(ids, key=clip_number)
    schema = noise_schema((shape[0], shape[1], shape[2], shape[3]), dtype)
    columns: dict[str, list[Any]] = {"num": [clip_number(id) for id in ids], "id": list(ids)}
    for field in schema:
        if field.name not in (*columns, "noise", "scale", "checksum"):
            columns[field.name] = [_filler(field.type, i) for i in range(len(ids))]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "noise.arrow")
        with NoiseWriter(path, schema) as writer:
            for row, id in enumerate(ids):
                writer.append(record_of(id, shape), {name: values[row] for name, values in columns.items()})
            layout = writer.finish()
        with pa.OSFile(str(path)) as file:
            checksums = pa.ipc.open_file(file).read_all().column("checksum").to_pylist()
        entry = BankWriter(store).file(path, f"noise/{noise_set}", ".arrow", len(ids))
    inputs = inputs_hash("noise", pa.array(ids), pa.array([dtype]))
    receipt = finish(store, Receipt(f"noise/{noise_set}", inputs, "noise", (entry,), len(ids), (), layout))
    records = [
        {"num": clip_number(id), "file": entry.key, "row": row, "checksum": checksum, "status": int(Status.OK)}
        for row, (id, checksum) in enumerate(zip(ids, checksums, strict=True))
    ]
    return receipt, records


def build(
    store: Store,
    captions: Mapping[str, str],
    *,
    removed: Sequence[str] = (),
    sets: Mapping[str, Sequence[str]] | None = None,
    dtype: str = "float16",
    description: Mapping[str, Any] = DESCRIPTION,
    model: str = MINILM,
) -> Snapshot:
    """Commits clips with these captions, records for those of ``sets`` (default: all, in set ``toy``), and removals."""
    parent = latest_snapshot(store)
    sets = {"toy": list(captions)} if sets is None else sets
    gone = np.array(sorted(clip_number(id) for id in removed), np.int64)
    receipts, rows, records = [], [_row(id, Status.REMOVED) for id in removed], {}
    index, replaces = None, frozenset[str]()
    if captions:
        embedded = embed(store, captions)
        indexed = run_job(index_job(store, [embedded], parent, gone=gone), BankWriter(store)).receipt
        index, replaces = segment_of(indexed)
        tar = BankWriter(store).data("".join(captions).encode(), "clips", ".tar", len(captions))
        clips = finish(store, Receipt("clips", embedded.inputs, "clips", (tar,), len(captions)))
        receipts += [clips, embedded, indexed]
        order = caption_rows(captions).column("id").to_pylist()
        rows += [_row(id, Status.OK, tar.key, embedded.files[0].key, i) for i, id in enumerate(order)]
    for name, ids in sets.items():
        if ids:
            receipt, made = invert(store, name, ids, dtype, description["shape"])
            receipts.append(receipt)
            records[name] = [pa.Table.from_pylist(made, RECORDS)]
    models = {f"noise/{name}": {**description, "dtype": dtype, "model": "toy"} for name in sets}
    info = CommitInfo(
        run_id=f"reader-test-{next(_runs)}",
        fingerprints={"clips": "c", "captions": FINGERPRINT, **{f"noise/{name}": "noise" for name in sets}},
        models={"captions": {"model": model, "digest": embedder().digest}, **models},
        noise_sets=tuple(sets),
        sources=("mine", "yours"),
    )
    rows_table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["num"]), ROWS)
    delta = Delta(rows=[rows_table], records=records, receipts=receipts, index=index, replaces=replaces)
    return commit(store, parent, delta, info)


def _row(id: str, status: Status, clip_file: int = 0, caption_file: int = 0, row: int = -1) -> dict[str, Any]:
    values = {"num": clip_number(id), "source": source_number(id.split("-")[0]), "listed": 1, "video": 1, "caption": 1}
    values |= {"clip_file": clip_file, "clip_row": row, "caption_file": caption_file, "caption_row": row}
    return values | {"status": int(status)}


def _filler(type: pa.DataType, i: int) -> Any:
    if pa.types.is_fixed_size_list(type):
        return [0.25 * i] * type.list_size
    return f"text {i}" if type == pa.string() else i
