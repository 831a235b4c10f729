"""``noisebank init``: looks at a folder or a list and writes a configuration for it, to be read before it is used."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import yaml

from noisebank.commands import Outcome
from noisebank.config import config_from_mapping
from noisebank.errors import ConfigError
from noisebank.options import CaptionOptions, ClipOptions, NoiseOptions
from noisebank.outputs import check_folder, write_whole

HELP = "recognise a folder of videos, a list or tars, and write bank.yaml for it"
EPILOG = """\
Recognised are WebVid, InternVid, OpenVid, Panda-70M, Koala-36M, MiraData, VidGen, VATEX, MSR-VTT, Hugging Face
videofolders and Video columns, webdataset tars, folders with a.mp4 and a.txt or a.json, and lists with a column of
videos and one of captions. Videos are looked for beside the list and in the folders below it.
"""
CONFIG = """\
# Made by noisebank init from {path}: {layout}.
# {seen}
bank: {bank}
sources:
{source}
    # where: {{column: ">= 0.5"}}   # take these rows alone; the others are counted as filtered
    # limit: 1000                   # a trial: the first clips of the whole build, which keeps them
# What a clip is: {clips.frames} frames, {clips.frame_stride} apart: a video needs {span}, or fails as too_short.
clips: {{frames: {clips.frames}, frame_stride: {clips.frame_stride}, size: {clips.size}}}
captions: {{model: {captions.model}}}
# The text-to-video model whose noise is stored; any diffusers pipeline that noisebank plan takes.
noise:
  - {{name: {noise.name}, model: {noise.model}, num_inference_steps: {noise.num_inference_steps}}}
"""


def add_init_command(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = add("init", HELP, init)
    parser.epilog = EPILOG
    parser.add_argument("path", metavar="DIR|LIST", help="a folder, a list or a tar on this machine")
    parser.add_argument(
        "-o", "--output", default="bank.yaml", metavar="FILE", help="where to write it (default: bank.yaml)"
    )
    parser.add_argument("--bank", default="./bank", help="where the bank is to be (default: ./bank)")


def init(arguments: argparse.Namespace) -> Outcome:
    """Writes the configuration, unless there is one already."""
    from noisebank.sources.recognise import recognise

    output = Path(arguments.output)
    if output.exists():
        raise ConfigError(f"{output}: exists already; name another file with -o, or remove it")
    check_folder(str(output))
    found = recognise(Path(arguments.path).absolute())
    seen = f"Of the first {found.rows} rows {found.usable} can be used; the videos of {found.videos} were found here."
    if found.others:
        seen += f" Left out are the lists {', '.join(found.others)}."
    clips = ClipOptions()
    text = CONFIG.format(
        path=arguments.path,
        layout=found.layout,
        seen=seen,
        bank=_spell(arguments.bank),
        source="\n".join(
            f"  {'-' if not i else ' '} {key}: {_spell(value)}" for i, (key, value) in enumerate(found.source.items())
        ),
        clips=clips,
        span=(clips.frames - 1) * clips.frame_stride + 1,
        captions=CaptionOptions(),
        noise=NoiseOptions(),
    )
    config_from_mapping(yaml.safe_load(text))
    write_whole(output, text.encode())
    document = {"config": str(output), "layout": found.layout, "source": found.source}
    document |= {"others": list(found.others), "rows": found.rows, "usable": found.usable, "videos": found.videos}
    lines = [f"{output}: {found.layout}. {seen}", f"next: noisebank build -c {output}"]
    return Outcome(document, lines)


def _spell(value: object) -> str:
    """A value as YAML has it on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
