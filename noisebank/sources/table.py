"""Any csv, jsonl or Parquet list, its columns named in the configuration.

With an ``id`` column a clip's id is ``{source}-{id}``; without, ``{source}-{XXH64 of the uri}`` and the range, if any.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from noisebank.ids import xxh64
from noisebank.options import SourceOptions
from noisebank.sources.block import Block
from noisebank.sources.rows import Fields, check_range, column_or_null, text_column
from noisebank.sources.times import times_ms


def columns(source: SourceOptions) -> list[str]:
    """The columns that the configuration names."""
    named = (source.id, source.uri, source.caption, source.start, source.end)
    return list(dict.fromkeys(name for name in named if name))


def fields(block: Block, source: SourceOptions) -> Fields:
    """The rows of a block; a time that is neither seconds nor ``HH:MM:SS.mmm`` is ``bad_time``."""
    uri = text_column(block.table, source.uri or "uri")
    listed = [column_or_null(block.table, name, pa.string()) for name in (source.start, source.end)]
    (start, bad_start), (end, bad_end) = (times_ms(column) for column in listed)
    found = Fields(
        video=text_column(block.table, source.id) if source.id else _hashed(uri),
        uri=uri,
        caption=text_column(block.table, source.caption or "caption"),
        start_ms=start,
        end_ms=end,
        ranged=source.id is None,
        invalid=dict(block.bad),
    )
    found.refuse(bad_start | bad_end, "bad_time", "seconds or HH:MM:SS.mmm are wanted, not", *listed)
    check_range(found, *listed)
    return found


def _hashed(uri: pa.Array) -> pa.Array:
    encoded = pc.fill_null(uri, "").dictionary_encode()
    return pa.array([f"{xxh64(text):016x}" for text in encoded.dictionary.to_pylist()]).take(encoded.indices)
