"""The report of one study, or of several beside each other, as markdown: every table with its intervals.

Nothing is claimed that the numbers do not show: an effect is shown where its corrected p-value and its interval say so,
and a contrast that shows none says which effects are excluded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from noisebank.errors import ConfigError
from noisebank.evaluation.options import OUTCOME, EvaluationOptions
from noisebank.outputs import write_whole
from noisebank.storage import Store

Summary = Mapping[str, Any]
_MARKS = re.compile(r"([\\`*_\[\]<>|])")
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
    plots: Mapping[str, bytes],
    notes: str = "",
) -> None:
    """Writes the report into the study's folder, and where ``report`` says.

    Args:
        store: the study's folder.
        name: of the report there.
        report: path of another copy, whose pictures lie in a folder beside it.
        summaries: of the studies; the first is the one that the pictures are of.
        plots: PNG files by name.
        notes: what ends the report.
    """
    store.put(name, "\n".join([*report_lines(summaries, {plot: plot for plot in plots}), notes]).encode())
    if report:
        path = Path(report)
        (path.parent / path.stem).mkdir(exist_ok=True)
        for plot, png in plots.items():
            write_whole(path.parent / path.stem / plot, png)
        lines = report_lines(summaries, {plot: f"{path.stem}/{plot}" for plot in plots})
        write_whole(path, "\n".join([*lines, notes]).encode())


def report_lines(summaries: Sequence[Summary], plots: Mapping[str, str]) -> Iterator[str]:
    """The lines of a report.

    Args:
        summaries: of the studies; the first is the one that the pictures are of.
        plots: where each picture is, by its name.
    """
    yield "# What came out"
    for place, summary in enumerate(summaries):
        yield from (
            "",
            f"## Study {place + 1}, seed {summary['study']['seed']}" if len(summaries) > 1 else "## The study",
        )
        yield from _study(summary)
        yield from _primary(summary)
        if place == 0:
            yield from _pictures(plots, ("contrasts.png", "arms.png"))
        yield from _arms(summary)
        yield from _split(summary)
        yield from _curves(summary)
        if place == 0:
            yield from _pictures(plots, ("eta.png", "pool.png"))
        yield from _exploratory(summary)
        yield from _judge(summary)
        yield from _failures(summary)
    yield ""


def _study(summary: Summary) -> Iterator[str]:
    study = summary["study"]
    yield ""
    yield (
        f"{study['prompts']} prompts, {study['seeds']} seeds each, {study['num_inference_steps']} steps, guidance "
        f"{study['guidance_scale']:g}; model `{study['model']}` ({study['model_digest']}); a pool of {study['pool']} "
        f"records. Outcome: mean accuracy over {', '.join(study['attributes'])}, as the judge `{study['judge']}` reads "
        "them; a reading that cannot be told counts as wrong. Prompts, seeds and fresh noise are the same in all arms; "
        "the sample are the prompts, each with the mean over its seeds."
    )
    found = [f"{name} {share:.1%}" for name, share in summary["retrieval"].items() if share is not None]
    if found:
        yield f"The nearest caption's clip shows what the prompt asks for: {', '.join(found)}."


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
    yield from (f"- {_verdict(one, level)}" for one in contrasts)


def _verdict(one: Mapping[str, Any], level: str) -> str:
    """What a primary contrast shows, and if nothing, which effects it excludes."""
    if not one["prompts"]:
        return f"{_name(one)}: no two prompts have both arms; nothing can be said."
    if one["shown"]:
        better, worse = (one["treatment"], one["control"]) if one["mean"] > 0 else (one["control"], one["treatment"])
        holm = f"{_points(one['holm_low'])} to {_points(one['holm_high'])}"
        return f"{_name(one)}: **{better} is better than {worse}**; the interval at Holm's level is {holm} points."
    return (
        f"{_name(one)}: no effect is shown. Effects below {_points(one['low'])} or above {_points(one['high'])} points "
        f"are excluded at {level}, smaller ones are not; one of {_points(one['detectable'], sign=False)} points would "
        "have been found with 80% power."
    )


def _arms(summary: Summary) -> Iterator[str]:
    outcomes = list(next(iter(summary["arms"].values()))["outcomes"])
    yield from ("", "### Arms", "", "Means with intervals; consistency is to be read beside the dynamic degree.", "")
    yield f"| arm | prompts | {' | '.join(name.removeprefix('right_') for name in outcomes)} |"
    yield "|---" * (len(outcomes) + 2) + "|"
    for name, arm in summary["arms"].items():
        cells = [_mean(arm["outcomes"][outcome], _is_share(outcome)) for outcome in outcomes]
        yield f"| {name} | {arm['prompts']} | {' | '.join(cells)} |"
    yield from ("", "| arm | what it is | not told by the judge |", "|---|---|---|")
    for name, arm in summary["arms"].items():
        said = ", ".join(f"{key} {value}" for key, value in arm["options"].items() if value is not None)
        unread = ", ".join(f"{key} {share:.1%}" for key, share in arm["unread"].items())
        yield f"| {name} | {said} | {unread} |"


def _split(summary: Summary) -> Iterator[str]:
    if not summary["split"]:
        return
    yield from ("", "### Where retrieval matched the attribute, and where it did not (exploratory)", "")
    yield "| attribute | nearest clip | arm | prompts | accuracy | less the first arm |"
    yield "|---|---|---|---|---|---|"
    for one in summary["split"]:
        difference = one["difference"]
        against = "-" if difference is None else f"{_points(difference['mean'])} [{_interval(difference)}]"
        matched = "matches" if one["matched"] else "does not"
        yield f"| {one['attribute']} | {matched} | {one['arm']} | {one['prompts']} | {_mean(one, True)} | {against} |"


def _curves(summary: Summary) -> Iterator[str]:
    for axis, title in (("eta", "Over eta"), ("pool", "Over the size of the pool")):
        curves = summary["curves"][axis]
        if curves:
            yield from ("", f"### {title} (exploratory)", "", f"| arms | {axis} | accuracy |", "|---|---|---|")
            for curve in curves:
                for point in curve["points"]:
                    yield f"| {curve['name']} | {point[axis]} | {_mean(point, True)} |"


def _exploratory(summary: Summary) -> Iterator[str]:
    if not summary["exploratory"]:
        return
    yield from ("", "### Exploratory contrasts", "")
    yield "Not fixed beforehand, and not corrected: they suggest, they do not show."
    yield from (
        "",
        "| contrast | outcome | prompts | difference | interval | p | d_z |",
        "|---|---|---|---|---|---|---|",
    )
    for one in summary["exploratory"]:
        share = _is_share(one["outcome"])
        mean = _points(one["mean"]) if share else f"{one['mean']:+.4f}"
        interval = _interval(one) if share else f"{one['low']:+.4f} to {one['high']:+.4f}"
        outcome = one["outcome"].removeprefix("right_")
        yield (
            f"| {_name(one)} | {outcome} | {one['prompts']} | {mean} | {interval} | {one['p']:.4f} | "
            f"{_number(one['d_z'])} |"
        )


def _judge(summary: Summary) -> Iterator[str]:
    tables = summary["judge"]
    yield from ("", "### The judge", "")
    measured = [(look, name, table) for look, names in tables.items() for name, table in names.items()]
    if not any(table["clips"] for _, _, table in measured):
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


def _failures(summary: Summary) -> Iterator[str]:
    failed = {name: arm["failed"] for name, arm in summary["arms"].items() if arm["failed"]}
    refused = summary["study"]["refused"]
    if failed or refused:
        yield from ("", "### What is missing", "")
        yield from (
            f"- {name}: {', '.join(f'{count} clips {code}' for code, count in codes.items())}"
            for name, codes in failed.items()
        )
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
    level = f"{1 - summary['study']['alpha']:.0%}"
    yield from (_verdict(one, level).replace("**", "") for one in summary["primary"]["contrasts"])
    if summary["preregistration"] is None:
        yield "nothing was fixed beforehand (preregistration): all of it is exploratory"
    yield from (f"look at {out}/{name}" for name in summary["files"])
