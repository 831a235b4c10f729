"""From the rows of a study to what they say: arms, contrasts, the split by retrieval, and curves.

What a preregistration names is primary and corrected as one family; everything else is exploratory, and its p-values
are not corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from noisebank.evaluation.generation import Row
from noisebank.evaluation.options import MEASURES, OUTCOME, ArmOptions, EvaluationOptions, parse_contrast
from noisebank.evaluation.statistics import Contrast, bootstrap_interval, contrast, holm, holm_levels
from noisebank.options import output_options

Means = dict[str, float]
"""By prompt the mean over its seeds."""
Keep = Callable[[Row], bool]
Clip = tuple[str, int]
"""Prompt and seed."""


class Analysis:
    """The rows of a study, ready to be asked.

    Args:
        options: of the study.
        rows: of all arms; see :func:`complete_rows`.
    """

    def __init__(self, options: EvaluationOptions, rows: Sequence[Row]) -> None:
        self.options = options
        self._rows: dict[str, list[Row]] = {arm.label: [] for arm in options.arms}
        for row in rows:
            self._rows[row["arm"]].append(row)

    @property
    def outcomes(self) -> list[str]:
        """The primary outcome, whether each attribute is right, and the measures."""
        return [OUTCOME, *(f"right_{name}" for name in self.options.attributes), *MEASURES]

    def means(self, arm: str, outcome: str, keep: Keep = lambda row: True) -> Means:
        """Per-prompt means over the seeds that have a value."""
        return _means(self._values(arm, outcome, keep))

    def _values(self, arm: str, outcome: str, keep: Keep) -> dict[Clip, float]:
        """By prompt and seed, where there is a value."""
        return {
            (row["prompt_id"], row["seed"]): float(row[outcome])
            for row in self._rows[arm]
            if row[outcome] is not None and keep(row)
        }

    def _differences(
        self, treatment: str, control: str, outcome: str = OUTCOME, keep: Keep = lambda row: True
    ) -> Means:
        """Per-prompt means of what an arm has more than another, over the seeds where both have a value."""
        one, other = self._values(treatment, outcome, keep), self._values(control, outcome, keep)
        return _means({clip: one[clip] - other[clip] for clip in sorted(one.keys() & other.keys())})

    def compare(
        self,
        treatment: str,
        control: str,
        outcome: str = OUTCOME,
        keep: Keep = lambda row: True,
        level: float | None = None,
    ) -> Contrast | None:
        """One contrast over the prompts and seeds that both arms have; None where those are fewer than two prompts."""
        options, differences = self.options, self._differences(treatment, control, outcome, keep)
        if len(differences) < 2:
            return None
        return contrast(
            np.array(list(differences.values())),
            resamples=options.resamples,
            permutations=options.permutations,
            level=1 - options.alpha if level is None else level,
            seed=options.seed,
        )

    def arms(self) -> dict[str, Any]:
        """By arm: prompts, failures by code, and mean and interval of every outcome."""
        found = {}
        for arm in self.options.arms:
            rows = self._rows[arm.label]
            codes = [row["code"] for row in rows if row["code"]]
            reasons = {row["code"]: row["message"] for row in reversed(rows) if row["code"]}
            good = [row for row in rows if not row["code"]]
            unread = {
                name: sum(row[f"read_{name}"] is None for row in good) / max(1, len(good))
                for name in self.options.attributes
            }
            found[arm.label] = {
                "options": _said(arm),
                "prompts": len({row["prompt_id"] for row in good}),
                "clips": len(good),
                "failed": {code: codes.count(code) for code in sorted(set(codes))},
                "reasons": {code: reasons[code] for code in sorted(reasons)},
                "outcomes": {name: self._mean(self.means(arm.label, name)) for name in self.outcomes},
                "unread": unread,
            }
        return found

    def _mean(self, means: Means) -> dict[str, Any] | None:
        """Mean and interval; no interval of one prompt, which says nothing of others."""
        if not means:
            return None
        values = np.array(list(means.values()))
        if len(values) == 1:
            return {"prompts": 1, "mean": float(values[0]), "low": None, "high": None}
        low, high = bootstrap_interval(values, self.options.resamples, 1 - self.options.alpha, self.options.seed)
        return {"prompts": len(values), "mean": float(values.mean()), "low": low, "high": high}

    def primary(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """The contrasts that were fixed beforehand, corrected by Holm's method.

        ``shown`` is whether an effect is: the corrected p-value is at most alpha, and so is 0 outside the interval at
        the level that Holm's method holds the contrast against (``holm_low``, ``holm_high``).
        """
        alpha, found = self.options.alpha, [self.compare(*pair) for pair in pairs]
        p_values = [1.0 if one is None else one.p for one in found]  # (one that has no data is of the family, too)
        documents: list[dict[str, Any]] = []
        for pair, one, p_holm, level in zip(pairs, found, holm(p_values), holm_levels(p_values, alpha), strict=True):
            if one is None:
                documents.append({"treatment": pair[0], "control": pair[1], "prompts": 0, "shown": False})
                continue
            at_level = self.compare(*pair, level=1 - level)
            assert at_level is not None  # (as it was above)
            excludes = at_level.low > 0 or at_level.high < 0
            documents.append(
                {
                    "treatment": pair[0],
                    "control": pair[1],
                    **_plain(one),
                    "p_holm": p_holm,
                    "holm_low": at_level.low,
                    "holm_high": at_level.high,
                    "detectable_holm": at_level.detectable,
                    "shown": bool(p_holm <= alpha and excludes),
                }
            )
        return documents

    def not_compared(self) -> list[dict[str, Any]]:
        """The contrasts that were asked for and have fewer than two prompts in common."""
        found = []
        for one, other in dict.fromkeys(self._asked()):
            prompts = len(self._differences(one, other))
            if prompts < 2:
                found.append({"treatment": one, "control": other, "prompts": prompts})
        return found

    def _asked(self) -> list[tuple[str, str]]:
        """Every arm less the first, and the further contrasts of the options."""
        labels = [arm.label for arm in self.options.arms]
        pairs = [(label, labels[0]) for label in labels[1:]]
        return pairs + [parse_contrast(text, labels, "contrasts") for text in self.options.contrasts]

    def exploratory(self, primary: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Every outcome of every other contrast, and every secondary outcome of the primary ones."""
        found = []
        for pair in dict.fromkeys([*primary, *self._asked()]):
            for outcome in self.outcomes:
                if outcome == OUTCOME and pair in primary:
                    continue
                if (one := self.compare(*pair, outcome)) is not None:
                    found.append({"treatment": pair[0], "control": pair[1], "outcome": outcome, **_plain(one)})
        return found

    def split(self) -> list[dict[str, Any]]:
        """Each attribute's accuracy where the nearest clip shows what the prompt asks for, and where it does not; with
        the difference to the control arm there."""
        control, found = self.options.arms[0].label, []
        for name in self.options.attributes:
            for matched in (True, False):
                keep = _keeps(f"matched_{name}", matched)
                for arm in self._rows:
                    mean = self._mean(self.means(arm, f"right_{name}", keep))
                    if mean is None:
                        continue
                    against = None if arm == control else self.compare(arm, control, f"right_{name}", keep)
                    found.append(
                        {
                            "attribute": name,
                            "matched": matched,
                            "arm": arm,
                            **mean,
                            "difference": None if against is None else _plain(against),
                        }
                    )
        return found

    def curves(self, pool_sizes: Mapping[str, int]) -> dict[str, list[dict[str, Any]]]:
        """Mean accuracy over eta, from no record on, and over the pool's size, of arms that differ in nothing else;
        on the prompts that all of them have.

        Args:
            pool_sizes: records that each arm chooses from.
        """
        places: dict[str, Callable[[ArmOptions], float]] = {
            "eta": lambda arm: arm.eta if arm.kind != "gaussian" else 0.0,
            "pool": lambda arm: pool_sizes[arm.label],
        }
        return {axis: list(self._curves(axis, place)) for axis, place in places.items()}

    def _curves(self, axis: str, place: Callable[[ArmOptions], float]) -> Iterator[dict[str, Any]]:
        groups: dict[tuple[str, ...], list[ArmOptions]] = {}
        for arm in self.options.arms:
            same = output_options(arm) | {"bank": arm.bank}
            same.pop("eta" if axis == "eta" else "bank")
            if arm.kind != "gaussian" and self.means(arm.label, OUTCOME):
                groups.setdefault(tuple(map(str, same.values())), []).append(arm)
        for arms in groups.values():
            if len({place(arm) for arm in arms}) == 1:
                continue
            name = arms[0].kind + (f" of {arms[0].set_}" if arms[0].set_ else "")
            ordered = sorted([*(self._without_records(arms[0]) if axis == "eta" else ()), *arms], key=place)
            means = [self.means(arm.label, OUTCOME) for arm in ordered]
            common = set.intersection(*(set(one) for one in means))
            points = [
                {axis: _finite(place(arm)), "arm": arm.label, **mean}
                for arm, one in zip(ordered, means, strict=True)
                if (mean := self._mean({prompt: one[prompt] for prompt in sorted(common)}))
            ]
            if points:
                yield {"name": name, "points": points}

    def _without_records(self, arm: ArmOptions) -> list[ArmOptions]:
        """The arm of fresh noise, if there is one, that is what ``arm`` would be with no weight on its record."""
        same = ("prior", "alpha", "gamma", "rewrites")
        return [
            one
            for one in self.options.arms
            if one.kind == "gaussian"
            and all(getattr(one, name) == getattr(arm, name) for name in same)
            and self.means(one.label, OUTCOME)
        ][:1]


