"""The Arrow schema of every table that a build reads or writes; a table is cast to it just before it is written."""

from __future__ import annotations

import pyarrow as pa

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
        ("caption", pa.string()),  # the first
        ("captions", pa.list_(pa.string())),  # all of them, where there are several; else null
        ("invalid", pa.string()),  # null, or "code: message" of a row that cannot be used
        ("video", pa.uint64()),  # hash of uri and range, and of the rhythm where the source has its own
        ("caption_hash", pa.uint64()),  # of all captions
    ]
)
"""One row of a source list, parsed."""

TASK_ROWS = pa.schema(
    [
        *(LISTED.field(name) for name in ("num", "id", "source", "uri", "base", "start_ms", "end_ms", "caption")),
        *(LISTED.field(name) for name in ("captions", "video", "caption_hash")),
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
"""A clip that exists in a tar and of which a stage over clips is to make a record; sorted by tar and num."""

ROWS = pa.schema(
    [
        ("num", pa.int64()),
        ("source", pa.uint32()),
        ("listed", pa.uint64()),  # hash of the newest listing: uri, range, caption
        ("video", pa.uint64()),  # the same of the row whose clip is held; 0: none
        ("caption", pa.uint64()),  # hash of the captions whose embeddings are held; 0: none
        ("clip_file", pa.uint64()),  # key of the tar: first 64 bits of its sha256; 0: none
        ("clip_row", pa.int32()),
        ("caption_file", pa.uint64()),  # key of the captions file; 0: none
        ("caption_row", pa.int32()),  # of the first of its captions; the others follow
        ("status", pa.uint8()),  # noisebank.format.status.Status
    ]
)
"""What a snapshot knows of every row it ever saw: an overlay table, sorted by num, newest segment wins."""

RECORDS = pa.schema(
    [
        ("num", pa.int64()),
        ("file", pa.uint64()),  # key of the data file: first 64 bits of its sha256; 0: no record
        ("row", pa.int32()),
        ("checksum", pa.uint64()),  # of a noise record
        ("status", pa.uint8()),  # OK, FAILED, RETRYABLE or REMOVED
    ]
)
"""Which record of a stage over clips belongs to a clip: an overlay table, sorted by num, newest segment wins."""

FAILURES = pa.schema(
    [
        ("num", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("uri", pa.string()),
        ("stage", pa.string()),  # plan, clips, captions, or noise/<set>
        ("code", pa.string()),  # empty: healed, the entry before it no longer holds
        ("message", pa.string()),
        ("retryable", pa.bool_()),
        ("attempts", pa.int16()),
        ("first_snapshot", pa.int64()),  # number of the snapshot that first recorded it
        ("last_snapshot", pa.int64()),  # number of the snapshot that recorded the newest attempt
    ]
)
"""``failures/*.parquet``: every row that is not in the bank, and why; an overlay table by (num, stage)."""

CLIPS = pa.schema(
    [
        ("num", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("uri", pa.string()),
        ("start_ms", pa.int64()),
        ("end_ms", pa.int64()),
        ("caption", pa.string()),
        ("video", pa.uint64()),
        ("caption_hash", pa.uint64()),
        ("attempt", pa.int16()),
        ("clip_row", pa.int32()),  # position in the tar; -1: failed
        ("sha256", pa.string()),  # of the mp4; null: failed
        ("frames", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("fps", pa.float64()),
        ("source_fps", pa.float64()),
        ("source_height", pa.int32()),
        ("source_width", pa.int32()),
        ("code", pa.string()),  # null: good
        ("message", pa.string()),
        ("retryable", pa.bool_()),
    ]
)
"""``clips/*.parquet``, the sidecar: one row per clip of the tar of the same name, good or failed, sorted by num."""

ENTRIES = pa.schema([("num", pa.int64()), ("id", pa.string()), ("source", pa.string()), ("caption", pa.string())])
"""``index/*.parquet``: which caption of which clip stands at which position of the FAISS index of the same name."""


PART = pa.schema(
    [
        ("key", pa.uint64()),  # by which rows and records refer to the file
        ("path", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("stage", pa.string()),  # with inputs: its receipt
        ("inputs", pa.string()),
        ("fingerprint", pa.string()),
        ("data_offset", pa.int64()),  # noise: byte offset of the first record
        ("stride", pa.int64()),  # noise: bytes from record to record
        ("scale_offset", pa.int64()),  # noise in int8: byte offset of the first record's scales
        ("scale_stride", pa.int64()),
    ]
)
"""``parts/*.parquet``, the manifest: one row a data file of a snapshot."""

REWRITE_ROWS = pa.schema(
    [
        ("prompt", pa.string()),
        ("rewritten", pa.string()),  # the prompt itself where there is a code
        ("code", pa.string()),  # why there is no rewrite; null: there is one
        ("references", pa.list_(pa.string())),  # captions that were shown, nearest first
        ("reference_ids", pa.list_(pa.string())),
        ("similarity", pa.float32()),  # cosine of the embeddings of prompt and answer; null: none was compared
        ("snapshot", pa.int64()),  # of the bank
        ("model", pa.string()),
    ]
)
"""``rewrites/*.parquet``: a row a prompt, in the order listed."""


def schema_of(path: str) -> pa.Schema:
    """The columns that every file of its folder has; of files of a plan, whose names tell nothing, none."""
    return _OF_FOLDER.get(path.partition("/")[0], pa.schema([("num", pa.int64())]))


def captions_schema(dim: int) -> pa.Schema:
    """``captions/*.parquet``, the truth about captions, a row each, sorted by num; those of one clip follow each other
    as listed, with one hash of them all. Embeddings are ``dim`` float32 of length one."""
    return pa.schema([*ENTRIES, ("caption_hash", pa.uint64()), ("embedding", pa.list_(pa.float32(), dim))])


def noise_schema(shape: tuple[int, int, int, int], dtype: str) -> pa.Schema:
    """``noise/<set>/*.arrow``: records of one shape ``[C, F, H, W]`` with their statistics.

    Args:
        shape: of a record.
        dtype: ``float16``, or ``int8`` with one scale a channel and frame.
    """
    channels, frames, _, _ = shape
    values = {"float16": pa.float16(), "int8": pa.int8()}[dtype]
    scale = [("scale", pa.list_(pa.float32(), channels * frames))] if dtype == "int8" else []
    return pa.schema(
        [
            ("num", pa.int64()),
            ("id", pa.string()),
            ("sha256", pa.string()),  # of the mp4 it was made from
            ("checksum", pa.uint64()),  # XXH3-64 of the record's bytes
            ("noise", pa.fixed_shape_tensor(values, shape)),
            *scale,
            ("mean", pa.list_(pa.float32(), channels)),
            ("std", pa.list_(pa.float32(), channels)),
            ("rms", pa.float32()),
            ("temporal_correlation", pa.float32()),  # of neighbouring frames
            ("spatial_correlation", pa.float32()),  # of neighbouring pixels
            ("reconstruction_error", pa.float32()),  # relative, of the latents given back; null: not measured
            ("stored_reconstruction_error", pa.float32()),  # the same, from the record as stored
            ("max_residual", pa.float32()),  # largest that a step of the inversion was left with
            ("network_calls", pa.int32()),
            ("stalled_steps", pa.int32()),
        ]
    )


_OF_FOLDER = {
    "clips": CLIPS,
    "captions": captions_schema(1),
    "index": ENTRIES,
    "rows": ROWS,
    "records": RECORDS,
    "failures": FAILURES,
    "parts": PART,
    "expired": pa.schema([("path", pa.string())]),
    "plans": pa.schema([]),
    "rewrites": REWRITE_ROWS,
}
