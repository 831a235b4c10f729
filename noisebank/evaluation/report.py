"""The report of one study, or of several beside each other, as markdown: every table with its intervals.

Nothing is claimed that the numbers do not show: an effect is shown where its corrected p-value and its interval say so,
and a contrast that shows none says which effects are excluded.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from noisebank.errors import ConfigError
from noisebank.evaluation.options import OUTCOME, ArmOptions, EvaluationOptions
from noisebank.outputs import write_whole
from noisebank.storage import Store

Summary = Mapping[str, Any]
_MARKS = re.compile(r"([\\`*_\[\]<>|])")
FEW = 10
"""Of fewer prompts that differ nothing is said of others, and of a group of fewer nothing at all."""
_POINTS = 100
"""Accuracies and their differences are shown in percent, and in points of it."""


def read_notes(options: EvaluationOptions) -> str:
    """The text that ends the report; read before any work, when it is also looked where the report is to go.

    Raises:
        ConfigError: the notes cannot be read, or ``report`` is no markdown file, or in no folder.
    """
    if options.report:
        path = Path(options.report)
        if path.suffix != ".md" or path.is_dir():
            raise ConfigError(f"report: {path}: a file whose name ends in .md is wanted")
        if not path.parent.is_dir():
            raise ConfigError(f"report: {path}: its folder does not exist; make it first")
    if not options.notes:
        return ""
    try:
        return Path(options.notes).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"notes: {options.notes}: cannot be read: {error}") from error


def write_report(
    store: Store,
    name: str,
    report: str | None,
    summaries: Sequence[Summary],
    files: Mapping[str, bytes],
    notes: str = "",
) -> None:
    """Writes the report into the study's folder, and where ``report`` says.

    Args:
        store: the study's folder.
        name: of the report there.
        report: path of another copy, whose files lie in a folder beside it.
        summaries: of the studies; the first is the one that the pictures are of.
        files: pictures by name, and what else belongs beside the copy.
        notes: what ends the report.
    """
    store.put(name, "\n".join([*report_lines(summaries, {file: file for file in files}), notes]).encode())
    if report:
        path = Path(report)
        (path.parent / path.stem).mkdir(exist_ok=True)
        for file, content in files.items():
            write_whole(path.parent / path.stem / file, content)
        lines = report_lines(summaries, {file: f"{path.stem}/{file}" for file in files})
        write_whole(path, "\n".join([*lines, notes]).encode())


def report_lines(summaries: Sequence[Summary], plots: Mapping[str, str]) -> Iterator[str]:
    """The lines of a report.

    Args:
        summaries: of the studies; the first is the one that the pictures are of.
        plots: where each picture is, by its name.
    """
    yield "# What came out"
    yield from _short(summaries)
    for place, summary in enumerate(summaries):
        yield from ("", _title(summary, place) if len(summaries) > 1 else "## The study")
        yield from _study(summary)
        yield from _primary(summary)
        if place == 0:
            yield from _pictures(plots, ("contrasts.png", "arms.png"))
        yield from _arms(summary)
        yield from _curves(summary)
        if place == 0:
            yield from _pictures(plots, ("eta.png", "pool.png"))
        yield from _exploratory(summary)
        yield from _split(summary)
        yield from _judge(summary)
        yield from _failures(summary)
    yield ""


def _title(summary: Summary, place: int) -> str:
    return f"## Study {place + 1}, seed {summary['study']['seed']}"


def _short(summaries: Sequence[Summary]) -> Iterator[str]:
    """The primary contrasts of all studies, where something was fixed beforehand."""
    fixed = [(place, one) for place, one in enumerate(summaries) if one["preregistration"]]
    if fixed:
        yield ""
    for place, summary in fixed:
        study = f"Study {place + 1}: " if len(summaries) > 1 else ""
        yield from (f"- {study}{_verdict(one)}" for one in summary["primary"]["contrasts"])


def _study(summary: Summary) -> Iterator[str]:
    study = summary["study"]
    records, seeds = study["noise_set"], f"{study['seeds']} seed{'s' * (study['seeds'] > 1)} each"
    yield ""
    yield (
        f"{study['prompts']} prompts, {seeds}, {study['num_inference_steps']} steps, guidance "
        f"{study['guidance_scale']:g}; model `{study['model']}` ({study['model_digest']}) in {study['precision']}. The "
        f"bank `{study['bank']}` (snapshot {study['snapshot']}) has {study['pool']} records in the study's noise set: "
        f"{records['inverter']}, {records['num_inference_steps']} steps, {records['dtype']}. noisebank "
        f"{study['noisebank']}. Outcome: mean accuracy over {', '.join(study['attributes'])}, as the judge "
        f"`{study['judge']}` reads them; a reading that cannot be told counts as wrong. Prompts, seeds and fresh noise "
        "are the same in all arms; the sample are the prompts, each with the mean over its seeds."
    )
    found = [f"{name} {share:.1%}" for name, share in summary["retrieval"].items() if share is not None]
    if found:
        yield f"The nearest caption's clip shows what the prompt asks for: {', '.join(found)}."
    for look, names in summary["judge"].items():
        read = [f"{name} {table['accuracy']:.1%}" for name, table in names.items() if table["clips"]]
        if read:
            yield f"The judge reads {look} clips right: {', '.join(read)}."
    if not _is_judge_measured(summary):
        yield "**The judge was not measured**: nothing is known of the bank's clips."


def _primary(summary: Summary) -> Iterator[str]:
    registered, study = summary["preregistration"], summary["study"]
    yield from ("", "### Primary", "")
    if registered is None:
        yield "Nothing was fixed beforehand: everything below is exploratory."
        return
    yield (
        f"Fixed beforehand in `{registered['file']}` (sha256 `{registered['sha256']}`); corrected by Holm's method "
        f"over {len(summary['primary']['contrasts'])} contrasts. Differences in points of accuracy; percentile "
        f"bootstrap over prompts ({study['resamples']:,}), sign-flip test ({study['permutations']:,})."
    )
    level = f"{1 - study['alpha']:.0%}"
    yield ""
    yield f"| contrast | prompts | difference | {level} interval | p | p (Holm) | d_z | win / tie | 80% power for |"
    yield "|---|---|---|---|---|---|---|---|---|"
    contrasts = summary["primary"]["contrasts"]
    for one in contrasts:
        if one["prompts"]:
            yield (
                f"| {_name(one)} | {one['prompts']} | {_points(one['mean'])} | {_interval(one)} | {one['p']:.4f} | "
                f"{one['p_holm']:.4f} | {_number(one['d_z'])} | {one['wins']:.0%} / {one['ties']:.0%} | "
                f"{_points(one['detectable'], sign=False)} (Holm {_points(one['detectable_holm'], sign=False)}) |"
            )
        else:
            yield f"| {_name(one)} | 0 | - | - | - | - | - | - | - |"
    yield ""
    yield from (f"- {_verdict(one)}" for one in contrasts)
    yield ""
    yield (
        "d_z is the mean difference by its standard deviation over prompts; win and tie are the shares of prompts "
        "where the first arm is ahead, and where both are the same; the last column is the smallest effect that a "
        "study of this size and spread finds four times in five (in brackets: at the level that Holm's method held it "
        "against)."
    )


def _verdict(one: Mapping[str, Any]) -> str:
    """What a primary contrast shows, and if nothing, which effects it excludes."""
    if not one["prompts"]:
        return f"{_name(one)}: no two prompts have both arms; nothing can be said."
    holm = f"{_points(one['holm_low'])} to {_points(one['holm_high'])}"
    if one["shown"]:
        better, worse = (one["treatment"], one["control"]) if one["mean"] > 0 else (one["control"], one["treatment"])
        return f"{_name(one)}: **{better} is better than {worse}**; the interval at Holm's level is {holm} points."
    differing = round(one["prompts"] * (1 - one["ties"]))
    if differing < FEW:
        return (
            f"{_name(one)}: no effect is shown, and none is excluded: the arms differ on {differing} of "
            f"{one['prompts']} prompts, too few to say anything of others."
        )
    low, high = min(one["holm_low"], 0.0), max(one["holm_high"], 0.0)
    return (
        f"{_name(one)}: no effect is shown. Effects below {_points(low)} or above {_points(high)} points are excluded "
        f"at Holm's level, smaller ones are not; one of {_points(one['detectable_holm'], sign=False)} points would "
        "have been found with 80% power."
    )


def _arms(summary: Summary) -> Iterator[str]:
    arms = summary["arms"]
    outcomes = list(next(iter(arms.values()))["outcomes"])
    yield from ("", "### Arms", "")
    yield (
        "Means over the prompts that an arm has, with intervals; of arms with fewer prompts see the contrasts, which "
        "are of the same prompts. Where all prompts agree an interval has no width: it knows what it saw alone. "
        "temporal_consistency (-1 to 1): correlation of neighbouring frames; dynamic_degree (0 to 1): what changes "
        "between them, read both together; diversity (0 to 1): distance of seeds; similarity and copying (-1 to 1): to "
        "the nearest clip, and to the clip whose record was mixed in."
    )
    yield from ("", f"| arm | prompts | {' | '.join(name.removeprefix('right_') for name in outcomes)} |")
    yield "|---" * (len(outcomes) + 2) + "|"
    for name, arm in arms.items():
        cells = [_mean(arm["outcomes"][outcome], _is_share(outcome)) for outcome in outcomes]
        yield f"| {name} | {arm['prompts']} | {' | '.join(cells)} |"
    yield from ("", "| arm | what it is | chooses from | not told by the judge |", "|---|---|---|---|")
    for name, arm in arms.items():
        unread = ", ".join(f"{key} {share:.1%}" for key, share in arm["unread"].items())
        pool = "-" if arm["options"]["kind"] == "gaussian" else f"{arm['pool']} records"
        yield f"| {name} | {_what_is(arm['options'])} | {pool} | {unread} |"


def _what_is(options: Mapping[str, Any]) -> str:
    """An arm's kind, its weight where it has a record, and what is not as by default."""
    usual = {field.name.rstrip("_"): field.default for field in dataclasses.fields(ArmOptions)}
    told = {"eta": options["eta"]} if options["kind"] != "gaussian" else {}
    told |= {name: value for name, value in options.items() if value != usual.get(name) and name not in ("kind", "eta")}
    if options["kind"] == "gaussian":
        told.pop("set", None)
    return ", ".join([str(options["kind"]), *(f"{name} {value}" for name, value in told.items())])


