"""InternVid: jsonl or Parquet with ``YoutubeID, Start_timestamp, End_timestamp, Caption``; scores are not read.

A clip is a range of a YouTube video, its id ``{source}-{YoutubeID}-{start_ms}-{end_ms}``.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.sources.block import Block
from noisebank.sources.rows import Fields, check_range, column_or_null, text_column
from noisebank.sources.times import times_ms

COLUMNS = ["YoutubeID", "Start_timestamp", "End_timestamp", "Caption"]


def fields(block: Block) -> Fields:
    """The rows of a block; a time that is not like ``00:00:05.320``, or none, is ``bad_time``."""
    video = text_column(block.table, "YoutubeID")
    listed = [column_or_null(block.table, name, pa.string()) for name in ("Start_timestamp", "End_timestamp")]
    (start, bad_start), (end, bad_end) = (times_ms(column) for column in listed)
    found = Fields(
        video=video,
        uri=pc.if_else(pc.equal(video, ""), "", pc.binary_join_element_wise("youtube", video, ":")),
        caption=text_column(block.table, "Caption"),
        start_ms=start,
        end_ms=end,
        ranged=True,
        invalid=dict(block.bad),
    )
    missing = np.asarray(pc.or_(start.is_null(), end.is_null()))
    found.refuse(bad_start | bad_end | missing, "bad_time", "like 00:00:05.320 is wanted, not", *listed)
    check_range(found, *listed)
    return found
