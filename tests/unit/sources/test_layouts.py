"""A kind of source is one registered function: it has options of its own, and its lists are read like all others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from noisebank.config import config_from_mapping
from noisebank.errors import ConfigError
from noisebank.ids import xxh64
from noisebank.options import OPTION_CLASSES, SourceOptions, option, options_class
from noisebank.sources import Block, Fields, check_columns, cut_ranges, open_lists, read_fields, read_range
from noisebank.sources.formats import FORMATS
from noisebank.sources.layouts import LAYOUTS, register_layout
from noisebank.storage import open_store


@dataclass(frozen=True)
class DubbedOptions(SourceOptions):
    language: str = option("en", "which of the captions")


@pytest.fixture
def dubbed() -> Iterator[None]:
    """A kind whose lists have a caption in every language."""

    @register_layout("dubbed", columns=lambda source: ["url", f"text_{source.language}"], options=DubbedOptions)
    def read_dubbed(block: Block, source: DubbedOptions) -> Fields:
        return read_fields(block, id=None, uri="url", caption=f"text_{source.language}")

    yield
    del LAYOUTS["dubbed"], OPTION_CLASSES["sources", "dubbed"]


def read(source: SourceOptions, tmp_path: Path) -> list[dict[str, Any]]:
    (file,) = open_lists(source, open_store(tmp_path / "bank"), "plans/spill-test")
    header = check_columns(file)
    tables = [table for part in cut_ranges(file, 0) for table in read_range(file, part, header, 0)]
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.usefixtures("dubbed")
@pytest.mark.parametrize("language", ["en", "de"])
def test_a_layout_of_ones_own_is_read_by_its_own_option(tmp_path: Path, language: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text("text_de,url,text_en\nein Hund,a.mp4,a dog\neine Katze,,a cat\n")
    source = {"kind": "dubbed", "path": str(path), "name": "mine", "language": language}
    config = config_from_mapping({"sources": [source]})
    assert config.sources == (DubbedOptions("dubbed", (str(path),), "mine", language=language),)
    good, bad = read(config.sources[0], tmp_path)
    assert (good["id"], good["uri"], good["invalid"]) == (f"mine-{xxh64('a.mp4'):016x}", "a.mp4", None)
    assert good["caption"] == {"en": "a dog", "de": "ein Hund"}[language]
    assert bad["id"].startswith("mine-invalid-") and bad["invalid"].startswith("missing_uri: ")


@pytest.mark.usefixtures("dubbed")
def test_what_a_layout_of_ones_own_does_not_take_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("url,text_en\na.mp4,a dog\n")
    with pytest.raises(ConfigError, match=r"list\.csv: column 'text_fr' is missing; found: url, text_en"):
        read(DubbedOptions("dubbed", (str(path),), language="fr"), tmp_path)
    refused = {
        "lang": r"sources\[0\].lang: unknown key; allowed here: kind, .*, language",
        "caption": r"sources\[0\].caption: only a table names its columns; dubbed has its own",
    }
    for key, message in refused.items():
        with pytest.raises(ConfigError, match=message):
            config_from_mapping({"sources": [{"kind": "dubbed", "path": "list.csv", key: "x"}]})
    with pytest.raises(ConfigError, match=r"'dubs' is not allowed; one of webvid, internvid, table, .*, dubbed"):
        config_from_mapping({"sources": [{"kind": "dubs", "path": "list.csv"}]})


def test_a_kind_without_a_layout_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'dubbed' is not known: import the package that registers its layout"):
        open_lists(SourceOptions("dubbed", (__file__,)), open_store(tmp_path), "plans/spill-test")


def test_every_kind_has_a_layout_options_and_formats_that_exist() -> None:
    assert [kind for section, kind in OPTION_CLASSES if section == "sources"] == [*LAYOUTS]
    for kind, layout in LAYOUTS.items():
        assert issubclass(options_class("sources", kind), SourceOptions)
        assert {*layout.formats, layout.default_format or "csv"} <= {*FORMATS}


def test_a_configuration_is_checked_without_pyarrow() -> None:
    code = (
        "import sys\nfrom noisebank.config import config_from_mapping\n"
        "config_from_mapping({'sources': [{'kind': 'table', 'path': 'a.csv', 'uri': 'u', 'caption': 'c'}]})\n"
        "print(*{'numpy', 'pyarrow', 'torch'} & {*sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
