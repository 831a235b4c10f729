"""The scheduler that a model is inverted for: its own, or the deterministic one of the same schedule and shift."""

from __future__ import annotations

import inspect
from typing import Any

from noisebank.errors import ConfigError


def deterministic_twin(scheduler: Any, class_name: str) -> Any:
    """``scheduler`` itself, or the deterministic scheduler ``class_name`` of the same schedule and shift.

    Raises:
        ConfigError: there is none: one is of diffusion and the other of flow matching, or the scheduler draws fresh
            noise at every step, or clips or thresholds its predictions, which nothing can invert.
    """
    import diffusers

    config, name = dict(scheduler.config), type(scheduler).__name__
    kind, wanted = noise_process(scheduler), noise_process(getattr(diffusers, class_name)())
    if kind != wanted:
        raise ConfigError(
            f"the model's scheduler {name} is of {kind}, and its network of {wanted}: records would mean nothing; "
            f"write a {class_name} into its scheduler folder and model_index.json"
        )
    for option in ("clip_sample", "thresholding"):
        if config.get(option) and class_name == "DDIMScheduler":
            raise ConfigError(
                f"the model's scheduler has {option}: true, which discards information; set it to false in the "
                "model's scheduler_config.json"
            )
    if config.get("stochastic_sampling"):
        raise ConfigError(
            f"the model's scheduler {name} has stochastic_sampling: true: it draws fresh noise at every step, so no "
            "noise gives a clip back; set it to false in the model's scheduler_config.json"
        )
    if name == class_name:
        return scheduler
    changes: dict[str, Any] = {}
    if class_name == "FlowMatchEulerDiscreteScheduler":
        changes = {"shift": config.get("flow_shift", config.get("shift", 1.0))}
    elif class_name == "DDIMScheduler":
        changes = {"clip_sample": False}
    return getattr(diffusers, class_name).from_config(config, **changes)


def noise_process(scheduler: Any) -> str:
    """What a scheduler's levels are of: ``diffusion`` (it takes betas), ``flow matching``, or ``another process``."""
    if type(scheduler).__name__.startswith("FlowMatch") or scheduler.config.get("prediction_type") == "flow_prediction":
        return "flow matching"
    takes_betas = "beta_schedule" in inspect.signature(type(scheduler).__init__).parameters
    return "diffusion" if takes_betas else "another process"
