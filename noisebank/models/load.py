"""Load a model by hub id or folder and put it on its device."""

from __future__ import annotations

from typing import Any

import torch

from noisebank.devices import choose_device
from noisebank.errors import ConfigError
from noisebank.hub import split_reference
from noisebank.inversion.levels import Levels
from noisebank.loading import loading_a_model
from noisebank.models.base import ClipRules, ModelAdapter, family_of, vae_dtype
from noisebank.models.config import ModelConfig, check_weights, has_digest, model_digest, read_model_config
from noisebank.models.schedulers import deterministic_twin
from noisebank.modules import module_version
from noisebank.options import NoiseOptions


def load_clip_rules(model: str, motion_adapter: str | None = None) -> ClipRules:
    """Which clips a model takes, from its JSON files alone; :class:`ConfigError` where there is no such model."""
    config = read_model_config(model, motion_adapter)
    return family_of(config.pipeline_class).clip_rules(config)


def family_code(model: str, motion_adapter: str | None = None) -> dict[str, str]:
    """What a fingerprint is to say of the package whose adapter serves a model: nothing where it is this one."""
    module = family_of(read_model_config(model, motion_adapter).pipeline_class).__module__
    own = module.partition(".")[0] == __package__.partition(".")[0]
    return {} if own else {"family": f"{module} {module_version(module)}"}


def check_model(
    model: str, num_inference_steps: int, shape: tuple[int, int, int, int], motion_adapter: str | None = None
) -> Levels:
    """The steps of a model's sampler; refuses a model that could not be loaded or inverted. All from its JSON files and
    the names of the others.

    Args:
        model: as for :func:`load_model`, and so is ``motion_adapter``.
        num_inference_steps: steps of the inversion.
        shape: ``(C, F, H, W)`` of the latents.

    Raises:
        ConfigError: as of :func:`load_model` and :meth:`ModelAdapter.levels`.
    """
    config = read_model_config(model, motion_adapter)
    family = family_of(config.pipeline_class)
    check_weights(model, (family.network_name, "vae", "text_encoder"))
    if motion_adapter is not None:
        check_weights(motion_adapter, [""])
    scheduler = deterministic_twin(family.read_scheduler(config), family.scheduler_class)
    return family.scheduler_levels(scheduler, num_inference_steps, shape)


def load_model(
    model: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    motion_adapter: str | None = None,
    compile: bool = False,
    digest: str | None = None,
    vae_precision: str = "float32",
) -> ModelAdapter:
    """Load a diffusers pipeline behind the adapter of its family.

    Args:
        model: hub id, ``id@revision``, or local folder in diffusers' format; its ``model_index.json`` decides the
            family.
        dtype: dtype of network and text encoder.
        device: where network and VAE go; the text encoder only visits it.
        motion_adapter: AnimateDiff: hub id or folder of the motion adapter.
        compile: run the network through ``torch.compile`` (minutes of warm-up, then faster on a GPU).
        digest: what its files must be (:func:`~noisebank.models.model_digest`), or None for whatever they are.
        vae_precision: what the VAE computes in, as of :class:`~noisebank.models.ModelAdapter`.

    Raises:
        ConfigError: no such model, no family for it, a variant or scheduler that cannot be inverted, or another model
            than ``digest``.
    """
    config = read_model_config(model, motion_adapter)
    family = family_of(config.pipeline_class)
    family.clip_rules(config)
    if digest is not None and not has_digest(digest, model, motion_adapter):
        found = model_digest(model, motion_adapter)
        raise ConfigError(
            f"model {model!r} has digest {found}, the noise is to be made with {digest}; give that model, or plan anew"
        )
    pipe = _load_pipeline(config, model, motion_adapter, {"vae": vae_dtype(vae_precision), "default": dtype})
    pipe.set_progress_bar_config(disable=True)
    network = getattr(pipe, family.network_name).to(device).eval().requires_grad_(False)
    pipe.vae.to(device).eval().requires_grad_(False)
    if torch.device(device).type == "cuda":
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):  # (the tensor cores' memory format, which 3D convolutions lack)
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    if compile:
        network.compile()
    return family(config, pipe, dtype, device, vae_precision)


def _load_pipeline(config: ModelConfig, model: str, motion_adapter: str | None, dtypes: dict[str, torch.dtype]) -> Any:
    """The pipeline as diffusers loads it."""
    with loading_a_model:
        import diffusers

        parts: dict[str, Any] = {"safety_checker": None} if "safety_checker" in config.index else {}
        if motion_adapter is not None:
            id, revision = split_reference(motion_adapter)
            adapter = diffusers.MotionAdapter.from_pretrained(id, revision=revision, dtype=dtypes["default"])
            parts["motion_adapter"] = adapter
        id, revision = split_reference(model)
        try:
            return getattr(diffusers, config.pipeline_class).from_pretrained(
                id, revision=revision, dtype=dtypes, use_safetensors=True, **parts
            )
        except OSError as error:
            raise ConfigError(f"model {model!r} cannot be loaded: {error}") from error


def choose_precision(wanted: str, device: str) -> str:
    """The dtype that ``precision`` means on a device: ``float32``, ``bfloat16`` or ``float16``."""
    if wanted != "auto":
        return wanted
    return "float32" if device == "cpu" else "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def load_for_inversion(options: NoiseOptions, digest: str | None = None) -> ModelAdapter:
    """:func:`load_model` of a noise set, on this process's device (:func:`noisebank.devices.choose_device`), in the
    dtype that ``precision`` says.

    ``auto`` is float32 on a CPU and bfloat16 on a GPU that has it: no model's activations overflow it, so no clip is
    lost to infinities. Its rounding is the floor of the error, where one warm-started call a step is as good as many;
    a model that runs in float16 gets a smaller error from ``precision: float16`` (the frontier in docs/inversion.md).

    float32 means float32: torch would let convolutions round their inputs to the 10 bits of TF32, which is as coarse as
    float16. That is switched off for the whole process; ``vae_precision: tf32`` switches it on for the VAE alone.
    """
    with loading_a_model:
        from diffusers.utils import logging as diffusers_logging

    diffusers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    device = choose_device(options.device)
    return load_model(
        options.reference,
        dtype=getattr(torch, choose_precision(options.precision, device)),
        device=device,
        motion_adapter=options.motion_adapter,
        compile=options.compile,
        digest=digest,
        vae_precision=options.vae_precision,
    )
