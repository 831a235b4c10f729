"""What a model family has to say about itself, and the registry of families.

An adapter is thin: which clips fit, how frames become latents, what the network and the prompt's encoder want beside
the usual arguments, and how the pipeline sets its timesteps.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from noisebank.errors import ConfigError, ShapeMismatch
from noisebank.inversion.inverters import Network
from noisebank.inversion.levels import Levels, levels_from_scheduler
from noisebank.models.config import ModelConfig
from noisebank.models.layout import from_pipeline, to_pipeline
from noisebank.models.schedulers import deterministic_twin

VAE_SCALING = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "invert_scale_latents")
"""Options of VAEs that say how latents are scaled; with others of them the same latents are another clip."""

_SAMPLED = 1024
_KEPT_PROMPTS = 8

FAMILIES: dict[str, type[ModelAdapter]] = {}
"""Adapters by the diffusers class of their pipeline."""


def register_family(cls: type[ModelAdapter]) -> type[ModelAdapter]:
    """Class decorator that serves ``cls.pipeline_class`` with this adapter; ValueError if another package's does."""
    known = FAMILIES.setdefault(cls.pipeline_class, cls)
    if known.__module__.partition(".")[0] != cls.__module__.partition(".")[0]:
        raise ValueError(f"{cls.pipeline_class} has an adapter already, {known.__module__}.{known.__qualname__}")
    FAMILIES[cls.pipeline_class] = cls
    return cls


def family_of(pipeline_class: str) -> type[ModelAdapter]:
    """The adapter of a diffusers pipeline class.

    Raises:
        ConfigError: the class has no adapter; lists those that have and how to add one.
    """
    if pipeline_class not in FAMILIES:
        raise ConfigError(
            f"no model family for {pipeline_class}: supported are {', '.join(sorted(FAMILIES))}; to add one, subclass "
            "noisebank.models.ModelAdapter and decorate it with register_family"
        )
    return FAMILIES[pipeline_class]


@dataclass(frozen=True)
class ClipRules:
    """Which clips a model takes, and the shape of their latents; from its configuration alone.

    Args:
        channels: of the latents.
        spatial_ratio: pixels a latent, in height and in width.
        size_multiple: what height and width in pixels must be multiples of.
        temporal_ratio: frames a latent frame after the first; clips have ``temporal_ratio k + 1`` frames.
        max_frames: None where the model has no limit.
        latent_frames_multiple: what the number of latent frames must be a multiple of.
    """

    channels: int
    spatial_ratio: int
    size_multiple: int
    temporal_ratio: int = 1
    max_frames: int | None = None
    latent_frames_multiple: int = 1

    def latent_frames(self, frames: int) -> int:
        """Frames of the latents of ``frames`` frames."""
        return (frames - 1) // self.temporal_ratio + 1

    def takes_frames(self, frames: int) -> bool:
        """Whether a clip may have this many frames."""
        return (
            1 <= frames <= (self.max_frames or frames)
            and (frames - 1) % self.temporal_ratio == 0
            and self.latent_frames(frames) % self.latent_frames_multiple == 0
        )

    def check(self, frames: int, height: int, width: int) -> None:
        """Raise :class:`ShapeMismatch`, naming what would fit, unless clips of this shape fit the model."""
        problems = []
        if not self.takes_frames(frames):
            most = self.max_frames or max(frames, 1) + 2 * self.temporal_ratio * self.latent_frames_multiple
            fitting = [n for n in range(1, most + 1) if self.takes_frames(n)]
            near = sorted(sorted(fitting, key=lambda n: abs(n - frames))[:3])
            rule = f"{self.temporal_ratio}k+1 frames" if self.temporal_ratio > 1 else "a number of frames it can hold"
            problems.append(f"it takes {rule}: {frames} does not fit, {', '.join(map(str, near))} would")
        step = self.size_multiple
        for name, pixels in (("height", height), ("width", width)):
            if pixels < 1 or pixels % step:
                below = pixels // step * step
                sizes = " or ".join(str(size) for size in (below, below + step) if size > 0)
                problems.append(f"{name} must be a multiple of {step}: {pixels} does not fit, {sizes} would")
        if problems:
            raise ShapeMismatch(f"clips of {frames} x {height} x {width} do not fit the model: " + "; ".join(problems))

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """``(C, F, H, W)`` of the latents of a clip; raises :class:`ShapeMismatch` if it does not fit."""
        self.check(frames, height, width)
        return self.channels, self.latent_frames(frames), height // self.spatial_ratio, width // self.spatial_ratio


