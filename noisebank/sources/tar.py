"""webdataset tars written by others, as video2dataset writes them: the videos are members of the tars."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from noisebank.errors import RowFailure
from noisebank.format.shards import ForeignSample, read_foreign_shard
from noisebank.sources.block import Block, to_array
from noisebank.sources.list_file import ListFile, file_path
from noisebank.video.uris import member_uri

SAMPLE = ["uri", "caption"]
"""What every video of a tar has: its address in the tar, and its caption."""
COLUMNS = [*SAMPLE, "key", "tar"]
"""What is known of it besides its json: also its key, and the name of its tar without the ending."""


def blocks(file: ListFile, span: tuple[int, int], header: list[str], wanted: list[str]) -> Iterator[Block]:
    """The videos of a tar; where it is damaged the rest of it is one bad row, and one without any is one too.

    Columns that are not of :data:`COLUMNS` are members of the samples' json.
    """
    name = file.name.removeprefix(file.own_folder).removeprefix("/")
    stem = PurePosixPath(file_path(name)).stem
    rows: list[dict[str, Any]] = []
    bad: dict[int, str] = {}

    def add(sample: ForeignSample) -> None:
        if sample.invalid:
            bad[len(rows)] = sample.invalid
        uri = member_uri(name, sample.name, sample.offset, sample.size) if sample.name else ""
        known = {"key": sample.key, "uri": uri, "caption": sample.caption, "tar": stem}
        rows.append({column: known.get(column, _text(sample.info.get(column))) for column in wanted})

    try:
        with file.open() as stream:
            for sample in read_foreign_shard(stream, name):
                add(sample)
        if not rows:
            raise RowFailure("bad_tar", f"{name}: no member is a video, so there is nothing to take from it")
    except RowFailure as failure:
        add(ForeignSample("", "", 0, 0, "", str(failure)))
    columns = {column: to_array([row[column] for row in rows]) for column in wanted}
    yield Block(pa.table(columns), bad)


def _text(value: Any) -> str | None:
    """A member of a sample's json as the text of a cell; null where it is no plain value."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (str, int, float)) else None
