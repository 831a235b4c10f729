"""Captions: rows of a plan in; a Parquet file of captions with their embeddings, a row each, out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.format.manifest import Snapshot
from noisebank.format.parts import kind_of
from noisebank.format.reading import read_table
from noisebank.format.receipts import Receipt, inputs_hash
from noisebank.format.schemas import captions_schema
from noisebank.format.stage_names import CAPTIONS, SIDECARS, StageName
from noisebank.format.tables import write_parquet
from noisebank.models.config import absolute_path
from noisebank.options import CaptionOptions, Config, fingerprint
from noisebank.planning.plan import Plan, read_task
from noisebank.search.embed import Embedder, embedder_digest, load_embedder
from noisebank.stages.job import TRUNCATED, Made, ShardJob
from noisebank.stages.stage import Identity, LazyModel, ShardWork, Stage
from noisebank.storage import BankWriter, FileEntry, Store

COLUMNS = ("num", "id", "source", "caption", "caption_hash")


@dataclass(frozen=True)
class CaptionsStage(Stage):
    """Embeds the captions.

    Args:
        options: which model embeds them.
    """

    options: CaptionOptions

    @property
    def name(self) -> StageName:
        return StageName(CAPTIONS)

    def identify(self, config: Config, latest: Snapshot | None) -> Identity:
        digest, revision = embedder_digest(self.options.reference), self.options.revision
        model = {"model": absolute_path(self.options.model), "digest": digest}
        model |= {"revision": revision} if revision else {}
        return Identity(fingerprint(self.options, model_digest=digest), model)

    def load_model(self, digest: str) -> Embedder:
        return load_embedder(self.options.reference, digest)

    def job(self, store: Store, plan: Plan, work: ShardWork, model: LazyModel) -> ShardJob:
        rows = rows_to_embed(store, read_task(store, work.task), plan.source_names, work.clips)
        return self.shard(rows, plan.fingerprints[CAPTIONS], lambda: self.get_model(model, plan))

    def shard(self, rows: pa.Table, fingerprint: str, load: Callable[[], Embedder]) -> ShardJob:
        """The job of one captions file, or none if there are no rows; its ``info`` has ``dim``, and
        ``truncated`` if there are captions that the model does not read to their end.

        Args:
            rows: of the shard (:func:`rows_to_embed`).
            fingerprint: of the stage.
            load: gives the loaded model; called only when there is something to do.
        """

        def make(writer: BankWriter) -> Made:
            if not rows.num_rows:
                return Made((), 0)
            embedder = load()
            embeddings = embedder.embed(rows.column("caption").to_pylist(), self.options.batch_size)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(embeddings)), embedder.dim)
            table = rows.append_column("embedding", vectors).cast(captions_schema(embedder.dim))
            truncated = embedder.count_truncated(table.column("caption").to_pylist())
            info, note = {"dim": embedder.dim}, ""
            if truncated:
                info[TRUNCATED] = truncated
                note = f"{truncated} of them longer than {self.options.model} reads: their ends count for nothing"
            return Made((write_captions(writer, table),), clips, info=info, note=note)

        clips = pc.count_distinct(rows.column("num")).as_py()
        return ShardJob(CAPTIONS, fingerprint, caption_inputs(fingerprint, rows), clips, make)


def rows_to_embed(
    store: Store, rows: pa.Table, source_names: Mapping[int, str], clips: Receipt | None = None
) -> pa.Table:
    """The rows of a captions shard, from those of a task.

    Args:
        store: the bank.
        rows: of the task (:data:`noisebank.format.schemas.TASK_ROWS`), sorted by num.
        source_names: source names by their number in ``rows``.
        clips: the receipt of the clips shard made of the same task: then only the rows marked ``embed`` whose clip is
            good. None for a task of captions alone.

    Returns:
        :data:`COLUMNS`, the source by its name; a row a caption.
    """
    if clips is not None:
        sidecars = [entry.path for entry in clips.files if kind_of(entry.path) == SIDECARS]
        tables = [read_table(store, path, ["num", "clip_row"]).filter(pc.field("clip_row") >= 0) for path in sidecars]
        good = pa.chunked_array([table.column("num").combine_chunks() for table in tables], pa.int64())
        rows = rows.filter(pc.and_(rows.column("embed"), pc.is_in(rows.column("num"), value_set=good)))
    names = pa.array([source_names[number] for number in rows.column("source").to_pylist()], pa.string())
    rows = rows.set_column(rows.schema.get_field_index("source"), "source", names)
    pairs = zip(several_captions(rows), rows.column("caption").to_pylist(), strict=True)
    captions = [texts or [first] for texts, first in pairs]
    rows = rows.take(pa.array(np.repeat(np.arange(len(captions)), [*map(len, captions)])))
    texts = pa.array(chain.from_iterable(captions), pa.string())
    return rows.set_column(rows.schema.get_field_index("caption"), "caption", texts).select(COLUMNS)


def several_captions(rows: pa.Table) -> list[list[str] | None]:
    """All captions of each row of a task that has several; None of the others."""
    if "captions" not in rows.column_names:  # (a plan that an earlier version left)
        return [None] * rows.num_rows
    captions: list[list[str] | None] = rows.column("captions").to_pylist()
    return captions


def caption_inputs(fingerprint: str, rows: pa.Table) -> str:
    """The inputs hash of a captions shard: ids and captions."""
    return inputs_hash(fingerprint, rows.column("id"), rows.column("caption"))


def write_captions(writer: BankWriter, table: pa.Table) -> FileEntry:
    """Stores a captions file (:func:`noisebank.format.schemas.captions_schema`)."""
    return write_parquet(writer, CAPTIONS, table, use_dictionary=list(COLUMNS))
