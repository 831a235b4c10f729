"""Captions: rows of a plan in; a Parquet file of captions with their embeddings and a receipt out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisebank.format.receipts import Receipt, find_receipt, finish, inputs_hash
from noisebank.search.embed import Embedder
from noisebank.stages.clips import SIDECAR, read_sidecar
from noisebank.stages.finished import Finished
from noisebank.storage import Store, publish_file

STAGE = "captions"
SUFFIX = ".parquet"
COLUMNS = ("num", "id", "source", "caption", "caption_hash")


def rows_to_embed(
    store: Store, rows: pa.Table, source_names: Mapping[int, str], clips: Receipt | None = None
) -> pa.Table:
    """The rows of a captions shard, from those of a task.

    Args:
        store: the bank.
        rows: of the task (``schemas.rows.TASK_ROWS``), sorted by num.
        source_names: source names by their number in ``rows``.
        clips: the receipt of the clips shard made of the same task: then only the rows marked ``embed`` whose clip is
            good. None for a task of captions alone.

    Returns:
        :data:`COLUMNS`, the source by its name.
    """
    if clips is not None:
        good = pa.array([], pa.int64())
        for entry in clips.files:
            if entry.path.endswith(SIDECAR):
                sidecar = read_sidecar(store, entry.path, ["num", "clip_row"])
                good = sidecar.filter(pc.field("clip_row") >= 0).column("num").combine_chunks()
        rows = rows.filter(pc.and_(rows.column("embed"), pc.is_in(rows.column("num"), value_set=good)))
    names = pa.array([source_names[number] for number in rows.column("source").to_pylist()], pa.string())
    return rows.set_column(rows.schema.get_field_index("source"), "source", names).select(COLUMNS)


def caption_inputs(fingerprint: str, rows: pa.Table) -> str:
    """The inputs hash of a captions shard: ids and captions."""
    return inputs_hash(fingerprint, rows.column("id"), rows.column("caption"))


def make_captions_shard(
    store: Store,
    rows: pa.Table,
    *,
    fingerprint: str,
    load: Callable[[], Embedder],
    schema_of: Callable[[int], pa.Schema],
    batch_size: int = 64,
    generation: int = 0,
) -> Finished:
    """Embeds the captions of one shard, unless its receipt exists.

    Args:
        store: the bank.
        rows: of the shard (:func:`rows_to_embed`).
        fingerprint: of the stage.
        load: gives the loaded model; called only when there is something to do.
        schema_of: schema of a captions file by the length of an embedding (``schemas.captions.captions_schema``).
        batch_size: most captions in a batch.
        generation: number of the bank's last vacuum.

    Returns:
        The receipt names the captions file, or none if there are no rows; its ``info`` has ``dim``.
    """
    began = time.perf_counter()
    inputs = caption_inputs(fingerprint, rows)
    if (found := find_receipt(store, STAGE, inputs)) is not None:
        return Finished(found, made=False, seconds=time.perf_counter() - began)
    if not rows.num_rows:
        counted = finish(store, Receipt(STAGE, inputs, fingerprint, (), 0))
        return Finished(counted, made=False, seconds=time.perf_counter() - began)
    embedder = load()
    embeddings = embedder.embed(rows.column("caption").to_pylist(), batch_size)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(embeddings)), embedder.dim)
    table = rows.append_column("embedding", vectors).cast(schema_of(embedder.dim))
    with tempfile.TemporaryDirectory(prefix="noisebank-captions-") as scratch:
        path = Path(scratch, "captions.parquet")
        pq.write_table(table, path, compression="zstd", use_dictionary=list(COLUMNS))
        entry = publish_file(store, path, STAGE, SUFFIX, table.num_rows, generation)
    receipt = Receipt(STAGE, inputs, fingerprint, (entry,), table.num_rows, (), {"dim": embedder.dim})
    counted = finish(store, receipt)
    return Finished(counted, made=counted == receipt, seconds=time.perf_counter() - began)
