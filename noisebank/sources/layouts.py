"""The kinds of sources: which columns a list of each has, and what its rows say. :func:`register_layout` adds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import ConfigError
from noisebank.options import SourceOptions, options_class, register_options
from noisebank.sources import folder, tar
from noisebank.sources.block import Block
from noisebank.sources.ranges import END, START
from noisebank.sources.rows import Fields, read_fields
from noisebank.sources.template import columns_of
from noisebank.sources.times import duration_ms, each_ms

FieldsReader = Callable[[Block, Any], Fields]


@dataclass(frozen=True)
class Layout:
    """How the lists of one kind are read; see :func:`register_layout`."""

    fields: FieldsReader
    columns: Callable[[Any], list[str]]
    formats: tuple[str, ...]
    default_format: str
    is_folder: bool = False


_INTERNVID = {"id": "YoutubeID", "start": "Start_timestamp", "end": "End_timestamp", "caption": "Caption"}

LAYOUTS: dict[str, Layout] = {}


def register_layout(
    kind: str,
    *,
    columns: Callable[[Any], list[str]],
    formats: tuple[str, ...] = ("csv", "tsv", "jsonl", "parquet"),
    default_format: str = "",
    options: type[SourceOptions] | None = None,
    is_folder: bool = False,
) -> Callable[[FieldsReader], FieldsReader]:
    """Decorator that makes a function the layout of ``kind: <kind>`` sources.

    The function is given a :class:`.Block` (some rows of a list, only the columns asked for) and the options of the
    source, and returns :class:`.Fields`: most layouts end in :func:`.read_fields`. Ids, hashes, and what a row lacks
    (no uri, no caption) are looked after for all kinds alike. A layout in a package of your own::

        @dataclass(frozen=True)
        class DubbedOptions(SourceOptions):
            language: str = option("en", "which of the captions")

        @register_layout("dubbed", columns=lambda source: ["url", f"text_{source.language}"], options=DubbedOptions)
        def read_dubbed(block: Block, source: DubbedOptions) -> Fields:
            return read_fields(block, id=None, uri="url", caption=f"text_{source.language}")

    Once the package is imported, a source may be ``{kind: dubbed, path: list.csv, language: de}``. (The kinds that come
    with noisebank have their options in ``noisebank/options.py``: a configuration is read without pyarrow.)

    Args:
        kind: its name in a configuration.
        columns: the columns that it reads, from the options of a source; a list without one of them is an error.
        formats: those of :data:`.FORMATS` that its lists may have, by the endings of their names.
        default_format: the format of a list whose name ends otherwise; none: that is an error.
        options: dataclass of the options, whose ``check`` refuses those that do not fit each other; by default what
            :func:`noisebank.options.register_options` was given.
        is_folder: whether its paths are folders of videos, of which :mod:`.folder` makes lists.
    """

    def register(fields: FieldsReader) -> FieldsReader:
        register_options("sources", kind, options or options_class("sources", kind), fields.__module__)
        LAYOUTS[kind] = Layout(fields, columns, formats, default_format, is_folder)
        return fields

    return register


def layout_of(source: SourceOptions) -> Layout:
    """The layout of a source.

    Raises:
        ConfigError: no layout is registered for its kind.
    """
    if source.kind not in LAYOUTS:
        raise ConfigError(f"source kind {source.kind!r} is not known: import the package that registers its layout")
    return LAYOUTS[source.kind]


def _named_columns(source: SourceOptions) -> list[str]:
    named = (source.id, source.uri, *source.caption_columns, source.start, source.end, source.range)
    return list(dict.fromkeys(column for name in named for column in columns_of(name)))


@register_layout(
    "webvid",
    columns=lambda source: ["videoid", *([] if source.uri else ["contentUrl"]), "duration", "name"],
    formats=("csv",),
    default_format="csv",
)
def read_webvid(block: Block, _: SourceOptions) -> Fields:
    """WebVid, in both published orders of its columns: a clip is a whole video.

    A duration that is not like ``PT00H00M05S``, or none, is ``bad_duration``.
    """
    fields = read_fields(block, id="videoid", uri="contentUrl", caption="name", ranged=True)
    listed = block.text("duration")
    fields.start_ms = pa.array(np.zeros(len(listed), np.int64))
    fields.end_ms = each_ms(listed, duration_ms)
    bad = np.asarray(fields.end_ms.is_null())
    fields.refuse(bad, "bad_duration", "like PT00H00M05S and more than 0 is wanted, not", listed)
    return fields


@register_layout("internvid", columns=lambda _: [*_INTERNVID.values()])
def read_internvid(block: Block, _: SourceOptions) -> Fields:
    """InternVid: a clip is a range of a YouTube video; a time that is not like ``00:00:05.320``, or none, is
    ``bad_time``. Scores are not read."""
    wanted = "like 00:00:05.320 is wanted, not"
    fields = read_fields(block, **_INTERNVID, uri="YoutubeID", ranged=True, times=wanted, need_times=True)
    fields.uri = pc.if_else(pc.equal(fields.uri, ""), "", pc.binary_join_element_wise("youtube", fields.uri, ":"))
    return fields


@register_layout("table", columns=_named_columns)
def read_table(block: Block, source: SourceOptions) -> Fields:
    """Any list, its columns named in the configuration; without ``id`` a clip is known by its uri and range."""
    start, end = (START, END) if source.range else (source.start, source.end)
    captions, is_ranged = source.caption_columns, source.range is not None
    return read_fields(block, id=source.id, uri=source.uri, caption=captions, start=start, end=end, ranged=is_ranged)


@register_layout("webdataset", columns=lambda source: [*tar.SAMPLE, *columns_of(source.id or "key")], formats=("tar",))
def read_webdataset(block: Block, source: SourceOptions) -> Fields:
    """webdataset tars written by others: a clip is a video in a tar, known by its key."""
    return read_fields(block, id=source.id or "key", uri="uri", caption="caption")


@register_layout("folder", columns=lambda _: folder.COLUMNS, formats=("jsonl",), is_folder=True)
def read_folder(block: Block, _: SourceOptions) -> Fields:
    """Folders of videos with their captions beside them: a clip is a video, known by its path."""
    fields = read_fields(block, id="key", uri="file", caption="caption")
    problems = block.text("problem").to_pylist()
    fields.invalid |= {i: problem for i, problem in enumerate(problems) if problem}
    return fields
