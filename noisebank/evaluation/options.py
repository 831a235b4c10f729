"""Every option of ``noisebank evaluate``, defined once, as those of a build are (:mod:`noisebank.options`).

A study that was fixed beforehand is written down in a file with the keys of :class:`Preregistration`, which the
configuration has to agree with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from noisebank.errors import ConfigError
from noisebank.options import PRECISIONS, SECTIONS, option, register_options

ARM_KINDS = ("gaussian", "nearest", "random", "oracle", "contradicting", "shuffled", "spectrum", "moments")
OUTCOME = "accuracy"
"""The primary outcome: mean attribute accuracy."""
MEASURES = ("temporal_consistency", "dynamic_degree", "diversity", "similarity", "copying")
"""What is measured beside the judge's readings."""
_CONTRAST = re.compile(r"\s*(\w+)\s*-\s*(\w+)\s*")
_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,62}", re.IGNORECASE)
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class ArmOptions:
    """One arm: which record is mixed into the fresh noise, and how."""

    kind: str = option("nearest", f"which record is mixed in: {', '.join(ARM_KINDS)}, or one of your own")
    name: str = option("", "name of the arm (default: the kind)", hashed=False)
    bank: str | None = option(None, "bank that its records are of (default: the evaluation's)", hashed=False)
    set_: str | None = option(None, "noise set of its records (default: the evaluation's)")
    eta: float = option(0.2, "weight of the record, 0 to inf", minimum=0, maximum=float("inf"))
    normalize: str = option("none", "bring the record to mean 0 and variance 1", choices=("none", "global", "channel"))
    prior: str = option("iid", "of the fresh noise: iid, mixed or progressive")
    alpha: float | None = option(None, "what frames of the prior have in common", minimum=0, maximum=1e6)
    lowpass: str | None = option(None, "mix the record's low frequencies alone: gaussian, butterworth, ideal or box")
    spatial: float = option(0.25, "spatial cut-off of the low-pass", minimum=1e-6, maximum=1)
    temporal: float = option(0.25, "temporal cut-off of the low-pass", minimum=1e-6, maximum=1)
    gamma: float = option(0.0, "share of the steps that take the rewritten prompt", minimum=0, maximum=1)
    rewrites: str | None = option(
        None, "for gamma: folder of 'noisebank rewrite', or csv, jsonl or parquet with prompt, rewritten", hashed=False
    )
    prompts: int | None = option(
        None, "the first n prompts of the list alone (default: all)", hashed=False, minimum=2, maximum=10**9
    )

    @property
    def label(self) -> str:
        """Its name in results."""
        return self.name or self.kind


@dataclass(frozen=True)
class ContradictingOptions(ArmOptions):
    """An arm whose record is right in all attributes but one."""

    differs: str = option("motion", "attribute in which the record's clip differs from the prompt")


@dataclass(frozen=True)
class JudgeOptions:
    """What reads attributes off a clip; its kind says which options it has besides."""

    kind: str = option("world", "what reads attributes off a clip: world, or one of your own")


