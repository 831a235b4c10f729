"""Does a live pipeline fit the records of a noise set? What ``bank.check`` reports."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from noisebank.errors import ConfigError
from noisebank.inversion.levels import levels_digest
from noisebank.models.base import ModelAdapter, describe_config, describe_scheduler, describe_weights, family_of
from noisebank.models.config import pipeline_config

ROUNDING = 2.0**-7
"""Two weights that differ by less, relatively, may be the same in bfloat16 and float32."""


@dataclass(frozen=True)
class Mismatch:
    """One difference between a noise set and a pipeline.

    Args:
        severity: ``error``: records make no sense in this pipeline; ``warning``: they do, but ``eta=inf`` does not give
            the clip back.
        what: ``family``, ``vae``, ``shape``, ``prediction_type`` or a missing component (errors), ``scheduler``,
            ``num_inference_steps``, ``shift (...)``, ``first_level`` (of the noise that sampling starts from),
            ``levels``, ``weights``, ``text_encoder``, ``free_init`` or ``freeu`` (warnings).
        expected: what the noise set was made with.
        found: what the pipeline has.
    """

    severity: Literal["error", "warning"]
    what: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.severity}: {self.what} is {self.found!r}, the noise set was made with {self.expected!r}"


def compare(description: Mapping[str, Any], pipe: Any, num_inference_steps: int | None = None) -> list[Mismatch]:
    """Compare a noise set with a pipeline.

    Args:
        description: of the model the records were made with (``ModelAdapter.describe``), as stored in the manifest.
        pipe: a diffusers pipeline; it is not changed.
        num_inference_steps: what the pipeline is to be called with (default: what the records were made with).

    Returns:
        The differences, errors first; none when the pipeline gives the records' clips back.

    Raises:
        ValueError: no schedule has ``num_inference_steps`` steps.
    """
    try:
        family = family_of(type(pipe).__name__)
    except ConfigError:
        return [Mismatch("error", "family", description["pipeline"], type(pipe).__name__)]
    if family.family != description["family"]:
        return [Mismatch("error", "family", description["family"], family.family)]
    parts = {"scheduler": pipe.scheduler, "vae": pipe.vae, family.network_name: getattr(pipe, family.network_name)}
    if missing := [Mismatch("error", name, "one", part) for name, part in parts.items() if part is None]:
        return missing
    mismatches = _compare_models(description, pipe, family)
    mismatches += _compare_schedules(description, pipe, family, num_inference_steps)
    mismatches += _switched_on(pipe, getattr(pipe, family.network_name))
    return sorted(mismatches, key=lambda mismatch: mismatch.severity)


def _compare_models(description: Mapping[str, Any], pipe: Any, family: type[ModelAdapter]) -> list[Mismatch]:
    rules = family.clip_rules(pipeline_config(pipe))
    expected = [description["shape"][0], description["spatial_ratio"], description["temporal_ratio"]]
    found = [rules.channels, rules.spatial_ratio, rules.temporal_ratio]
    mismatches = []
    if expected != found:
        mismatches.append(Mismatch("error", "shape", *(_ratios(*values) for values in (expected, found))))
    prediction_type = description["levels"]["prediction_type"]
    live_type = pipe.scheduler.config.get("prediction_type", "flow")
    if live_type.startswith("flow"):  # (UniPC and DPM-Solver say flow_prediction, Euler has no such option)
        live_type = "flow"
    if live_type != prediction_type:
        mismatches.append(Mismatch("error", "prediction_type", prediction_type, live_type))
    mismatches += _compare_part("error", "vae", description["vae"], pipe.vae)
    mismatches += _compare_part("warning", "weights", description["weights"], getattr(pipe, family.network_name))
    if pipe.text_encoder is not None:  # (else prompts come as embeddings, of which nothing is known)
        mismatches += _compare_part("warning", "text_encoder", description["text_encoder"], pipe.text_encoder)
    return mismatches


def _compare_part(
    severity: Literal["error", "warning"], what: str, stored: Mapping[str, Any], module: Any
) -> list[Mismatch]:
    """The weights and the options that both know (versions of diffusers add some)."""
    mismatches = []
    live, config = describe_weights(module), stored.get("config", {})
    if live["layout"] == stored["layout"] and not live["norms"]:
        mismatches.append(Mismatch("warning", what, stored["layout"], "offloaded: its values cannot be compared"))
    elif not same_weights(stored, live):
        mismatches.append(Mismatch(severity, what, stored["layout"], _other(stored, live)))
    found = describe_config(module, config) if config else {}
    if other := [name for name in found if found[name] != config[name]]:
        differing = ({name: known[name] for name in other} for known in (config, found))
        mismatches.append(Mismatch(severity, what, *differing))
    return mismatches


def _compare_schedules(
    description: Mapping[str, Any], pipe: Any, family: type[ModelAdapter], num_inference_steps: int | None
) -> list[Mismatch]:
    """Both schedules have the records' number of steps: that the pipeline is called with another is one difference."""
    stored, live = description["scheduler"], describe_scheduler(pipe.scheduler)
    steps, levels = description["num_inference_steps"], description["levels"]
    called_with = steps if num_inference_steps is None else num_inference_steps
    most = max(steps, live["config"].get("num_train_timesteps", steps))
    if not 1 <= called_with <= most:
        raise ValueError(f"num_inference_steps {called_with} is not allowed; from 1 to {most}")
    differences = [("scheduler", stored["class"], live["class"]), ("num_inference_steps", steps, called_with)]
    for name, value in _shift(stored["config"]).items():
        differences.append((f"shift ({name})", value, _option(live["config"], name)))
    if stored["class"] == live["class"]:
        scheduler = copy.deepcopy(pipe.scheduler)
        try:
            found = family.scheduler_levels(scheduler, steps, tuple(description["shape"])).describe()
        except ConfigError as error:
            differences.append(("scheduler", stored["class"], str(error)))
        else:
            differences.append(("first_level", levels["level_t"][0], found["level_t"][0]))
            differences.append(("levels", levels_digest(levels), levels_digest(found)))
    return [Mismatch("warning", what, expected, found) for what, expected, found in differences if expected != found]