class ModelAdapter(ABC):
    """One loaded pipeline, seen through what inversion needs.

    Args:
        config: the model's configuration.
        pipe: the diffusers pipeline. Its scheduler is replaced by the deterministic twin.
        dtype: dtype of the network.
        device: where network and VAE are.
        vae_precision: what the VAE computes in: ``float32``, ``tf32`` (its products, on a GPU) or ``bfloat16``. What
            each costs of the latents stands in docs/inversion.md.
    """

    pipeline_class: ClassVar[str]
    family: ClassVar[str]
    network_name: ClassVar[str]
    scheduler_class: ClassVar[str] = "DDIMScheduler"
    layout: ClassVar[str] = "BCFHW"
    call: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the pipeline's ``__call__`` that the network depends on, beside the shape."""
    prompt_options: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the pipeline's ``encode_prompt``, beside those that all have."""

    def __init__(
        self,
        config: ModelConfig,
        pipe: Any,
        dtype: torch.dtype,
        device: str | torch.device,
        vae_precision: str = "float32",
    ) -> None:
        self.rules = self.clip_rules(config)
        self.pipe = pipe
        self.dtype = dtype
        self.device = torch.device(device)
        self.vae_precision = vae_precision
        self._vae_dtype = vae_dtype(vae_precision)
        self._described: dict[str, dict[str, Any]] = {}
        self.pipe.scheduler = deterministic_twin(pipe.scheduler, self.scheduler_class)
        self._prompts: dict[str, dict[str, torch.Tensor]] = {}
        self.replay_error: float | None = None  # (of a record that was started from; None where none was)

    @classmethod
    @abstractmethod
    def clip_rules(cls, config: ModelConfig) -> ClipRules:
        """Which clips fit; raises :class:`ConfigError` for a variant that this adapter does not serve."""

    @abstractmethod
    def encode_clip(self, pixels: torch.Tensor) -> torch.Tensor:
        """One clip's ``[3, F, H, W]`` in [-1, 1], in the VAE's dtype, to its scaled latents ``[C, F, H, W]``, the mode;
        they are scaled in float32."""

    def decode_clip(self, latents: torch.Tensor) -> torch.Tensor:
        """One clip's scaled latents ``[C, F, H, W]`` float32 back to pixels ``[3, F, H, W]`` in [-1, 1]."""
        raise NotImplementedError(f"{type(self).__name__}.decode_clip: this family gives no clips back")

    def encode_prompt(self, prompt: str) -> dict[str, torch.Tensor]:
        """The conditioning of one prompt as the network's keyword arguments, each of batch 1."""
        embeds, *_ = self.pipe.encode_prompt(
            prompt, device=self.device, do_classifier_free_guidance=False, **self.prompt_options
        )
        return {"encoder_hidden_states": embeds.to(self.dtype)}

    def network_options(self, frames: int, height: int, width: int) -> dict[str, Any]:
        """Arguments of the network for latents of this size, beside latents, timestep and conditioning."""
        return {}

    def predict(self, latents: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        """The network's output for canonical ``[B, C, F, H, W]`` in its own dtype and ``timestep`` ``[B]``."""
        network, inputs = getattr(self.pipe, self.network_name), to_pipeline(latents, self.layout)
        options = self.network_options(*latents.shape[2:])
        output = network(inputs, timestep=timestep, **conditioning, **options, return_dict=False)[0]
        return from_pipeline(output, self.layout, latents.shape[1:])

    @classmethod
    def set_timesteps(cls, scheduler: Any, num_inference_steps: int, shape: tuple[int, int, int, int]) -> None:
        """Set the timesteps as the pipeline's ``__call__`` does for latents of ``shape`` ``(C, F, H, W)``."""
        scheduler.set_timesteps(num_inference_steps, device="cpu")

    @classmethod
    def read_scheduler(cls, config: ModelConfig) -> Any:
        """The scheduler that the pipeline has once it is loaded, from the model's JSON files alone."""
        import diffusers

        _, name = config.index.get("scheduler") or (None, None)
        found: Any = getattr(diffusers, str(name), None)
        is_scheduler = isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)
        if not is_scheduler:
            raise ConfigError(f"the model's scheduler {name!r} is not one of diffusers; change its model_index.json")
        return found.from_config(dict(config.read("scheduler")))

    @classmethod
    def scheduler_levels(cls, scheduler: Any, num_inference_steps: int, shape: tuple[int, int, int, int]) -> Levels:
        """The steps of a deterministic scheduler for latents of ``shape`` ``(C, F, H, W)``.

        Raises:
            ConfigError: it cannot take so many steps, or one of them cannot be inverted.
        """
        try:
            cls.set_timesteps(scheduler, num_inference_steps, shape)
            return levels_from_scheduler(scheduler)
        except ValueError as error:
            name = type(scheduler).__name__
            raise ConfigError(f"num_inference_steps {num_inference_steps} with the model's {name}: {error}") from error

    def levels(self, num_inference_steps: int, shape: tuple[int, int, int, int]) -> Levels:
        """The steps that the pipeline takes for latents of ``shape`` ``(C, F, H, W)``."""
        return self.scheduler_levels(self.pipe.scheduler, num_inference_steps, shape)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Scaled latents ``[B, C, F, H, W]`` float32 of clips, on the device: the mode of the VAE's posterior.

        Clips are encoded one at a time: the memory stays small and the result does not depend on batch mates.

        Args:
            frames: ``[B, F, H, W, 3]`` uint8 RGB, on the CPU or the device.

        Raises:
            ShapeMismatch: the clips do not fit the model.
        """
        self.rules.check(*frames.shape[1:4])
        with torch.inference_mode(), _products_in_tf32(self.vae_precision == "tf32"):
            frames = frames.to(self.device, non_blocking=True)
            pixels = (clip.permute(3, 0, 1, 2).float() / 127.5 - 1.0 for clip in frames)
            return torch.stack([self.encode_clip(clip.to(self._vae_dtype)).float() for clip in pixels])

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Clips ``[B, F, H, W, 3]`` uint8 RGB on the CPU, rounded as the pipelines do, of scaled latents
        ``[B, C, F, H, W]``; one at a time, as :meth:`encode`."""
        with torch.inference_mode(), _products_in_tf32(self.vae_precision == "tf32"):
            clips = [self.decode_clip(one) for one in latents.to(self.device, torch.float32)]
            return torch.stack([_to_bytes(clip.float()).permute(1, 2, 3, 0).cpu() for clip in clips])

    def keep_for_inversion(self, prompt: str = "", guidance_scale: float = 1.0) -> None:
        """Encodes a prompt, as :meth:`network` takes it, and lets go of all that inversion needs no more: the text
        encoder, the VAE's decoder and what else the pipeline has. :meth:`describe` says of them what it did before.

        Afterwards other prompts raise ValueError, and no clip can be decoded; with the same prompt it may be called
        again.
        """
        self.network(prompt, guidance_scale)
        if self._described:
            return
        self._described = {name: describe_weights(getattr(self.pipe, name)) for name in ("vae", "text_encoder")}
        for name, part in self.pipe.components.items():
            if isinstance(part, torch.nn.Module) and name not in (self.network_name, "vae"):
                setattr(self.pipe, name, None)
        self.pipe.vae.decoder = torch.nn.Identity()

    def conditioning(self, prompt: str) -> dict[str, torch.Tensor]:
        """:meth:`encode_prompt`, kept for a few prompts; the text encoder leaves the device again."""
        if prompt not in self._prompts:
            if self.pipe.text_encoder is None:
                raise ValueError(f"prompt {prompt!r}: the text encoder is gone; load the model again")
            while len(self._prompts) >= _KEPT_PROMPTS:
                del self._prompts[next(iter(self._prompts))]
            with torch.inference_mode():
                self.pipe.text_encoder.to(self.device)
                self._prompts[prompt] = self.encode_prompt(prompt)
                self.pipe.text_encoder.to("cpu")
        return self._prompts[prompt]

    def network(self, prompt: str = "", guidance_scale: float = 1.0) -> Network:
        """The prediction as inverters call it: float32 in and out, whatever the network computes in.

        Args:
            prompt: the condition; empty, as in the ONA paper, unless said otherwise.
            guidance_scale: classifier-free guidance against the empty prompt; 1 is none and costs one evaluation.
        """
        conditions = [self.conditioning(prompt)]
        if guidance_scale != 1.0:
            conditions.insert(0, self.conditioning(""))

        def network(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            batch, inputs = len(latents), latents.to(self.dtype)
            repeated = [{name: c.expand(batch, *c.shape[1:]) for name, c in each.items()} for each in conditions]
            if len(conditions) == 1:
                return self.predict(inputs, timestep, **repeated[0]).float()
            both = {name: torch.cat([each[name] for each in repeated]) for name in repeated[0]}
            prediction = self.predict(torch.cat([inputs] * 2), torch.cat([timestep] * 2), **both).float()
            without, with_prompt = prediction.chunk(2)
            return without + guidance_scale * (with_prompt - without)

        return network

    def describe(self, num_inference_steps: int, shape: tuple[int, int, int, int]) -> dict[str, Any]:
        """JSON values that say what records of this model are, for the manifest and ``bank.check``."""
        network, scheduler = getattr(self.pipe, self.network_name), self.pipe.scheduler
        vae, text_encoder = (
            self._described.get(name) or describe_weights(getattr(self.pipe, name)) for name in ("vae", "text_encoder")
        )
        return {
            "family": self.family,
            "pipeline": self.pipeline_class,
            "layout": self.layout,
            "spatial_ratio": self.rules.spatial_ratio,
            "temporal_ratio": self.rules.temporal_ratio,
            "shape": list(shape),
            "call": dict(self.call),
            "num_inference_steps": num_inference_steps,
            "scheduler": {"class": type(scheduler).__name__, "config": describe_config(scheduler)},
            "levels": self.levels(num_inference_steps, shape).describe(),
            "vae": vae | {"config": describe_config(self.pipe.vae, VAE_SCALING)},
            "weights": describe_weights(network) | {"config": describe_config(network)},
            "text_encoder": text_encoder,
        }


def vae_dtype(precision: str) -> torch.dtype:
    """What the VAE's weights are in for one of :data:`noisebank.options.VAE_PRECISIONS`."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


@contextmanager
def _products_in_tf32(allowed: bool) -> Iterator[None]:
    """Lets a GPU round the inputs of float32 convolutions and matrix products to 10 bits."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul) if allowed else ()
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = True
    try:
        yield
    finally:
        for backend, was_allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = was_allowed


def _to_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in [-1, 1] as 0 to 255; what is beyond is cut off."""
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def describe_weights(module: torch.nn.Module) -> dict[str, Any]:
    """What tells two sets of weights apart, whatever their dtype, device and file.

    Returns:
        ``layout``: hash of all names and shapes. ``norms``: of every tensor the norm of up to 1024 values, and
        ``values``: one value. Both are empty for a module that is offloaded (on the meta device).
    """
    named = [(name.replace("_orig_mod.", ""), tensor) for name, tensor in module.state_dict().items()]
    layout = hashlib.sha256(json.dumps([[name, list(tensor.shape)] for name, tensor in named]).encode())
    description: dict[str, Any] = {"layout": layout.hexdigest()[:16], "norms": [], "values": []}
    if any(tensor.is_meta for _, tensor in named):
        return description
    for _, tensor in named:
        numbers = tensor.detach().flatten()
        picked = numbers[:: -(-len(numbers) // _SAMPLED) or 1][:_SAMPLED].float().nan_to_num(0.0, 0.0, 0.0)
        value = picked[len(picked) // 2 :][:1].sum()  # (0 of an empty tensor)
        for name, number in zip(("norms", "values"), torch.stack([picked.norm(), value]).tolist(), strict=True):
            description[name].append(float(f"{number:.5g}"))
    return description


def describe_config(component: Any, names: Collection[str] | None = None) -> dict[str, Any]:
    """The options of a component as JSON values, without diffusers' own bookkeeping: all, or those of these names."""
    config = {name: value for name, value in dict(component.config).items() if not name.startswith("_")}
    chosen = {name: value for name, value in config.items() if names is None or name in names}
    values: dict[str, Any] = json.loads(json.dumps(chosen, default=str))
    return values
