"""webdataset tars written by others, as video2dataset writes them: the videos are members of the tars.

A clip is a member, its uri the member's address in its tar, its id ``{source}-{key}``.
"""

from __future__ import annotations

from typing import BinaryIO

import pyarrow as pa

from noisebank.errors import RowFailure
from noisebank.format.shards import ForeignSample, read_foreign_shard
from noisebank.sources.rows import Fields
from noisebank.video.uris import member_uri


def fields(file: BinaryIO, name: str) -> Fields:
    """The samples of one tar; where it is damaged the rest of it is one invalid row.

    Args:
        file: the tar.
        name: its file name, which the uris start with.
    """
    samples: list[ForeignSample] = []
    try:
        samples.extend(read_foreign_shard(file, name))
    except RowFailure as failure:
        samples.append(ForeignSample("", "", 0, 0, "", str(failure)))
    uris = [member_uri(name, sample.name, sample.offset, sample.size) if sample.name else "" for sample in samples]
    nothing = pa.nulls(len(samples), pa.int64())
    return Fields(
        video=pa.array([sample.key for sample in samples], pa.string()),
        uri=pa.array(uris, pa.string()),
        caption=pa.array([sample.caption for sample in samples], pa.string()),
        start_ms=nothing,
        end_ms=nothing,
        ranged=False,
        invalid={i: sample.invalid for i, sample in enumerate(samples) if sample.invalid},
    )