def _split(summary: Summary) -> Iterator[str]:
    """A row an arm, and of each attribute two columns."""
    groups = {(one["attribute"], one["matched"]): one["prompts"] for one in reversed(summary["split"])}
    shown = [group for group in reversed(groups) if groups[group] >= FEW]
    cells = {(one["arm"], one["attribute"], one["matched"]): one for one in summary["split"] if one["prompts"] >= FEW}
    if not shown:
        return
    yield from ("", "### Where retrieval matched the attribute, and where it did not (exploratory)", "")
    yield (
        "Accuracy of the attribute on the prompts whose nearest clip shows it, and on the others; in brackets the "
        f"difference to the first arm on the same prompts, in points. Groups of fewer than {FEW} prompts are left out."
    )
    heads = [f"{name}: {'matches' if matched else 'does not'}" for name, matched in shown]
    yield from ("", f"| arm | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|")
    for arm in summary["arms"]:
        row = [_split_cell(cells.get((arm, *group))) for group in shown]
        yield f"| {arm} | {' | '.join(row)} |"


def _split_cell(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "-"
    said, difference = f"{one['mean']:.1%} of {one['prompts']}", one["difference"]
    return said if difference is None else f"{said} ({_points(difference['mean'])} [{_interval(difference)}])"


def _curves(summary: Summary) -> Iterator[str]:
    for axis, title in (("eta", "Over eta"), ("pool", "Over the size of the pool")):
        curves = summary["curves"][axis]
        if curves:
            yield from ("", f"### {title} (exploratory)", "")
            yield from (f"| arms | {axis} | arm | prompts | accuracy |", "|---|---|---|---|---|")
            for curve in curves:
                for point in curve["points"]:
                    at = "a record alone" if point[axis] == "inf" else f"{point[axis]:g}"
                    said = f"{point['arm']} | {point['prompts']} | {_mean(point, True)}"
                    yield f"| {curve['name']} | {at} | {said} |"


def _exploratory(summary: Summary) -> Iterator[str]:
    """A row a contrast; the differences of the measures are in the summary alone."""
    rows: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for one in summary["exploratory"]:
        rows.setdefault((one["treatment"], one["control"]), {})[one["outcome"]] = one
    attributes = [f"right_{name}" for name in summary["study"]["attributes"]]
    rows = {pair: found for pair, found in rows.items() if found.keys() & {OUTCOME, *attributes}}
    missing = summary["not_compared"]
    if not rows and not missing:
        return
    yield from ("", "### Exploratory contrasts", "")
    yield (
        "Not fixed beforehand, and not corrected: they suggest, they do not show. Differences in points, with "
        "intervals; p and d_z are of the mean accuracy. Those of the other measures are in `summary.json`."
    )
    heads = ["accuracy", "p", "d_z", *summary["study"]["attributes"]]
    yield from ("", f"| contrast | prompts | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|")
    for (treatment, control), found in rows.items():
        prompts, whole = max(one["prompts"] for one in found.values()), found.get(OUTCOME)
        cells = ["(primary)", "", ""]
        if whole is not None:
            cells = [f"{_points(whole['mean'])} [{_interval(whole)}]", f"{whole['p']:.4f}", _number(whole["d_z"])]
        for name in attributes:
            one = found.get(name)
            cells.append(f"{_points(one['mean'])} [{_interval(one)}]" if one else "-")
        yield f"| {treatment} - {control} | {prompts} | {' | '.join(cells)} |"
    if missing:
        yield ""
        yield from (f"- {_name(one)}: {one['prompts']} prompts have both arms; nothing can be said." for one in missing)


def _judge(summary: Summary) -> Iterator[str]:
    tables = summary["judge"]
    yield from ("", "### The judge", "")
    measured = [(look, name, table) for look, names in tables.items() for name, table in names.items()]
    if not _is_judge_measured(summary):
        yield "Not measured: nothing is known of the bank's clips."
        return
    yield "Clips whose attributes are known: as they are, through the autoencoder, and denoised by the model."
    yield from ("", "| clips | attribute | number | right | what was taken for what |", "|---|---|---|---|---|")
    for look, name, table in measured:
        wrong = [
            f"{_quoted(true)} for {_quoted(read)}: {count}"
            for true, row in table["confusion"].items()
            for read, count in row.items()
            if true != read
        ]
        yield f"| {look} | {name} | {table['clips']} | {table['accuracy']:.1%} | {'; '.join(wrong) or '-'} |"


def _is_judge_measured(summary: Summary) -> bool:
    return any(table["clips"] for names in summary["judge"].values() for table in names.values())


def _failures(summary: Summary) -> Iterator[str]:
    failed = {name: arm["failed"] for name, arm in summary["arms"].items() if arm["failed"]}
    refused = summary["study"]["refused"]
    if failed or refused:
        yield from ("", "### What is missing", "")
        for name, codes in failed.items():
            for code, count in codes.items():
                yield f"- {name}: {count} clips {code}, as {_quoted(summary['arms'][name]['reasons'][code])}"
        for row in refused:
            yield f"- prompt {_quoted(row['id'])} is left out: {row['code']}: {_quoted(row['message'])}"


def _pictures(plots: Mapping[str, str], names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name in plots:
            yield from ("", f"![{name.removesuffix('.png')}]({plots[name]})")


def _quoted(text: str) -> str:
    """Words of a list or a judge, on one line, that markdown takes for nothing else."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


def _is_share(outcome: str) -> bool:
    return outcome == OUTCOME or outcome.startswith("right_")


def _mean(mean: Mapping[str, Any] | None, share: bool) -> str:
    if mean is None:
        return "-"
    if mean["low"] is None:
        return f"{mean['mean']:.1%}" if share else f"{mean['mean']:.4f}"
    if share:
        return f"{mean['mean']:.1%} [{mean['low']:.1%}, {mean['high']:.1%}]"
    return f"{mean['mean']:.4f} [{mean['low']:.4f}, {mean['high']:.4f}]"


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['treatment']} - {one['control']}"


def _points(value: float, sign: bool = True) -> str:
    return f"{_POINTS * value:+.1f}" if sign else f"{_POINTS * value:.1f}"


def _interval(one: Mapping[str, Any]) -> str:
    return f"{_points(one['low'])} to {_points(one['high'])}"


def _number(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


def evaluation_lines(summary: Summary, out: str) -> Iterator[str]:
    """The outcome of a study for people: the primary contrasts, or where there is none, the arms."""
    for name, arm in summary["arms"].items():
        yield f"{name}: accuracy {_mean(arm['outcomes'][OUTCOME], True)}, {arm['clips']} clips"
        yield from (f"  {count} clips {code}" for code, count in arm["failed"].items())
    yield from (_verdict(one).replace("**", "") for one in summary["primary"]["contrasts"])
    if summary["preregistration"] is None:
        yield "nothing was fixed beforehand (preregistration): all of it is exploratory"
    yield from (f"look at {out}/{name}" for name in summary["files"])
