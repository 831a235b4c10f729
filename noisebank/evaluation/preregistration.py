"""What was fixed before a study was run: read from its file, named by its digest, and compared with the configuration.

A study that differs from it in anything it fixes is refused; what it does not name is exploratory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisebank.config import decode_options, load_document
from noisebank.errors import ConfigError
from noisebank.evaluation.options import ArmOptions, EvaluationOptions, Preregistration, parse_contrast
from noisebank.options import output_options


@dataclass(frozen=True)
class Registered:
    """A preregistration.

    Args:
        name: of its file.
        sha256: of the file's bytes, by which anybody can tell when it was fixed.
        plan: what it says.
    """

    name: str
    sha256: str
    plan: Preregistration

    @property
    def contrasts(self) -> list[tuple[str, str]]:
        """Treatment and control of each primary contrast."""
        labels = [arm.label for arm in self.plan.arms]
        return [parse_contrast(text, labels, f"{self.name}: contrasts") for text in self.plan.contrasts]


def read_preregistration(path: str) -> Registered:
    """Reads a file with the keys of :class:`~.options.Preregistration`.

    Raises:
        ConfigError: there is none, a key is unknown or a value not allowed, or it fixes no contrast.
    """
    plan = decode_options(Preregistration, load_document(path))
    found = Registered(Path(path).name, hashlib.sha256(Path(path).read_bytes()).hexdigest(), plan)
    for name in ("attributes", "contrasts", "arms"):
        if not getattr(plan, name):
            raise ConfigError(f"{path}: {name}: at least one is wanted")
    named = {arm for pair in found.contrasts for arm in pair}
    if idle := [arm.label for arm in plan.arms if arm.label not in named]:
        raise ConfigError(f"{path}: arms.{idle[0]}: no primary contrast has this arm; leave it out")
    return found


def check_agrees(
    registered: Registered,
    options: EvaluationOptions,
    prompts: int,
    prompts_sha256: str | None = None,
    model_digest: str | None = None,
) -> None:
    """Compares a study with what was fixed beforehand; what is None there was not.

    Args:
        registered: the preregistration.
        options: of the study.
        prompts: how many its arms have at least.
        prompts_sha256: of the prompts.
        model_digest: of the model.

    Raises:
        ConfigError: they differ; names every difference.
    """
    plan, problems = registered.plan, []
    found = vars(options) | {"prompts_sha256": prompts_sha256, "model_digest": model_digest}
    for name, fixed in vars(plan).items():
        if name not in ("arms", "contrasts") and name in found and fixed is not None:
            problems += _difference(name.rstrip("_"), fixed, found[name])
    arms = {arm.label: arm for arm in options.arms}
    for fixed in plan.arms:
        problems += _compare_arm(fixed, arms.get(fixed.label), plan.least_prompts)
    if prompts < plan.least_prompts:
        problems.append(f"prompts: {prompts}, at least {plan.least_prompts} are fixed")
    if problems:
        raise ConfigError(
            f"the study is not the one of {registered.name}: {'; '.join(problems)}; mend the configuration, or leave "
            "preregistration out, and all is exploratory"
        )


def _difference(name: str, fixed: Any, found: Any) -> list[str]:
    return [] if fixed == found else [f"{name}: {found!r}, {fixed!r} is fixed"]


def _compare_arm(fixed: ArmOptions, found: ArmOptions | None, least_prompts: int) -> list[str]:
    if found is None:
        return [f"arms.{fixed.label}: missing"]
    theirs, where = output_options(found), f"arms.{fixed.label}"
    problems = []
    for name, value in output_options(fixed).items():
        problems += _difference(f"{where}.{name.rstrip('_')}", value, theirs.get(name))
    problems += _difference(f"{where}.bank", fixed.bank, found.bank)
    if found.prompts is not None and found.prompts < least_prompts:
        problems.append(f"{where}.prompts: {found.prompts}, at least {least_prompts} are fixed")
    return problems
