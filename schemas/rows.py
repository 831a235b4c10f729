"""Rows on their way into the bank: as a list gives them, as a plan hands them out, and as a snapshot remembers them."""

from __future__ import annotations

import pyarrow as pa

from noisebank.format.status import Status

__all__ = ["LISTED", "ROWS", "TASK_RECORDS", "TASK_ROWS", "Status"]

LISTED = pa.schema(
    [
        ("num", pa.int64()),  # number of the id
        ("position", pa.int64()),  # place in the sources, in the order listed: of duplicates the first wins
        ("id", pa.string()),
        ("source", pa.uint32()),  # low half of XXH64 of the source's name
        ("uri", pa.string()),  # as listed
        ("base", pa.uint32()),  # which folder it is relative to: a number in the plan's list of folders
        ("start_ms", pa.int64()),  # null: from the start
        ("end_ms", pa.int64()),  # null: to the end
        ("caption", pa.string()),
        ("invalid", pa.string()),  # null, or "code: message" of a row that cannot be used
        ("video", pa.uint64()),  # hash of uri and range
        ("caption_hash", pa.uint64()),
    ]
)
"""One row of a source list, parsed."""

TASK_ROWS = pa.schema(
    [
        ("num", pa.int64()),
        ("id", pa.string()),
        ("source", pa.uint32()),
        ("uri", pa.string()),
        ("base", pa.uint32()),
        ("start_ms", pa.int64()),
        ("end_ms", pa.int64()),
        ("caption", pa.string()),
        ("video", pa.uint64()),  # hash of uri and range
        ("caption_hash", pa.uint64()),
        ("attempt", pa.int16()),  # 1 for the first try of this listing
        ("embed", pa.bool_()),  # whether its caption has to be embedded too
    ]
)
"""A row of a plan whose clip, or only whose caption, is to be made; sorted by num."""

TASK_RECORDS = pa.schema(
    [
        ("num", pa.int64()),
        ("id", pa.string()),
        ("clip_file", pa.uint64()),
        ("clip_row", pa.int32()),
        ("attempt", pa.int16()),
    ]
)
"""A clip that exists in a tar and is to be inverted for one noise set; sorted by num."""


ROWS = pa.schema(
    [
        ("num", pa.int64()),
        ("source", pa.uint32()),
        ("listed", pa.uint64()),  # hash of the newest listing: uri, range, caption
        ("video", pa.uint64()),  # hash of the uri and range whose clip is held; 0: none
        ("caption", pa.uint64()),  # hash of the caption whose embedding is held; 0: none
        ("clip_file", pa.uint64()),  # key of the tar: first 64 bits of its sha256; 0: none
        ("clip_row", pa.int32()),
        ("caption_file", pa.uint64()),  # key of the captions file; 0: none
        ("caption_row", pa.int32()),
        ("status", pa.uint8()),
    ]
)
"""What a snapshot knows of every row it ever saw: an overlay table, sorted by num, newest segment wins."""
