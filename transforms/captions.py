"""Captions to embeddings: Beam's RunInference over shards, one Sentence-BERT a process, one shard an element."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference

from noisebank.format.receipts import find_receipt
from noisebank.options import CaptionOptions
from noisebank.planning.plan import read_task
from noisebank.search.embed import Embedder, load_embedder
from noisebank.stages.captions import STAGE, caption_inputs, make_captions_shard, rows_to_embed
from noisebank.stages.finished import Finished
from noisebank.storage import open_store
from schemas.captions import captions_schema
from transforms.work import Done, Work, count, generation_of, plan_of, unfinished


class EmbedCaptions(beam.PTransform):
    """Embeds the captions of tasks, or finds those that are embedded.

    Args:
        bank: its address.
        captions: which model embeds them.
        make: whether missing shards are made; if not, one that is missing is an error.

    Input: :class:`.work.Work`, either a task of stage ``captions``, or one with the receipt of new clips.
    Output: :class:`.work.Done`, one a shard.
    """

    def __init__(self, bank: str, captions: CaptionOptions, make: bool = True) -> None:
        super().__init__()
        self.bank, self.captions, self.make = bank, captions, make

    def expand(self, work: beam.PCollection[Work]) -> beam.PCollection[Done]:
        return work | RunInference(_CaptionsHandler(self.bank, self.captions, self.make))


class _LazyEmbedder:
    """A model that is loaded when the first shard needs it: a build without new captions loads none.

    ``digest`` is that of the model that was planned with.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._embedder: Embedder | None = None

    def __call__(self, digest: str) -> Embedder:
        with self._lock:
            if self._embedder is None:
                self._embedder = load_embedder(self._model, digest)
            return self._embedder


class _CaptionsHandler(ModelHandler[Work, Done, _LazyEmbedder]):
    def __init__(self, bank: str, captions: CaptionOptions, make: bool) -> None:
        super().__init__(max_batch_size=1)
        self.bank, self.captions, self.make = bank, captions, make

    def load_model(self) -> _LazyEmbedder:
        return _LazyEmbedder(self.captions.model)

    def run_inference(
        self, batch: Sequence[Work], model: _LazyEmbedder, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Done]:
        return [self._embed(work, model) for work in batch]

    def _embed(self, work: Work, model: _LazyEmbedder) -> Done:
        store = open_store(self.bank)
        plan = plan_of(self.bank, work.plan)
        rows = rows_to_embed(store, read_task(store, work.task), plan.source_names, work.clips)
        fingerprint = plan.fingerprints[STAGE]
        if not self.make:
            receipt = find_receipt(store, STAGE, caption_inputs(fingerprint, rows))
            if receipt is None:
                raise unfinished(STAGE, work)
            return Done(work, Finished(receipt, made=False, seconds=0.0))
        finished = make_captions_shard(
            store,
            rows,
            fingerprint=fingerprint,
            load=partial(model, plan.models[STAGE]["digest"]),
            schema_of=captions_schema,
            batch_size=self.captions.batch_size,
            generation=generation_of(self.bank, work.plan),
        )
        count(finished, STAGE)
        return Done(work, finished)

    def get_metrics_namespace(self) -> str:
        return "noisebank_captions"
