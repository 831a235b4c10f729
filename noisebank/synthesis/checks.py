"""What can be told of a job before any model is loaded: which models these are, and whether they can do it."""

from __future__ import annotations

import logging

from noisebank.errors import ConfigError, ShapeMismatch
from noisebank.models import check_model, family_of, load_clip_rules, older_model_digest, read_model_config
from noisebank.synthesis.animation import levels_from, overshooting_steps
from noisebank.synthesis.options import SynthesisOptions
from noisebank.synthesis.rewards import REWARDS, reward_digest

_log = logging.getLogger(__name__)


def check_options(options: SynthesisOptions) -> dict[str, str]:
    """Refuses what cannot work, from the models' JSON files alone.

    Returns:
        Digests of the models, by the section that names them: ``model``, and ``images`` and ``reward`` where they have
        one of their own.

    Raises:
        ConfigError: a model is not there or makes no clips of this shape, the sampler starts from noise alone, or the
            reward is not registered; says what would do.
    """
    options.check()
    digests = {"model": older_model_digest(options.model, options.motion_adapter)}
    if options.images.model:
        digests["images"] = older_model_digest(options.images.model)
    if options.reward.kind not in REWARDS:
        raise ConfigError(f"reward.kind: {options.reward.kind!r} is not known; one of {', '.join(REWARDS)}")
    if found := reward_digest(options.reward):
        digests["reward"] = found
    _check_video(options)
    _check_images(options)
    return digests


def _check_video(options: SynthesisOptions) -> None:
    config = read_model_config(options.model, options.motion_adapter)
    if family_of(config.pipeline_class).layout == "BCHW":
        raise ConfigError(
            f"model: {options.model!r} is a {config.pipeline_class}, which makes images only; name it as images.model, "
            "and a video model as model (or a motion_adapter beside it)"
        )
    try:
        rules = load_clip_rules(options.model, options.motion_adapter)
        shape = rules.latent_shape(options.clips.frames, *options.clips.height_width)
    except ShapeMismatch as error:
        raise ConfigError(f"model: {error}; change clips.frames or clips.size") from error
    levels = check_model(options.model, options.num_inference_steps, shape, options.motion_adapter)
    levels_from(levels, options.regenerate.from_)
    if far := overshooting_steps(levels, options.animate.until, options.animate.step_size):
        _log.warning(
            "animate.step_size: %s overshoots at %d steps, the first of them %d, where alpha s a is 2 or more: clips "
            "may run away; take smaller ones there",
            options.animate.step_size,
            len(far),
            far[0] + 1,
        )


def _check_images(options: SynthesisOptions) -> None:
    model = options.images.model
    named, adapter = (model, None) if model else (options.model, options.motion_adapter)
    try:
        shape = load_clip_rules(named, adapter).latent_shape(1, *options.clips.height_width)
    except ShapeMismatch as error:
        raise ConfigError(f"images.model: {error}; name an image model that makes images of this size") from error
    check_model(named, options.num_inference_steps, shape, adapter)
