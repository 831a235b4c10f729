"""What chooses among candidate images: a score of how well each shows the prompt. :func:`register_reward` adds one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from safetensors import SafetensorError

from noisebank.errors import ConfigError
from noisebank.hub import content_lines, digest_lines, resolve_file, split_reference
from noisebank.options import register_options
from noisebank.synthesis.options import RewardOptions, TransformersRewardOptions

Reward = Callable[[str, list[Image]], Sequence[float]]
"""``reward(prompt, images) -> one number an image``, the higher the better."""

RewardLoader = Callable[[Any], Reward]
"""From the options of a reward to the reward; called once a process."""

REWARDS: dict[str, RewardLoader] = {}


def register_reward(kind: str, options: type[RewardOptions] = RewardOptions) -> Callable[[RewardLoader], RewardLoader]:
    """Decorator that makes a reward selectable as ``reward: {kind: <kind>}``.

    In a package of your own, which ``modules`` names::

        @register_reward("bright")
        def load_bright(options: RewardOptions) -> Reward:
            return lambda prompt, images: [numpy.asarray(image).mean() for image in images]

    Args:
        kind: its name.
        options: a dataclass that extends :class:`~.options.RewardOptions` by options of the reward's own.
    """

    def register(load: RewardLoader) -> RewardLoader:
        register_options("reward", kind, options, load.__module__)
        REWARDS[kind] = load
        return load

    return register


def load_reward(options: RewardOptions) -> Reward:
    """The reward that the options name.

    Raises:
        ConfigError: nobody registered it, or its model cannot be loaded.
    """
    if options.kind not in REWARDS:
        raise ConfigError(f"reward.kind: {options.kind!r} is not known; import the package that registers it (modules)")
    return REWARDS[options.kind](options)


def reward_digest(options: RewardOptions) -> str | None:
    """Which model scores, by its contents; None for a reward of one's own, which its package's version stands for.

    Raises:
        ConfigError: there is no such model.
    """
    if not isinstance(options, TransformersRewardOptions):
        return None
    processor = options.processor or options.model
    old, new = "preprocessor_config.json", "processor_config.json"
    try:
        lines = content_lines(options.model, "config.json", "transformers")
        lines += content_lines(processor, old if resolve_file(processor, old) else new, "transformers")
    except ConfigError as error:
        raise ConfigError(f"reward: {error}") from error
    return digest_lines(lines)


@register_reward("transformers", TransformersRewardOptions)
def load_transformers_reward(options: TransformersRewardOptions) -> Reward:
    """A model whose output has ``logits_per_image`` ``[images, texts]``: CLIP, and PickScore, which is one.

    Weights are read from safetensors, and no code comes with them. (The features' own methods return output objects
    since transformers 5; the logits are the same in all versions.)

    Raises:
        ConfigError: it cannot be loaded, or has no such output.
    """
    from transformers import AutoModel, AutoProcessor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        id, revision = split_reference(options.processor or options.model)
        processor = AutoProcessor.from_pretrained(id, revision=revision, trust_remote_code=False)
        id, revision = split_reference(options.model)
        model = AutoModel.from_pretrained(id, revision=revision, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"reward: {options.model!r} cannot be loaded: {error}") from error
    model = model.to(device).eval()

    def score(prompt: str, images: list[Image]) -> list[float]:
        inputs = processor(text=[prompt], images=images, return_tensors="pt", padding=True, truncation=True).to(device)
        with torch.inference_mode():
            logits = getattr(model(**inputs), "logits_per_image", None)
        if logits is None:
            raise ConfigError(f"reward: {options.model!r} has no logits_per_image; a model such as CLIP is wanted")
        return [float(value) for value in logits[:, 0]]

    return score
