"""A Flex Template of Dataflow: which parameters it has, each with the pattern of what may be given, from the options'
own definitions."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noisebank.config import flag_names
from noisebank.devices import parse_device
from noisebank.options import Config, Size, parse_bytes, parse_failure_codes

METADATA = Path(__file__).parent / "metadata.json"
_ADDRESS = "^(gs|s3|az)://[^ ]+$"
_PATTERNS: dict[Callable[[Any], Any], str] = {
    parse_bytes: r"[0-9]+([.][0-9]+)?([kKmMgG]?[iI]?[bB])?",
    parse_device: r"auto|cpu|cuda(:[0-9]{1,4})?",
    parse_failure_codes: r"[a-z0-9_]+(,[a-z0-9_]+)*",
}
"""Of texts that an option reads in a way of its own."""
_TYPES: dict[type, str] = {
    bool: "true|false",
    int: "[0-9]+",
    float: "[0-9]*[.]?[0-9]+([eE][+-]?[0-9]+)?",
    Size: r"\[[0-9]+, ?[0-9]+\]",
    types.NoneType: "null",
}
_SAID_AT_LAUNCH = {
    "config": ("bank.yaml, in a bucket; the other parameters beat what it says", _ADDRESS, False),
    "sdk_container_image": (
        "image of the workers, made from runners/containers/Dockerfile; this template's own will do",
        "^[^ /]+/[^ ]+$",
        False,
    ),
    "image_models": ("folder of the image that models are in (default: /models)", "^/[^ ]*$", True),
    "setup_file": ("setup.py that every worker installs, where the image lacks your modules", "^[^ ]+$", True),
    "number_of_worker_harness_threads": ("shards at a time on a machine (default: 1)", "^[0-9]+$", True),
}
"""What is no option of a build: help, pattern, and whether it may be left out."""


def describe_template() -> dict[str, Any]:
    """The template's metadata, as Dataflow reads it."""
    fixed = [
        {"name": name, "label": name, "helpText": help, "isOptional": optional, "regexes": [pattern]}
        for name, (help, pattern, optional) in _SAID_AT_LAUNCH.items()
    ]
    return {
        "name": "noisebank build",
        "description": "Brings a bank of inverted noise up to date with its lists of captioned videos.",
        "streaming": False,
        "parameters": [*fixed, *map(_describe_option, *zip(*flag_names(Config).items(), strict=True))],
    }


def image_spec(image: str) -> dict[str, Any]:
    """What a Flex Template is, for a file in a bucket: the launcher's image and the metadata."""
    return {"image": image, "sdkInfo": {"language": "PYTHON"}, "metadata": describe_template()}


def to_text(document: dict[str, Any]) -> str:
    """JSON for people, too."""
    return json.dumps(document, indent=2) + "\n"


def _describe_option(name: str, field: dataclasses.Field[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "label": name,
        "helpText": str(field.metadata["help"]),
        "groupName": name.partition(".")[0] if "." in name else "build",
        "isOptional": True,
        "regexes": [_ADDRESS if name == "bank" else f"^({_pattern(name, field)})$"],
    }


def _pattern(name: str, field: dataclasses.Field[Any]) -> str:
    """Of all texts that an option takes on the command line."""
    if field.metadata["choices"]:
        return "|".join(map(re.escape, field.metadata["choices"]))
    section, _, member = name.rpartition(".")
    owner = next((f.default for f in dataclasses.fields(Config) if f.name == section), Config())
    kinds = _alternatives(typing.get_type_hints(type(owner))[field.name if member else name])
    known = [_PATTERNS[field.metadata["parse"]]] if field.metadata["parse"] in _PATTERNS else []
    known += [_TYPES[kind] for kind in kinds if kind in _TYPES and not (known and kind is not types.NoneType)]
    return "|".join(known) if known and str not in kinds else ".+"


def _alternatives(kind: Any) -> list[Any]:
    return list(typing.get_args(kind)) if typing.get_origin(kind) in (types.UnionType, typing.Union) else [kind]