def complete_rows(
    rows: Sequence[Row], prompts: Mapping[str, Any], truth: Mapping[str, Any], attributes: Sequence[str]
) -> list[Row]:
    """Rows as they are analysed and published: with what was asked for, what is right, and what retrieval matched.

    Args:
        rows: as generated, with their ``arm``.
        prompts: by id.
        truth: what clips show, by id.
        attributes: their names.
    """
    completed = []
    for row in rows:
        prompt, shown = prompts[row["prompt_id"]], truth.get(row["nearest"])
        right = {name: None if row["code"] else row[f"read_{name}"] == prompt.truth[name] for name in attributes}
        completed.append(
            {
                **{key: row[key] for key in ("arm", "prompt_id")},
                "prompt": prompt.text,
                **{key: row.get(key) for key in ("seed", "clip", "nearest", "score", "rewritten", "code", "message")},
                "drawn_digest": row.get("drawn_digest"),
                OUTCOME: None if row["code"] else float(np.mean([right[name] for name in attributes])),
                **{f"truth_{name}": prompt.truth[name] for name in attributes},
                **{f"read_{name}": row.get(f"read_{name}") for name in attributes},
                **{f"right_{name}": value for name, value in right.items()},
                **{f"matched_{n}": None if shown is None else shown[n] == prompt.truth[n] for n in attributes},
                **{name: row.get(name) for name in MEASURES},
            }
        )
    return completed


def _keeps(column: str, value: bool) -> Keep:
    return lambda row: row[column] is value


def _plain(one: Contrast) -> dict[str, Any]:
    return {name: _finite(value) for name, value in vars(one).items()}


def _means(values: Mapping[Clip, float]) -> Means:
    """Of each prompt, over its seeds."""
    found: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        found.setdefault(prompt, []).append(value)
    return {prompt: float(np.mean(of_seeds)) for prompt, of_seeds in found.items()}


def _said(arm: ArmOptions) -> dict[str, Any]:
    return {name.rstrip("_"): _finite(value) for name, value in output_options(arm).items()}


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
