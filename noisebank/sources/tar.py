"""webdataset tars written by others, as video2dataset writes them: the videos are members of the tars."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from noisebank.errors import RowFailure
from noisebank.format.shards import ForeignSample, read_foreign_shard
from noisebank.sources.block import Block
from noisebank.sources.list_file import ListFile
from noisebank.video.uris import member_uri

COLUMNS = ["key", "uri", "caption"]
"""What is known of a sample: its key, the address of its video in the tar, and its caption."""


def blocks(file: ListFile, span: tuple[int, int], header: list[str], wanted: list[str]) -> Iterator[Block]:
    """The samples of a tar; where it is damaged the rest of it is one bad row."""
    name = file.name.removeprefix(file.folder).removeprefix("/")
    samples: list[ForeignSample] = []
    try:
        with file.open() as stream:
            samples.extend(read_foreign_shard(stream, name))
    except RowFailure as failure:
        samples.append(ForeignSample("", "", 0, 0, "", str(failure)))
    uris = [member_uri(name, sample.name, sample.offset, sample.size) if sample.name else "" for sample in samples]
    columns = {"key": [sample.key for sample in samples], "uri": uris, "caption": [s.caption for s in samples]}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    yield Block(table, {i: sample.invalid for i, sample in enumerate(samples) if sample.invalid})
