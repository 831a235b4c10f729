"""Clips to inverted noise on GPU workers: Beam's RunInference over shards, one model a process, one tar an element."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler, RunInference

from noisebank.errors import BankDamaged
from noisebank.format.receipts import find_receipt
from noisebank.models import ModelAdapter
from noisebank.options import NoiseOptions
from noisebank.planning.plan import read_task
from noisebank.stages.clips import TAR, sidecar_of
from noisebank.stages.finished import Finished
from noisebank.stages.noise import clips_of_tar, make_noise_shard, noise_inputs, noise_stage
from noisebank.storage import Store, open_store
from schemas.noise import noise_schema
from transforms.work import Done, Work, count, generation_of, plan_of, unfinished


class InvertClips(beam.PTransform):
    """Inverts the clips of tars for one noise set, or finds what is inverted.

    Args:
        bank: its address.
        noise: options of the set.
        make: whether missing shards are made; if not, one that is missing is an error.

    Input: :class:`.work.Work`, either a task of stage ``noise/<set>``, or one with the receipt of new clips.
    Output: :class:`.work.Done`, one a tar.
    """

    def __init__(self, bank: str, noise: NoiseOptions, make: bool = True) -> None:
        super().__init__()
        self.bank, self.noise, self.make = bank, noise, make

    def expand(self, work: beam.PCollection[Work]) -> beam.PCollection[Done]:
        run = RunInference(_NoiseHandler(self.bank, self.noise, self.make))
        if self.noise.accelerator:
            run = run.with_resource_hints(accelerator=self.noise.accelerator)
        return work | beam.Filter(_has_clips) | run


def _has_clips(work: Work) -> bool:
    """Whether there is a tar: of a task over new clips there is none if every row failed."""
    return work.clips is None or work.clips.rows > 0


class _LazyModel:
    """A model that is loaded when the first shard needs it: a build with nothing to invert loads none.

    Its threads take turns by ``turn``: runners call one model from several, whose batches would not fit one device.
    ``digest`` is that of the model that was planned with.
    """

    def __init__(self, options: NoiseOptions) -> None:
        self._options = options
        self._adapter: ModelAdapter | None = None
        self.turn = threading.Lock()

    def __call__(self, digest: str) -> ModelAdapter:
        if self._adapter is None:
            self._adapter = load_adapter(self._options, digest)
        return self._adapter


def load_adapter(options: NoiseOptions, digest: str | None = None) -> ModelAdapter:
    """Loads the model of a noise set onto the best device of this machine, in the dtype that ``precision`` says.

    It must have ``digest`` (:func:`noisebank.models.model_digest`), if one is given.

    ``auto`` is float32 on a CPU and bfloat16 on a GPU that has it: no model's activations overflow it, so no clip is
    lost to infinities. Its rounding is the floor of the error, where one warm-started call a step is as good as many;
    a model that runs in float16 gets a smaller error from ``precision: float16`` (the frontier in docs/inversion.md).

    float32 means float32: torch would let convolutions round their inputs to the 10 bits of TF32, those of the VAE too,
    which is as coarse as float16. That is switched off for the whole process.
    """
    import torch
    from diffusers.utils import logging as diffusers_logging

    from noisebank.models import load_model

    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    device = "cuda" if torch.cuda.is_available() else "cpu"
    automatic = "float32"
    if device == "cuda":
        automatic = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    precision = automatic if options.precision == "auto" else options.precision
    dtype = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[precision]
    return load_model(
        options.model,
        dtype=dtype,
        device=device,
        motion_adapter=options.motion_adapter,
        compile=options.compile,
        digest=digest,
    )


class _NoiseHandler(ModelHandler[Work, Done, _LazyModel]):
    def __init__(self, bank: str, noise: NoiseOptions, make: bool) -> None:
        super().__init__(max_batch_size=1)
        self.bank, self.noise, self.make = bank, noise, make

    def load_model(self) -> _LazyModel:
        return _LazyModel(self.noise)

    def run_inference(
        self, batch: Sequence[Work], model: _LazyModel, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Done]:
        return [self._invert(work, model) for work in batch]

    def _invert(self, work: Work, model: _LazyModel) -> Done:
        store = open_store(self.bank)
        stage = noise_stage(self.noise.name)
        tar, clips = _clips(store, work)
        plan = plan_of(self.bank, work.plan)
        fingerprint = plan.fingerprints["noise"][self.noise.name]
        if not self.make:
            receipt = find_receipt(store, stage, noise_inputs(fingerprint, clips))
            if receipt is None:
                raise unfinished(stage, work)
            return Done(work, Finished(receipt, made=False, seconds=0.0))
        planned = plan.models["noise"][self.noise.name]
        with model.turn:
            finished = make_noise_shard(
                store,
                tar,
                clips,
                options=self.noise,
                fingerprint=fingerprint,
                load=partial(model, planned["digest"]),
                schema=noise_schema(planned["shape"], self.noise.dtype),
                generation=generation_of(self.bank, work.plan),
            )
        count(finished, stage)
        return Done(work, finished)

    def get_metrics_namespace(self) -> str:
        return "noisebank_noise"


def _clips(store: Store, work: Work) -> tuple[str, pa.Table]:
    """The tar of a piece of work, and which of its clips are wanted, with the number of the try."""
    if work.clips is not None:
        tars = [entry.path for entry in work.clips.files if entry.path.endswith(TAR)]
        return tars[0], clips_of_tar(store, tars[0])
    wanted = read_task(store, work.task)
    clips = clips_of_tar(store, work.task.tar, wanted.column("num"))
    if clips.num_rows != wanted.num_rows:
        sidecar = sidecar_of(work.task.tar)
        found = f"{wanted.num_rows} clips are wanted, it has {clips.num_rows} of them"
        raise BankDamaged(f"{sidecar}: {found}; run noisebank verify")
    clips = clips.sort_by("num").set_column(
        clips.schema.get_field_index("attempt"), "attempt", wanted.sort_by("num").column("attempt")
    )
    return work.task.tar, clips.sort_by("clip_row")