@dataclass(frozen=True)
class EvaluationOptions:
    """A whole study."""

    out: str = option("./evaluation", "where pieces and results are written", hashed=False)
    bank: str = option("./bank", "the bank: a local path or gs://, s3://, az://", hashed=False)
    set_: str | None = option(None, "noise set, where the bank has several", hashed=False)
    model: str = option("damo-vilab/text-to-video-ms-1.7b", "hub id or local folder of a diffusers pipeline")
    motion_adapter: str | None = option(None, "AnimateDiff: hub id or folder of the motion adapter")
    precision: str = option("auto", "dtype of the networks: auto is bfloat16 on a GPU", choices=PRECISIONS)
    prompts: str = option("", "csv, jsonl or parquet with prompt[, id] and a column an attribute", hashed=False)
    clips: tuple[str, ...] = option(
        (), "csv, jsonl or parquet with id and a column an attribute: what clips of the banks show", hashed=False
    )
    attributes: tuple[str, ...] = option((), "attributes that the judge is asked about")
    judge: JudgeOptions = option(JudgeOptions(), hashed=False)
    judged_clips: int = option(
        200, "clips on which the judge is measured first", hashed=False, minimum=0, maximum=10**6
    )
    min_judge_accuracy: float = option(
        0.99, "least accuracy of the judge on real clips, for every attribute", hashed=False, minimum=0, maximum=1
    )
    arms: tuple[ArmOptions, ...] = option(
        (ArmOptions("gaussian", "gaussian"), ArmOptions("nearest", "ona")),
        "the arms; the first is the control",
        hashed=False,
    )
    contrasts: tuple[str, ...] = option(
        (), "further exploratory contrasts, as 'treatment - control' (each arm less the first is one)", hashed=False
    )
    seeds: int = option(2, "clips a prompt and arm", hashed=False, minimum=1, maximum=10_000)
    seed: int = option(0, "of all that is drawn, with the prompt's id", minimum=0, maximum=_LARGEST_SEED)
    num_inference_steps: int = option(50, "steps of the sampler", minimum=1, maximum=10_000)
    guidance_scale: float = option(7.5, "guidance towards the prompt", minimum=1, maximum=1000)
    batch_size: int = option(8, "clips in a batch", hashed=False, minimum=1, maximum=65_536)
    preregistration: str | None = option(
        None, "YAML file with what was fixed beforehand; without one all is exploratory", hashed=False
    )
    alpha: float = option(0.05, "level of the tests", hashed=False, minimum=1e-6, maximum=0.5)
    resamples: int = option(10_000, "of the bootstrap over prompts", hashed=False, minimum=10, maximum=10**7)
    permutations: int = option(10_000, "of the sign-flip test", hashed=False, minimum=10, maximum=10**7)
    report: str | None = option(None, "also write the report there (.md), its pictures beside it", hashed=False)
    notes: str | None = option(None, "markdown file whose text ends the report", hashed=False)
    beside: tuple[str, ...] = option((), "out folders of other studies to report beside this one", hashed=False)
    modules: tuple[str, ...] = option((), "your own packages, imported before all else: judges, arms", hashed=False)

    def check(self) -> None:
        """Raises :class:`ConfigError` for what one key alone cannot tell."""
        for name in ("prompts", "attributes"):
            if not getattr(self, name):
                raise ConfigError(f"{name}: at least one is wanted; name a file with -c, or give --{name}")
        if self.out.rstrip("/") == self.bank.rstrip("/"):
            raise ConfigError(f"out: {self.out} is the bank; name another folder")
        labels = [arm.label for arm in self.arms]
        if not labels:
            raise ConfigError("arms: at least one is wanted")
        for place, arm in enumerate(self.arms):
            if not _NAME.fullmatch(arm.label):
                raise ConfigError(f"arms[{place}].name: {arm.label!r} is not allowed; letters, digits and _")
            if arm.label in labels[:place]:
                raise ConfigError(f"arms[{place}].name: {arm.label!r} is taken; give each arm a name of its own")
            if arm.gamma and not arm.rewrites:
                raise ConfigError(f"arms.{arm.label}.gamma: {arm.gamma:g} wants rewrites")
            if isinstance(arm, ContradictingOptions) and arm.differs not in self.attributes:
                raise ConfigError(f"arms.{arm.label}.differs: {arm.differs!r} is none of the attributes")
        for text in self.contrasts:
            parse_contrast(text, labels, "contrasts")


@dataclass(frozen=True)
class Preregistration:
    """What was fixed before a study was run; keys that the configuration has too must be equal there."""

    outcome: str = option(OUTCOME, "the primary outcome", choices=(OUTCOME,))
    attributes: tuple[str, ...] = option((), "whose mean accuracy it is")
    contrasts: tuple[str, ...] = option((), "the primary contrasts, 'treatment - control', corrected as one family")
    correction: str = option("holm", "of their p-values", choices=("holm",))
    arms: tuple[ArmOptions, ...] = option((), "the arms in them, with the options that matter")
    least_prompts: int = option(2, "fewest prompts of the study", minimum=2, maximum=10**9)
    seeds: int = option(2, "clips a prompt and arm", minimum=1, maximum=10_000)
    num_inference_steps: int = option(50, "steps of the sampler", minimum=1, maximum=10_000)
    guidance_scale: float = option(7.5, "guidance towards the prompt", minimum=1, maximum=1000)
    alpha: float = option(0.05, "level of the tests", minimum=1e-6, maximum=0.5)
    resamples: int = option(10_000, "of the bootstrap over prompts", minimum=10, maximum=10**7)
    permutations: int = option(10_000, "of the sign-flip test", minimum=10, maximum=10**7)
    seed: int | None = option(None, "of all that is drawn; none: it is not fixed", minimum=0, maximum=_LARGEST_SEED)
    set_: str | None = option(None, "noise set of arms that name none; none: it is not fixed")
    min_judge_accuracy: float | None = option(None, "of the judge; none: it is not fixed", minimum=0, maximum=1)
    prompts_sha256: str | None = option(None, "of the prompts, as in summary.json; none: they are not fixed")
    model_digest: str | None = option(None, "of the model, as in summary.json; none: it is not fixed")


def parse_contrast(text: str, arms: list[str], where: str) -> tuple[str, str]:
    """Treatment and control of ``"treatment - control"``.

    Raises:
        ConfigError: it is none, or names an arm that is not among ``arms``.
    """
    match = _CONTRAST.fullmatch(text)
    if match is None:
        raise ConfigError(f"{where}: {text!r} is not allowed; 'treatment - control' is wanted")
    for name in match.groups():
        if name not in arms:
            raise ConfigError(f"{where}: {text!r}: no arm {name!r}; there are {', '.join(arms)}")
    return match[1], match[2]


SECTIONS["arms"] = (ArmOptions, "kind")
SECTIONS["judge"] = (JudgeOptions, "kind")
for _kind in ARM_KINDS:
    register_options("arms", _kind, ContradictingOptions if _kind == "contradicting" else ArmOptions)
register_options("judge", "world", JudgeOptions)