def _switched_on(pipe: Any, network: Any) -> list[Mismatch]:
    """What changes the sampling of a live pipeline and stands in no configuration of diffusers."""
    blocks = getattr(network, "up_blocks", ())
    switches = {
        "free_init": getattr(pipe, "free_init_enabled", False),
        "freeu": any(getattr(block, name, None) is not None for block in blocks for name in ("s1", "s2", "b1", "b2")),
    }
    return [Mismatch("warning", what, "off", "on") for what, is_on in switches.items() if is_on]


def same_weights(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two descriptions (``describe_weights``) may be of the same weights in different precision."""
    if first["layout"] != second["layout"]:
        return False
    # (rounding errors of many values cancel in their norm)
    return all(
        abs(a - b) <= rounding * max(abs(a), abs(b)) + 1e-6
        for name, rounding in (("norms", ROUNDING / 2), ("values", ROUNDING))
        for a, b in zip(first[name], second[name], strict=True)
    )


def _other(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    return found["layout"] if found["layout"] != expected["layout"] else "other values in the same layout"


def _ratios(channels: int, spatial: int, temporal: int) -> str:
    return f"{channels} channels, {spatial} pixels and {temporal} frames a latent"


def _shift(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a deterministic scheduler's config that move its levels towards noise."""
    names = ("base_shift", "max_shift") if config.get("use_dynamic_shifting") else ("shift", "snr_shift_scale")
    return {name: config[name] for name in names if name in config}


def _option(config: Mapping[str, Any], name: str) -> Any:
    """A scheduler's option; multistep solvers call the shift of flow matching ``flow_shift``."""
    return config.get("flow_shift") if name == "shift" and "flow_shift" in config else config.get(name)
