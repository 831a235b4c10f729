"""Does a live pipeline fit the records of a noise set? What ``bank.check`` reports."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from noisebank.errors import ConfigError
from noisebank.inversion.levels import levels_digest
from noisebank.models.base import ModelAdapter, describe_config, describe_weights, family_of
from noisebank.models.config import pipeline_config

Severity = Literal["error", "warning"]

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

    severity: Severity
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
    mismatches += _compare_sampling(description, pipe, family, num_inference_steps)
    return sorted(mismatches, key=lambda mismatch: mismatch.severity)


def _differing(severity: Severity, *compared: tuple[str, Any, Any]) -> list[Mismatch]:
    """Of ``(what, expected, found)`` those that differ."""
    return [Mismatch(severity, what, expected, found) for what, expected, found in compared if expected != found]


def _compare_models(description: Mapping[str, Any], pipe: Any, family: type[ModelAdapter]) -> list[Mismatch]:
    rules = family.clip_rules(pipeline_config(pipe))
    stored = (description["shape"][0], description["spatial_ratio"], description["temporal_ratio"])
    live = (rules.channels, rules.spatial_ratio, rules.temporal_ratio)
    expected, found = (f"{c} channels, {s} pixels and {t} frames a latent" for c, s, t in (stored, live))
    # UniPC and DPM-Solver say flow_prediction, Euler has no such option.
    live_type = pipe.scheduler.config.get("prediction_type", "flow").replace("flow_prediction", "flow")
    prediction_type = description["levels"]["prediction_type"]
    mismatches = _differing("error", ("shape", expected, found), ("prediction_type", prediction_type, live_type))
    mismatches += _compare_part("error", "vae", description["vae"], pipe.vae)
    mismatches += _compare_part("warning", "weights", description["weights"], getattr(pipe, family.network_name))
    if pipe.text_encoder is not None:  # (else prompts come as embeddings, of which nothing is known)
        mismatches += _compare_part("warning", "text_encoder", description["text_encoder"], pipe.text_encoder)
    return mismatches


def _compare_part(severity: Severity, what: str, stored: Mapping[str, Any], module: Any) -> list[Mismatch]:
    """The weights and the options that both know (versions of diffusers add some)."""
    live, config = describe_weights(module), stored.get("config", {})
    if live["layout"] != stored["layout"]:
        mismatches = [Mismatch(severity, what, stored["layout"], live["layout"])]
    elif not live["norms"]:
        mismatches = [Mismatch("warning", what, stored["layout"], "offloaded: its values cannot be compared")]
    elif not _same_values(stored, live):
        mismatches = [Mismatch(severity, what, stored["layout"], "other values in the same layout")]
    else:
        mismatches = []
    found = describe_config(module, config) if config else {}
    other = [name for name in found if found[name] != config[name]]
    expected, actual = ({name: options[name] for name in other} for options in (config, found))
    return mismatches + _differing(severity, (what, expected, actual))


def _same_values(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two descriptions of weights of one layout may be of the same weights in different precision."""
    # (rounding errors of many values cancel in their norm)
    return all(
        abs(a - b) <= rounding * max(abs(a), abs(b)) + 1e-6
        for name, rounding in (("norms", ROUNDING / 2), ("values", ROUNDING))
        for a, b in zip(first[name], second[name], strict=True)
    )


def _compare_sampling(
    description: Mapping[str, Any], pipe: Any, family: type[ModelAdapter], num_inference_steps: int | None
) -> list[Mismatch]:
    """Both schedules have the records' number of steps: that the pipeline is called with another is one difference."""
    stored, class_name = description["scheduler"], type(pipe.scheduler).__name__
    config = describe_config(pipe.scheduler)
    # Multistep solvers call the shift of flow matching flow_shift.
    config["shift"] = config.get("flow_shift", config.get("shift"))
    steps, levels = description["num_inference_steps"], description["levels"]
    called_with = steps if num_inference_steps is None else num_inference_steps
    most = max(steps, config.get("num_train_timesteps", steps))
    if not 1 <= called_with <= most:
        raise ValueError(f"num_inference_steps {called_with} is not allowed; from 1 to {most}")
    compared = [("scheduler", stored["class"], class_name), ("num_inference_steps", steps, called_with)]
    made_with = stored["config"]
    shifts = ("base_shift", "max_shift") if made_with.get("use_dynamic_shifting") else ("shift", "snr_shift_scale")
    compared += [(f"shift ({name})", made_with[name], config.get(name)) for name in shifts if name in made_with]
    if stored["class"] == class_name:
        scheduler = copy.deepcopy(pipe.scheduler)
        try:
            found = family.scheduler_levels(scheduler, steps, tuple(description["shape"])).describe()
        except ConfigError as error:
            compared.append(("scheduler", stored["class"], str(error)))
        else:
            compared.append(("first_level", levels["level_t"][0], found["level_t"][0]))
            compared.append(("levels", levels_digest(levels), levels_digest(found)))
    # What is switched on in a live pipeline stands in no configuration of diffusers.
    blocks = getattr(getattr(pipe, family.network_name), "up_blocks", ())
    freeu = any(getattr(block, name, None) is not None for block in blocks for name in ("s1", "s2", "b1", "b2"))
    compared.append(("free_init", "off", "on" if getattr(pipe, "free_init_enabled", False) else "off"))
    compared.append(("freeu", "off", "on" if freeu else "off"))
    return _differing("warning", *compared)
