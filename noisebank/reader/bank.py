"""The reader: a bank opened at one snapshot, asked for captions near a prompt and for the noise to start from.

>>> bank = NoiseBank.open("gs://me/bank")                                           # doctest: +SKIP
>>> latents = bank.noise("a dog on the beach", eta=0.2, generator=generator)        # doctest: +SKIP
>>> frames = pipe("a dog on the beach", **bank.inputs("a dog on the beach", pipe=pipe)).frames  # doctest: +SKIP
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from noisebank.errors import UnknownNoiseSet
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.models.layout import from_pipeline, pipeline_inputs
from noisebank.progress import ReportProgress, silent
from noisebank.reader.captions_model import CaptionsModel
from noisebank.reader.contents import Contents
from noisebank.reader.frequencies import LowPass
from noisebank.reader.mixing import normalise
from noisebank.reader.noise_sample import NoiseSample, mix_records
from noisebank.reader.pinned import PinnedSet, PinnedSnapshot
from noisebank.reader.priors import Generators, Prior
from noisebank.search.segments import Hit
from noisebank.storage import Store, open_store

if TYPE_CHECKING:
    from noisebank.models.check import Mismatch
    from noisebank.reader.coverage import Coverage
    from noisebank.rewriting.template import Rewriter
    from noisebank.search.embed import Embedder
    from noisebank.search.index import Vectors

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InvertedNoise:
    """One record as stored.

    Args:
        noise: ``[C, F, H, W]`` float32, sigma-normalised: what a pipeline's ``latents=`` wants, but for the layout.
        statistics: the other columns of its shard: ``mean`` by channel, ``stored_reconstruction_error`` or None...
    """

    id: str
    noise: torch.Tensor
    statistics: dict[str, Any]


class NoiseBank(Contents, AbstractContextManager["NoiseBank"]):
    """A bank, pinned to one snapshot: it keeps answering from it while others are committed; see :meth:`open`."""

    def __init__(
        self, store: Store, snapshot: Snapshot, noise_set: str | None = None, embedder: str | Embedder | None = None
    ) -> None:
        self._store, self._set_name = store, noise_set
        self._captions_model = CaptionsModel(store.url, embedder)
        self._pin(snapshot)

    @classmethod
    def open(
        cls,
        uri: str | Path,
        snapshot: int | None = None,
        *,
        noise_set: str | None = None,
        embedder: str | Embedder | None = None,
        cache: str | Path | None = None,
    ) -> NoiseBank:
        """Opens a bank; reads one small file, everything else when it is needed.

        Args:
            uri: local path, ``gs://``, ``s3://``, ``az://`` or ``memory://``.
            snapshot: its number; default: the latest.
            noise_set: whose records :meth:`noise` takes; needed where the bank has several.
            embedder: the captions model, loaded or by folder or hub id, where it is not to be found at the path that
                the bank was built with; it must be the same model.
            cache: a folder that keeps what is read from an object store, so that no other process on this machine asks
                for it again; default: the environment variable ``NOISEBANK_CACHE``, or none.

        Raises:
            BankNotFound: there is no bank, or no such snapshot.
            SnapshotExpired: the snapshot was vacuumed.
            UnsupportedFormat: a newer version of noisebank wrote it.
            UnknownNoiseSet: the bank has no such noise set.
        """
        store = open_store(uri, cache or os.environ.get("NOISEBANK_CACHE") or None)
        return cls(store, read_snapshot(store, snapshot), noise_set, embedder)

    def __reduce__(self) -> tuple[object, ...]:
        embedder, cache = self._captions_model.given, self._store.cache
        reopen = partial(NoiseBank.open, noise_set=self._set_name, embedder=embedder, cache=cache)
        return reopen, (self._store.url, self.snapshot)

    def __repr__(self) -> str:
        noise_set = self._chosen_set(self._pinned.snapshot)
        return f"NoiseBank({self._store.url!r}, snapshot={self.snapshot}, {noise_set=})"

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes what was copied into a temporary folder; a closed bank answers with ValueError."""
        self._pinned.close()

    @property
    def snapshot(self) -> int:
        """Number of the snapshot that it answers from."""
        return self._pinned.snapshot.number

    @property
    def snapshot_uuid(self) -> str:
        """Of the snapshot that it answers from: no other has it, in no bank."""
        return self._pinned.snapshot.uuid

    @property
    def noise_set(self) -> str:
        """Name of the noise set that :meth:`noise` takes records of.

        Raises:
            UnknownNoiseSet: the bank has several and none was named.
        """
        return self._set(self._pinned).name

    @property
    def noise_sets(self) -> tuple[str, ...]:
        """The noise sets of the snapshot."""
        return tuple(sorted(self._pinned.snapshot.models["noise"]))

    def refresh(self) -> int:
        """Moves to the latest snapshot, and returns its number."""
        latest = read_snapshot(self._store)
        if latest.number != self.snapshot:
            self._pin(latest)
        return latest.number

    def search(self, prompt: str, k: int = 5) -> list[Hit]:
        """At most ``k`` captions nearest to ``prompt``, nearest first.

        Raises:
            ValueError: ``k`` is less than 1, or ``prompt`` is no text.
            ConfigError: the captions model cannot be had, or is another than the bank's.
            BankDamaged: a file of the index is missing or damaged.
            SnapshotExpired: the snapshot was vacuumed meanwhile.
        """
        return self.nearest([_text("prompt", prompt)], k)[0]

    def nearest(self, prompts: Sequence[str], k: int = 5) -> list[list[Hit]]:
        """:meth:`search` of each of the prompts, which are embedded and searched together."""
        if k < 1:
            raise ValueError(f"k {k} is not allowed; at least 1")
        pinned, prompts = self._pinned, _texts("prompt", prompts)
        with pinned.reading():
            return pinned.nearest(self._embed(pinned, prompts), k)

    def coverage(
        self, prompts: Sequence[str], *, below: float | None = None, progress: ReportProgress = silent
    ) -> Coverage:
        """How near prompts are to the bank's captions, beside how near these are to each other.

        Args:
            prompts: any number of them; each counts as often as it is there.
            below: a prompt whose best similarity is lower is far; default: the 5th percentile of the captions' own.
            progress: called with how many prompts and captions are done, and how many there are.

        Returns:
            See :class:`.coverage.Coverage`. All captions count, or, if the bank was opened with a ``noise_set``,
            those whose clip has a record in it.

        Raises:
            ValueError: as :meth:`search`; or the bank has one caption alone, and ``below`` is not given.
            ClipNotFound: there is no caption to compare with.
            ConfigError, BankDamaged, SnapshotExpired: as :meth:`search`.
        """
        from noisebank.reader.coverage import measure_coverage

        pinned, prompts = self._pinned, _texts("prompt", prompts)
        with pinned.reading():
            records = pinned.noise_set(self._set_name) if self._set_name else None
            return measure_coverage(pinned, prompts, partial(self._embed, pinned), records, below, progress)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embeddings ``[N, D]`` of texts by the bank's captions model, each row of length one."""
        return self._embed(self._pinned, texts)

    def references(self, prompt: str, k: int = 5) -> list[str]:
        """The captions of :meth:`search`: examples for a language model that rewrites prompts in their manner."""
        return [hit.caption for hit in self.search(prompt, k)]

    def rewrite(self, prompt: str | Sequence[str], rewriter: Rewriter, *, k: int = 5, **limits: Any) -> str | list[str]:
        """Prompts in the words of the captions nearest to them (ONA, Eq. 7), for :func:`hybrid_semantics`.

        Args:
            prompt: one, or a list of them.
            rewriter: ``TransformersRewriter``, ``EndpointRewriter``, or a function of a list of requests.
            k: captions that it is shown.
            limits: ``max_words=20`` of a rewrite, ``min_similarity=0.4`` of its cosine to the prompt.

        Returns:
            The rewrite, or the list of them; the prompt itself, and a warning in the log, where no answer could be
            used in two tries.

        Raises:
            ValueError, ConfigError, BankDamaged, SnapshotExpired: as :meth:`search`.
        """
        from noisebank.rewriting.online import rewrite_online

        prompts = _texts("prompt", prompt)
        shown = [[hit.caption for hit in hits] for hits in self.nearest(prompts, k)]
        rewritten = rewrite_online(prompts, shown, rewriter, self.embed, **limits)
        return rewritten[0] if isinstance(prompt, str) else rewritten

    def noise(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        id: str | Sequence[str] | None = None,
        eta: float = 0.2,
        generator: Generators = None,
        prior: str | Prior = "iid",
        lowpass: str | LowPass | None = None,
        normalize: str = "none",
        min_similarity: float | None = None,
        pipe: Any = None,
        num_inference_steps: int | None = None,
    ) -> torch.Tensor:
        """Noise to start a prompt's generation from: ``(fresh + eta * inverted) / sqrt(1 + eta^2)`` (ONA, Eq. 4).

        Args:
            prompt: what will be generated; its nearest caption's clip gives the inverted noise. A list gives a batch.
            id: the clip (or a list of them) to take instead of a prompt's nearest.
            eta: weight of the inverted noise: 0 is fresh noise alone, inf the record exactly (without ``lowpass``).
            generator: of the fresh noise: one, a list with one a sample, or None for torch's global generator.
            prior: of the fresh noise: ``iid``, ``mixed`` or ``progressive``, :func:`.priors.mixed` and
                :func:`.priors.progressive` with an alpha, or a function of (shape, generator).
            lowpass: mix the record's low frequencies alone (:func:`.frequencies.mix_frequencies`): ``gaussian``,
                ``butterworth``, ``ideal``, ``box``, or a :class:`.frequencies.LowPass` with cut-offs.
            normalize: bring the inverted noise to mean 0 and variance 1: ``none``, ``global`` or ``channel``.
            min_similarity: a prompt whose nearest caption scores less gets fresh noise, and a warning in the log.
            pipe: the diffusers pipeline that will use it, to be checked first (:meth:`check`).
            num_inference_steps: what the pipeline will be called with, for the check; default: what the records were
                made with, and only with as many does ``eta=inf`` give a clip back.

        Returns:
            float32 on the CPU in the pipeline's own layout, e.g. ``[1, 4, 16, 32, 32]``. At ``eta=0`` it equals
            diffusers' ``randn_tensor(shape, generator, dtype=torch.float32)`` bit for bit.

        Raises:
            ClipNotFound: no such clip, or none with a record in the noise set.
            UnknownNoiseSet: the bank has several and none was named.
            ShapeMismatch: ``pipe`` or ``prior`` does not fit the records.
            ValueError: an argument is out of its range, or neither or both of ``prompt`` and ``id`` are given.
            BankDamaged, SnapshotExpired, ConfigError: as :meth:`search`.
        """
        return self.sample(
            prompt,
            id=id,
            eta=eta,
            generator=generator,
            prior=prior,
            lowpass=lowpass,
            normalize=normalize,
            min_similarity=min_similarity,
            pipe=pipe,
            num_inference_steps=num_inference_steps,
        ).latents

    def sample(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        id: str | Sequence[str] | None = None,
        eta: float = 0.2,
        generator: Generators = None,
        prior: str | Prior = "iid",
        lowpass: str | LowPass | None = None,
        normalize: str = "none",
        min_similarity: float | None = None,
        pipe: Any = None,
        num_inference_steps: int | None = None,
        digest: bool = False,
    ) -> NoiseSample:
        """:meth:`noise` with what it was mixed from; ``digest``: also a digest of the fresh noise that was drawn."""
        if (prompt is None) == (id is None):
            raise ValueError("give either a prompt or an id, or a list of them")
        wanted = _texts("prompt", prompt) if id is None else _texts("id", id)
        pinned = self._pinned
        with pinned.reading():
            records = self._set(pinned)
            if pipe is not None:
                records.check(pipe, num_inference_steps)
            embed = partial(self._embed, pinned)
            hits = records.nearest(wanted, embed) if id is None else [pinned.clip(one) for one in wanted]
            inverted = [normalise(record, normalize) for record in records.batch(hits)]
        fresh = [min_similarity is not None and hit.score < min_similarity for hit in hits]
        for hit in compress(hits, fresh):
            _log.warning(
                "nearest caption %r scores %.3f, below %g: fresh noise", hit.caption, hit.score, min_similarity
            )
        return mix_records(inverted, hits, fresh, eta, records.model, prior, generator, lowpass, digest)

    def inputs(self, prompt: str | Sequence[str] | None = None, *, pipe: Any = None, **options: Any) -> dict[str, Any]:
        """Latents with the ``height``, ``width`` and ``num_frames`` that go with them, for a pipeline's ``__call__``.

        Args:
            pipe: the pipeline: it is checked, and the latents are brought to its device and dtype.
            prompt, options: as for :meth:`noise`.
        """
        sample = self.sample(prompt, pipe=pipe, **options)
        latents = from_pipeline(sample.latents, sample.model["layout"], tuple(sample.model["shape"]))
        inputs = pipeline_inputs(sample.model, latents)
        if pipe is not None:
            device = getattr(pipe, "_execution_device", pipe.device)  # (an offloaded pipeline's own is cpu, or meta)
            inputs["latents"] = inputs["latents"].to(device, pipe.dtype)
        return inputs

    def check(self, pipe: Any, num_inference_steps: int | None = None) -> list[Mismatch]:
        """Compares a diffusers pipeline with what the noise set was made with.

        Args:
            pipe: the pipeline; it is not changed.
            num_inference_steps: what it will be called with; default: what the records were made with.

        Returns:
            The differences that do no harm to a mix; each is also a warning.

        Raises:
            ShapeMismatch: family, VAE, shape or prediction type differ: the records mean nothing to this pipeline.
            ValueError: no schedule has ``num_inference_steps`` steps.
        """
        pinned = self._pinned
        with pinned.reading():
            return self._set(pinned).check(pipe, num_inference_steps)

    def inverted(self, id: str) -> InvertedNoise:
        """One record as stored, decoded to float32, with its statistics.

        Raises:
            ValueError: ``id`` is no text.
            ClipNotFound: the clip is not in the snapshot, or has no record in the noise set.
            BankDamaged: its shard is missing or damaged.
        """
        pinned = self._pinned
        with pinned.reading():
            records, clip = self._set(pinned), pinned.clip(_text("id", id))
            statistics = records.statistics(clip)
            return InvertedNoise(id, records.noise(clip), statistics)

    def _pin(self, snapshot: Snapshot) -> None:
        if self._set_name not in (None, *snapshot.models["noise"]):
            raise self._unknown_set(f"no noise set {self._set_name!r}", snapshot)
        self._pinned = PinnedSnapshot(self._store, snapshot)

    def _chosen_set(self, snapshot: Snapshot) -> str | None:
        """The noise set that was named, or the only one."""
        names = list(snapshot.models["noise"])
        return self._set_name or (names[0] if len(names) == 1 else None)

    def _set(self, pinned: PinnedSnapshot) -> PinnedSet:
        if (name := self._chosen_set(pinned.snapshot)) is None:
            raise self._unknown_set("name a noise_set", pinned.snapshot)
        return pinned.noise_set(name)

    def _needed_set(self, pinned: PinnedSnapshot, needs_noise: bool) -> str | None:
        return self._set(pinned).name if needs_noise else self._chosen_set(pinned.snapshot)

    def _unknown_set(self, problem: str, snapshot: Snapshot) -> UnknownNoiseSet:
        known = ", ".join(sorted(snapshot.models["noise"])) or "none"
        return UnknownNoiseSet(f"{self._store.url}: {problem}; it has {known}")

    def _embed(self, pinned: PinnedSnapshot, prompts: Sequence[str]) -> Vectors:
        return self._captions_model.embed(pinned.snapshot, prompts)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} {value!r} is not allowed; one text")
    return value


def _texts(name: str, value: object) -> list[str]:
    """The texts of an argument that is one or a list of them."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Sequence) or not value:
        raise ValueError(f"{name} {value!r} is not allowed; a text, or a list of at least one")
    return [_text(name, text) for text in value]
