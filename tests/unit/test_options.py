"""Options: what is part of a stage's fingerprint and what is not, and the few values with a syntax of their own."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from noisebank import options
from noisebank.errors import FAILURE_CODES
from noisebank.options import (
    CaptionOptions,
    ClipOptions,
    Config,
    FetchOptions,
    IndexOptions,
    NoiseOptions,
    fingerprint,
    parse_bytes,
    parse_failure_codes,
)

STAGES = (ClipOptions, CaptionOptions, NoiseOptions)
OTHER_VALUES: dict[str, Any] = {"size": (64, 80), "fps": 8.0, "frames": 5, "batch_size": 3, "tolerance": 0.25}
"""Another value than the default, where its type does not suggest one."""
HOW_NOT_WHAT = {
    "ClipOptions": {"maxcount", "min_ram"},
    "CaptionOptions": {"revision", "batch_size", "min_ram"},
    "NoiseOptions": {
        "revision",
        "batch_size",
        "accelerator",
        "device",
        "compile",
        "measured",
        "max_reconstruction_error",
        "min_ram",
    },
}
"""Options that say how the work is done, or what is accepted; not what comes out."""


def another(field: dataclasses.Field[Any]) -> Any:
    """A value of an option that is not its default."""
    if field.name in OTHER_VALUES:
        return OTHER_VALUES[field.name]
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, int | float):
        return field.default + 1
    return "something else"


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_the_fingerprint_changes_with_what_changes_the_output_and_with_nothing_else(stage: Any) -> None:
    unchanged = fingerprint(stage())
    for field in dataclasses.fields(stage):
        changed = fingerprint(dataclasses.replace(stage(), **{field.name: another(field)}))
        assert (changed == unchanged) == (field.name in HOW_NOT_WHAT[stage.__name__]), field.name


WITHOUT_EFFECT: list[tuple[Any, dict[str, Any]]] = [
    (ClipOptions(fps=8.0), {"frame_stride": 4}),
    (ClipOptions(fps=8.0), {"frame_stride": None}),
    (NoiseOptions(inverter="ddim"), {"tolerance": 0.1}),
    (NoiseOptions(inverter="diffuse"), {"max_iterations": 3}),
]


@pytest.mark.parametrize(("chosen", "change"), WITHOUT_EFFECT)
def test_an_option_without_effect_beside_the_others_is_not_in_the_fingerprint(
    chosen: Any, change: dict[str, Any]
) -> None:
    assert fingerprint(dataclasses.replace(chosen, **change)) == fingerprint(chosen)
    assert fingerprint(chosen) != fingerprint(type(chosen)())


def test_an_inverter_of_ones_own_may_iterate() -> None:
    mine = NoiseOptions(inverter="mine")
    assert fingerprint(mine) != fingerprint(dataclasses.replace(mine, tolerance=0.1))


def test_fingerprints_of_banks_that_exist_stay() -> None:
    assert fingerprint(ClipOptions()) == "56308d90c4008ddb"
    assert fingerprint(CaptionOptions(), model_digest="abc") == "744d42e3680c6483"
    assert fingerprint(NoiseOptions(inverter="ddim"), model_digest="abc") == "b30d848528e1cf0b"


@pytest.mark.parametrize("section", [FetchOptions, IndexOptions], ids=lambda section: section.__name__)
def test_how_videos_are_fetched_and_how_good_the_index_is_change_no_clip(section: Any) -> None:
    assert not any(field.metadata["hashed"] for field in dataclasses.fields(section))


def test_fingerprints_are_stable_between_processes() -> None:
    assert fingerprint(ClipOptions()) == fingerprint(ClipOptions(frame_stride=8, maxcount=7))
    assert len({fingerprint(stage()) for stage in STAGES}) == len(STAGES)
    assert all(len(fingerprint(stage())) == 16 for stage in STAGES)
    assert int(fingerprint(ClipOptions()), 16) >= 0


def test_a_digest_of_the_weights_stands_for_the_model_wherever_it_lies() -> None:
    here, there = NoiseOptions(model="/here", motion_adapter="/a"), NoiseOptions(model="hub/there")
    assert fingerprint(here, model_digest="abc") == fingerprint(there, model_digest="abc")
    assert fingerprint(here, model_digest="abc") != fingerprint(here, model_digest="abd")
    assert fingerprint(here) != fingerprint(there)


def test_a_new_format_redoes_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [fingerprint(stage()) for stage in STAGES]
    monkeypatch.setattr(options, "FORMAT_VERSION", options.FORMAT_VERSION + 1)
    assert not {*before} & {fingerprint(stage()) for stage in STAGES}


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("2GiB", 2 << 30), ("1.5 kb", 1500), ("64KiB", 65536), (12345, 12345), ("7", 7)],
)
def test_sizes_in_bytes(text: int | str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "big", "-5", "5 TB", "1e3", "MB", "5i"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="500MB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("value", "codes"),
    [
        ("all", ("all",)),
        ("http_404, too_short", ("http_404", "too_short")),
        (["tls", "http_520"], ("tls", "http_520")),
        (["tls,http_404", "too_short"], ("tls", "http_404", "too_short")),
    ],
)
def test_failure_codes(value: str | list[str], codes: tuple[str, ...]) -> None:
    assert parse_failure_codes(value) == codes


@pytest.mark.parametrize("value", ["", "http_4", "http_404,too_shrt", ["all", "empty_caption"], None])
def test_failure_codes_that_are_none_name_those_allowed(value: str | list[str] | None) -> None:
    with pytest.raises(ValueError, match=r"all, http_404 and the like, bad_dimensions, .*, too_short"):
        parse_failure_codes(value)


def test_every_failure_that_is_raised_has_a_code_that_can_be_retried() -> None:
    package = Path(options.__file__).parent
    sources = [
        path.read_text() for folder in ("video", "inversion", "stages") for path in package.glob(f"{folder}/*.py")
    ]
    text = "\n".join(sources)
    raised = set(re.findall(r'\b(?:RowFailure|_Failed)\(\s*"(\w+)"', text))
    assert len(raised) > 10 and raised <= set(FAILURE_CODES)
    assert all(f'"{code}"' in text for code in FAILURE_CODES)


def test_size_is_a_side_or_height_and_width() -> None:
    assert ClipOptions(size=64).height_width == (64, 64)
    assert ClipOptions(size=(64, 96)).height_width == (64, 96)


def test_every_number_has_limits_which_leave_out_inf_and_nan() -> None:
    for section in (Config, FetchOptions, IndexOptions, *STAGES, options.SourceOptions):
        hints = get_type_hints(section)
        for field in dataclasses.fields(section):
            kinds = {hints[field.name], *get_args(hints[field.name])}
            limits = (field.metadata["minimum"], field.metadata["maximum"])
            if kinds & {int, float}:
                assert None not in limits and math.isfinite(limits[1]), f"{section.__name__}.{field.name}"


def test_every_option_has_a_help_text() -> None:
    for section in (Config, FetchOptions, IndexOptions, *STAGES, options.SourceOptions):
        for field in dataclasses.fields(section):
            assert field.metadata["help"] or dataclasses.is_dataclass(field.default), f"{section.__name__}.{field.name}"
