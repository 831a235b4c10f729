"""WebVid: csv with a header, in both published orders of its columns.

``videoid,name,page_idx,page_dir,duration,contentUrl`` and ``videoid,contentUrl,duration,page_dir,name``: the columns
are found by name. A clip is a whole video, its id ``{source}-{videoid}-0-{duration_ms}``.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from noisebank.sources.block import Block
from noisebank.sources.rows import Fields, text_column
from noisebank.sources.times import duration_ms, each_ms

COLUMNS = ["videoid", "contentUrl", "duration", "name"]


def fields(block: Block) -> Fields:
    """The rows of a block; a duration that is not like ``PT00H00M05S``, or none, is ``bad_duration``."""
    listed = text_column(block.table, "duration")
    end, _ = each_ms(listed, duration_ms)
    start = pa.array(np.zeros(len(end), np.int64))
    found = Fields(
        video=text_column(block.table, "videoid"),
        uri=text_column(block.table, "contentUrl"),
        caption=text_column(block.table, "name"),
        start_ms=start,
        end_ms=end,
        ranged=True,
        invalid=dict(block.bad),
    )
    found.refuse(np.asarray(end.is_null()), "bad_duration", "like PT00H00M05S and more than 0 is wanted, not", listed)
    return found
