"""The Flex Template: its parameters are options, and its patterns take what the options take."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from noisebank.config import config_from_mapping, flag_names
from noisebank.errors import ConfigError
from noisebank.options import Config
from runners.flex import METADATA, describe_template, to_text
from runners.options import beam_options

PARAMETERS = {parameter["name"]: parameter for parameter in json.loads(METADATA.read_text())["parameters"]}
SAMPLES = (
    "0",
    "1",
    "3",
    "64",
    "256",
    "-1",
    "0.05",
    ".5",
    "1e-4",
    "true",
    "false",
    "null",
    "500MB",
    "2GiB",
    "64kb",
    "7.5",
)
SAMPLES += ("auto", "cuda:1", "[128, 256]", "yuv444p", "all", "http_404,too_short", "x y", "hub/id", "", "gs://b/bank")
ANYTHING = {"sources", "noise", "stages", "modules", "captions.model", "captions.revision"}
FIXED = {"config": "gs://bucket/bank.yaml", "setup_file": "./setup.py", "image_models": "/models"}
FIXED |= {"sdk_container_image": "host.example/p/noisebank:cuda", "number_of_worker_harness_threads": "1"}


def matches(name: str, text: str) -> bool:
    """As Dataflow has it: all of the patterns match all of the text."""
    return all(re.fullmatch(pattern, text) for pattern in PARAMETERS[name]["regexes"])


def test_the_file_is_what_the_definitions_say() -> None:
    assert METADATA.read_text(encoding="utf-8") == to_text(describe_template()), "python -m runners.flex writes it"


def test_every_parameter_is_an_option_and_every_option_a_parameter() -> None:
    assert PARAMETERS.keys() == FIXED.keys() | flag_names(Config).keys()
    for name, text in FIXED.items():
        assert matches(name, text) and not matches(name, "a b"), name
        if name != "config":
            assert str(beam_options([f"--{name}={text}"])[0].get_all_options()[name]) == text
    assert [name for name, one in PARAMETERS.items() if not one["isOptional"]] == ["config", "sdk_container_image"]
    for parameter in PARAMETERS.values():
        assert parameter["helpText"] and parameter["label"] and parameter["regexes"]


@pytest.mark.parametrize("name", sorted(flag_names(Config).keys() - ANYTHING - {"bank"}))
def test_a_pattern_takes_what_its_option_takes(name: str) -> None:
    taken = []
    for text in SAMPLES:
        with suppress(ConfigError):
            config_from_mapping({"noise": []}, {name: text})
            taken.append(text)
    assert taken, "no sample is taken by the option"
    assert [text for text in taken if not matches(name, text)] == []
    assert not matches(name, "x y"), "the pattern takes everything"


def test_a_bank_of_a_template_is_in_a_bucket() -> None:
    assert [text for text in (*SAMPLES, "./bank", "memory://x") if matches("bank", text)] == ["gs://b/bank"]


def test_the_template_is_printed_for_an_image() -> None:
    command = [sys.executable, "-m", "runners.flex", "--image", FIXED["sdk_container_image"]]
    ran = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    spec = json.loads(ran.stdout)
    assert (spec["image"], spec["sdkInfo"]) == (FIXED["sdk_container_image"], {"language": "PYTHON"})
    assert spec["metadata"] == describe_template()
