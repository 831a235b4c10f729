"""Hybrid semantics: the first denoising steps follow a rewritten prompt, the others the prompt itself (ONA, Eq. 8).

A pipeline is left as it is but for two things while the context lasts: its ``encode_prompt`` gives both encodings, one
behind the other, and a hook at the network hands on the one that the step wants. Step callbacks could not do it:
``TextToVideoSDPipeline`` has none, and LTX's do not reach the mask.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from noisebank.errors import ConfigError
from noisebank.models.base import family_of
from noisebank.models.config import pipeline_config

_GIVEN = ("prompt_embeds", "prompt_attention_mask")
"""What ``encode_prompt`` may be given in place of a prompt."""
_ENCODED = ("encoder_hidden_states", "encoder_attention_mask")
"""Arguments of the networks that come from ``encode_prompt``: all have the text's length as second dimension."""
_ROUNDING = 1e-9
"""``floor(0.58 * 50)`` is 28 in floating point."""


@contextmanager
def hybrid_semantics(pipe: Any, rewritten: str | Sequence[str] | None, gamma: float) -> Iterator[None]:
    """Calls of ``pipe`` in this context take the rewritten prompt for their first ``floor(gamma T)`` of T steps.

    Look the noise up with the prompt itself, and call the pipeline with it. Negative prompts, guidance, given
    embeddings and the number of network calls stay what they are. On exit everything is as before.

    >>> with hybrid_semantics(pipe, "a golden dog runs along a sunny beach", gamma=0.04):       # doctest: +SKIP
    ...     frames = pipe("a dog on the beach", **bank.inputs("a dog on the beach", pipe=pipe)).frames

    Args:
        pipe: a diffusers pipeline of one of the six families.
        rewritten: the rewritten prompt, or a list with one for each prompt of the calls; None: plain runs.
        gamma: share of the steps, 0 to 1. The paper: 0.04 for ModelScope, 0.1 for its SCVideo, 0.4 for images; 1 on
            UCF101.

    Raises:
        ValueError: ``gamma`` or ``rewritten`` is not allowed, or the pipeline is in such a context already; from calls
            in the context: not one rewritten text a prompt, encodings of different shapes, or a network that another
            pipeline uses meanwhile.
        ConfigError: the pipeline is of no known family, has no text encoder, or changes prompts between frames.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma {gamma} is not allowed; 0 (the prompt alone) to 1 (the rewritten prompt alone)")
    texts = _texts(rewritten)
    shadowed = vars(pipe).get("encode_prompt")
    if isinstance(getattr(shadowed, "__self__", None), _Hybrid):
        raise ValueError(f"this {type(pipe).__name__} is in hybrid_semantics already; leave that first")
    if texts is None:
        yield
        return
    network, hybrid = _network(pipe), _Hybrid(pipe, texts, gamma)
    choose = torch.compiler.disable(hybrid.choose)  # type: ignore[no-untyped-call]
    hook = network.register_forward_pre_hook(choose, with_kwargs=True)
    try:
        pipe.encode_prompt = hybrid.encode
        yield
    finally:
        hook.remove()
        del pipe.encode_prompt
        if shadowed is not None:
            pipe.encode_prompt = shadowed


def rewritten_steps(num_inference_steps: int, gamma: float) -> int:
    """``m = floor(T gamma)``: how many of T denoising steps take the rewritten prompt (ONA, Eq. 8).

    >>> rewritten_steps(50, 0.58), rewritten_steps(50, 0.04), rewritten_steps(24, 0.04)
    (29, 2, 0)
    """
    return math.floor(num_inference_steps * gamma + _ROUNDING)


def _texts(rewritten: str | Sequence[str] | None) -> list[str] | None:
    if rewritten is None:
        return None
    texts = [rewritten] if isinstance(rewritten, str) else rewritten
    if not isinstance(texts, Sequence) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"rewritten {rewritten!r} is not allowed; a text, a list with one for each prompt, or None")
    return list(texts)


def _network(pipe: Any) -> torch.nn.Module:
    """The network of a pipeline that can be served."""
    family = family_of(type(pipe).__name__)
    for name in (family.network_name, "text_encoder"):
        if getattr(pipe, name) is None:
            raise ConfigError(f"hybrid_semantics: this {type(pipe).__name__} has no {name}; load it with one")
    family.clip_rules(pipeline_config(pipe))  # (raises for variants with two networks, or a timestep for every token)
    if getattr(pipe, "free_noise_enabled", False):
        raise ConfigError("hybrid_semantics: FreeNoise encodes a prompt for each frame; call pipe.disable_free_noise()")
    network: torch.nn.Module = getattr(pipe, family.network_name)
    return network


class _Hybrid:
    """Both encodings of a pipeline's prompts, and which of them a step takes."""

    def __init__(self, pipe: Any, rewritten: list[str], gamma: float) -> None:
        self._pipe, self._rewritten, self._gamma = pipe, rewritten, gamma
        self._encode: Callable[..., Any] = pipe.encode_prompt
        self._signature = inspect.signature(self._encode)
        self._lengths: set[int] = set()
        self._warned = False

    @torch.no_grad()
    def encode(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor | None, ...]:
        """In place of ``encode_prompt``: every tensor as ``cat([rewritten, original], dim=1)``."""
        call = self._signature.bind(*args, **kwargs)
        originals = self._encode(*args, **kwargs)
        call.arguments["prompt"] = self._rewritten_like(call.arguments)
        call.arguments |= {name: None for name in _GIVEN if name in call.arguments}
        both = zip(self._encode(*call.args, **call.kwargs), originals, strict=True)
        encoded = tuple(None if original is None else _behind(rewritten, original) for rewritten, original in both)
        self._lengths = {tensor.shape[1] for tensor in encoded if tensor is not None}
        return encoded

    def _rewritten_like(self, arguments: Mapping[str, Any]) -> str | list[str]:
        """The rewritten prompts: one text where the call has one text, else a list."""
        prompt, texts = arguments.get("prompt"), self._rewritten
        count = 1 if isinstance(prompt, str) else len(arguments["prompt_embeds"] if prompt is None else prompt)
        if count != len(texts):
            raise ValueError(f"the pipeline was called with {count} prompts, {len(texts)} are rewritten; give one each")
        like = arguments.get("negative_prompt") if prompt is None else prompt
        return texts[0] if count == 1 and isinstance(like, str) else texts

    def choose(self, network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Forward pre-hook: hands the network the half that its timestep wants."""
        text = kwargs.get("encoder_hidden_states")
        if text is None or text.shape[1] not in self._lengths:
            raise ValueError(
                f"{type(network).__name__} was called with a text that this pipeline has not encoded in the context of "
                "hybrid_semantics; generate with the pipeline itself"
            )
        first = self._takes_rewritten(kwargs["timestep"] if "timestep" in kwargs else args[1])
        chosen = {}
        for name in _ENCODED:
            if kwargs.get(name) is not None:
                rewritten, original = kwargs[name].chunk(2, dim=1)
                chosen[name] = (rewritten if first else original).contiguous()
        return args, kwargs | chosen

    def _takes_rewritten(self, timestep: torch.Tensor) -> bool:
        """Whether the step is one of the first ``floor(gamma T)``.

        A step is the place of its timestep among the distinct ones of the scheduler: Heun has most of them twice, and
        FreeInit runs through all of them several times.
        """
        steps = torch.unique_consecutive(self._pipe.scheduler.timesteps).tolist()
        value = timestep.flatten()[0].item()
        if value not in steps:
            raise ValueError(f"hybrid_semantics: timestep {value} is none of the scheduler's {len(steps)}")
        wanted = rewritten_steps(len(steps), self._gamma)
        if wanted == 0 < self._gamma and not self._warned:
            self._warned = True
            warnings.warn(
                f"gamma {self._gamma:g} of {len(steps)} steps is no step: the rewritten prompt is not used; "
                f"{math.ceil(100 / len(steps)) / 100:g} is one",
                stacklevel=2,
            )
        return bool(steps.index(value) < wanted)


def _behind(rewritten: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    if rewritten.shape != original.shape:
        raise ValueError(
            f"the rewritten prompt is encoded as {tuple(rewritten.shape)}, the prompt as {tuple(original.shape)}; give "
            "embeddings of the same length and number as the pipeline's own, or the prompt as text"
        )
    return torch.cat([rewritten.to(original.dtype), original], dim=1)
