"""The commands that run a job: ``plan``, ``build``, its stages one by one, ``demo``, ``rewrite`` and ``synthesize``.

Their flags are made from the option dataclasses; what is left over must be Beam's own (``--runner``, ``--project``).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noisebank.commands import Outcome
from noisebank.config import config_from_mapping, decode_options, flag_names, load_document, member_flag
from noisebank.decode import written_name
from noisebank.errors import ConfigError
from noisebank.options import SECTIONS, Config
from noisebank.storage import open_store
from noisebank.synthesis.options import STAGE, SynthesisOptions
from pipelines.rewrite_command import add_rewrite_command

FLAG = "option:"
JOBS = {
    "plan": "what build would do, stage by stage, in counts; writes nothing",
    "build": "bring the bank up to date with its sources and commit one snapshot",
    "clips": "plan, then fetch, cut and encode the clips that are missing",
    "captions": "embed the captions of the open plan that clips made",
    "index": "build the search index of that plan",
    "noise": "invert the clips of that plan (on GPU workers)",
    "commit": "publish what the stages made of that plan",
}
FOLLOW_S, MAX_PAUSE_S = 10.0, 86_400.0
OWN_FLAGS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "plan": (
        ("--probe",),
        {"action": "store_true", "help": "also load the models and invert a made-up clip for two steps"},
    ),
    "noise": (
        ("--follow",),
        {
            "nargs": "?",
            "const": FOLLOW_S,
            "type": float,
            "metavar": "SECONDS",
            "help": "invert shards as another process finishes their clips; looks for them every so many seconds "
            f"(default: {FOLLOW_S:g})",
        },
    ),
}
"""What a command understands beside the options."""
LISTS_HELP = """\
members of a list by name:  --noise.modelscope.batch_size 4   --sources.webvid.path new.csv
whole lists as YAML:        --sources '[{kind: webvid, path: results_10M_train.csv}]'
Beam's own options (--runner, --direct_num_workers, --flink_master, --project, ...) go to Beam.
"""
SYNTHESIS_HELP = f"""\
The clips are tars in OUT/{STAGE}, with a contact sheet beside each, which a bank reads as a source:
    {{kind: webdataset, name: synthesized, path: OUT/{STAGE}/*.tar, frame_stride: 1}}
Prompts that OUT has are not made again. A reward of your own (modules) has its options as --reward.OPTION.
Beam's own options (--runner, --direct_num_workers, --flink_master, --project, ...) go to Beam.
"""
ALONE = {"retry_failures": "all"}
"""What a flag means when it is given without a value; true for those that are true or false."""


def add_job_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Declares the commands that need a configuration."""
    parser = add("demo", "captioned videos, a bank, lookups and a generated clip, on this machine", demo)
    parser.add_argument("--out", default="demo", metavar="DIR", help="folder for everything (default: demo)")
    sections = {field.name: SECTIONS[field.name][0] for field in dataclasses.fields(Config) if field.name in SECTIONS}
    members = (line for section, options in sections.items() for line in members_help(section, options))
    lists = "\n".join([*members, LISTS_HELP])
    for name, help in JOBS.items():
        parser = add(name, help, run_job, takes_rest=True)
        add_options(parser, Config, "build", lists)
        if name in OWN_FLAGS:
            words, options = OWN_FLAGS[name]
            parser.add_argument(*words, **options)
    add_rewrite_command(add, _help)
    parser = add(
        "synthesize", "clips for prompts that no video is near to, as a source of a bank", synthesize, takes_rest=True
    )
    add_options(parser, SynthesisOptions, "synthesize", SYNTHESIS_HELP)


def add_options(parser: argparse.ArgumentParser, options: type[Any], general: str, epilog: str) -> None:
    """Declares ``-c`` and a flag for every option; ``general``: the group of those that are in no section."""
    parser.epilog = epilog
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file with the options below; flags beat it")
    groups: dict[str, Any] = {}
    for name, field in flag_names(options).items():
        section = name.split(".")[0] if "." in name else general
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        alone = "true" if isinstance(field.default, bool) else ALONE.get(name)
        groups[section].add_argument(
            *dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]),
            dest=FLAG + name,
            default=argparse.SUPPRESS,
            metavar=name.split(".")[-1].upper(),
            help=_help(field),
            **({"nargs": "?", "const": alone} if alone else {}),
        )
        if field.default is True and "." not in name:
            no = dict.fromkeys([f"--no_{name}", f"--no-{name.replace('_', '-')}"])
            groups[section].add_argument(
                *no, dest=FLAG + name, default=argparse.SUPPRESS, action="store_const", const="false"
            )


def members_help(section: str, options: type) -> list[str]:
    """The options of the members of a list, for the end of ``--help``."""
    fields = dataclasses.fields(options)
    lines = [f"  --{section}.NAME.{written_name(field.name)}" for field in fields]
    width = max(map(len, lines)) + 2
    return [f"{section} (one NAME a member):"] + [
        f"{line:<{width}}{_help(field)}".replace("%%", "%") for line, field in zip(lines, fields, strict=True)
    ]


def _help(field: dataclasses.Field[Any]) -> str:
    text = str(field.metadata["help"])
    if field.metadata["choices"]:
        text += f": {', '.join(field.metadata['choices'])}"
    if field.default in (None, "", (), dataclasses.MISSING) or "default" in text:
        return text
    default = field.default
    if isinstance(default, tuple):
        default = ", ".join(getattr(member, "name", str(member)) for member in default)
    return f"{text} (default: {default})".replace("%", "%%")


def read_document(
    arguments: argparse.Namespace, options: type[Any]
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The YAML file of a job command, its flags, and what is left for Beam."""
    flags = {key.removeprefix(FLAG): str(value) for key, value in vars(arguments).items() if key.startswith(FLAG)}
    document = load_document(arguments.config, flags)
    beam: list[str] = []
    words = iter(arguments.rest)
    for word in words:
        flag, equals, value = word.removeprefix("--").partition("=")
        name = flag.replace("-", "_")
        if not (word.startswith("--") and member_flag(name, options)):
            beam.append(word)
        elif (given := value if equals else next(words, None)) is not None:
            flags[name] = given
        else:
            raise ConfigError(f"--{flag}: a value is wanted")
    return document, flags, beam


def read_config(arguments: argparse.Namespace) -> tuple[Config, list[str]]:
    """The configuration of a build or of one of its stages, and what is left for Beam."""
    document, flags, beam = read_document(arguments, Config)
    config = config_from_mapping(document, flags)
    if not config.sources:
        raise ConfigError("sources: at least one list is wanted; name a file with -c, or give --sources")
    open_store(config.bank)  # (which refuses what can be none)
    return config, beam


def run_job(arguments: argparse.Namespace) -> Outcome:
    """Runs the job that the command is named after."""
    from pipelines.jobs import plan_only, run_stages

    config, beam = read_config(arguments)
    name = arguments.command
    if name == "plan":
        return _report(plan_only(config, beam, arguments.probe), name)
    follow = getattr(arguments, "follow", None)
    if follow is not None and not 0 < follow <= MAX_PAUSE_S:
        raise ConfigError(f"--follow: {follow:g} is not allowed; from above 0 to {MAX_PAUSE_S:g} seconds are")
    return _report(run_stages(config, beam, name, follow), name)


def synthesize(arguments: argparse.Namespace) -> Outcome:
    """Makes the clips that a source of synthetic clips lacks."""
    from pipelines.synthesis import run_synthesis

    document, flags, beam = read_document(arguments, SynthesisOptions)
    summary = run_synthesis(decode_options(SynthesisOptions, document, flags), beam)
    lines = ["prompts: " + ", ".join(f"{count} {name}" for name, count in summary["prompts"].items())]
    lines += [f"failed {code}: {count}" for code, count in summary["failed_by_code"].items()]
    lines += [f"look at {summary['out']}/{sheet}" for sheet in summary["sheets"]]
    tars = f"{summary['out']}/{STAGE}/*.tar"
    lines.append(f"source: {{kind: webdataset, name: synthesized, path: {tars}, frame_stride: 1}}")
    return Outcome(summary, lines)


def demo(arguments: argparse.Namespace) -> Outcome:
    """The whole way, on videos and a model that it makes itself."""
    from pipelines.demo import run_demo

    return run_demo(Path(arguments.out))


def _report(summary: dict[str, Any], stage: str) -> Outcome:
    if "left" in summary:
        return Outcome(summary, [summary["left"]])
    lines = [_headline(summary, stage)] if stage != "plan" else []
    rows = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in summary["rows"].items())
    lines.append(f"rows: {rows}")
    for name, figures in summary["stages"].items():
        lines.append(f"{name}: " + ", ".join(_count(value, what) for what, value in figures.items()))
    lines += [f"failed {code}: {count}" for code, count in summary.get("failed_by_code", {}).items()]
    lines += [
        f"{stage}: {counts['redone']} of {counts['records']} records would be made again, with other options or models"
        for stage, counts in summary.get("redone", {}).items()
    ]
    lines += [f"build would refuse: {problem}" for problem in summary.get("refused", ())]
    return Outcome(summary, lines)


def _count(number: float, what: str) -> str:
    return f"{number:g} {what.removesuffix('s') if number == 1 else what}"


def _headline(summary: dict[str, Any], stage: str) -> str:
    """What a job came to. A stage on its own knows its plan alone, not whether a list changed since."""
    if summary.get("committed"):
        return f"snapshot {summary['snapshot']} committed"
    if stage == "build":
        latest = summary["snapshot"]
        return f"nothing to commit; snapshot {latest} is up to date" if latest else "nothing committed"
    plan = f"the plan of {summary['planned']}"
    if stage == "clips" or any(figures["done"] + figures["failed"] for figures in summary["stages"].values()):
        return f"{stage}: finished, by {plan}"
    return f"{stage}: nothing left to do in {plan}; if lists or options changed since, run 'noisebank clips' or 'build'"
