"""From the fields of a list to rows with ids, numbers and hashes; what cannot be used is marked, never dropped.

All layouts end here: they say what is the video, where it is, which part of it is meant and what is seen, as columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.ids import LONGEST_SAFE, clip_numbers, safe, source_number, xxh64, xxh64_of
from noisebank.sources.block import QUOTED

_SAFE = np.zeros(256, bool)
_SAFE[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")] = True
_EMPTY = pa.scalar("", pa.string())


@dataclass
class Fields:
    """Rows as a layout reads them; one entry a row in every column.

    Args:
        video: text, what the source calls the video (or the clip, where ids are explicit).
        uri: text, as listed.
        caption: text, as listed.
        start_ms, end_ms: int64; null: from the start, to the end.
        ranged: whether ids carry the range.
        invalid: why a row cannot be used, ``"code: message"``, by its place.
    """

    video: pa.Array
    uri: pa.Array
    caption: pa.Array
    start_ms: pa.Array
    end_ms: pa.Array
    ranged: bool
    invalid: dict[int, str] = field(default_factory=dict)

    def refuse(self, bad: npt.NDArray[np.bool_], code: str, what: str, *values: pa.Array) -> None:
        """Marks the rows in ``bad`` invalid with ``what`` and their ``values``, unless they are already."""
        for i in np.flatnonzero(bad).tolist():
            shown = ", ".join(repr(column[i].as_py())[:QUOTED] for column in values)
            self.invalid.setdefault(i, f"{code}: {what}{shown and ' '}{shown}")


def listed_rows(fields: Fields, source: str, base: int, position: int) -> pa.Table:
    """The rows as the plan's table of listed rows, with ids, numbers and hashes.

    Args:
        fields: what the layout read.
        source: name of the source.
        base: number of the folder that relative uris start from.
        position: of the first row; the others follow.

    Returns:
        One row an entry, in their order: num, position, id, source (low half of XXH64 of its name), uri, base,
        start_ms, end_ms, caption, invalid (null, or ``"code: message"``), video (XXH64 of uri and range), caption_hash.
    """
    rows = len(fields.uri)
    video, uri, caption = (column.fill_null(_EMPTY) for column in (fields.video, fields.uri, fields.caption))
    fields.refuse(_blank(uri), "missing_uri", "no address of a video; the row's id is", video)
    no_id = _blank(video)
    fields.refuse(no_id, "missing_id", "no id; the row's address is", uri)
    without_id = [i for i in fields.invalid if fields.ranged or no_id[i]]
    start, end = fields.start_ms, fields.end_ms
    fields.refuse(_blank(caption), "empty_caption", "no caption for", uri)
    ids = _ids(fields, source, video)
    if without_id:
        ids = _replaced(ids, {i: f"{source}-invalid-{xxh64(_trace(fields, i)):016x}" for i in without_id})
    invalid = pa.nulls(rows, pa.string())
    if fields.invalid:
        invalid = _replaced(invalid, fields.invalid)
    place = pc.binary_join_element_wise(uri, _text(start), _text(end), "\0")
    return pa.table(
        {
            "num": clip_numbers(ids),
            "position": np.arange(position, position + rows, dtype=np.int64),
            "id": ids,
            "source": np.full(rows, source_number(source), np.uint32),
            "uri": uri,
            "base": np.full(rows, base, np.uint32),
            "start_ms": start,
            "end_ms": end,
            "caption": caption,
            "invalid": invalid,
            "video": xxh64_of(place),
            "caption_hash": xxh64_of(caption),
        }
    )


def check_range(fields: Fields, *listed: pa.Array) -> None:
    """Marks rows invalid whose range is empty; ``listed`` are the times as given, for the message."""
    empty = pc.less_equal(fields.end_ms, pc.fill_null(fields.start_ms, 0)).fill_null(False)
    bad = np.asarray(empty.to_numpy(zero_copy_only=False), bool)
    fields.refuse(bad, "bad_time", "the end is not after the start:", *listed)


def column_or_null(table: pa.Table, name: str | None, type: pa.DataType) -> pa.Array:
    """A column as one array, or nulls where the list has none."""
    if name is None or name not in table.column_names:
        return pa.nulls(table.num_rows, type)
    column = table.column(name).combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def text_column(table: pa.Table, name: str) -> pa.Array:
    """A column as text, whole numbers without a decimal point."""
    column = column_or_null(table, name, pa.string())
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


def _ids(fields: Fields, source: str, video: pa.Array) -> pa.Array:
    parts = [pa.scalar(source), _safe(video)]
    if fields.ranged:
        given = pc.or_(fields.start_ms.is_valid(), fields.end_ms.is_valid())
        times = [pc.fill_null(column, 0).cast(pa.string()) for column in (fields.start_ms, fields.end_ms)]
        ranged = pc.binary_join_element_wise(*parts, *times, "-")
        if pc.all(given).as_py():
            return ranged
        return pc.if_else(given, ranged, pc.binary_join_element_wise(*parts, "-"))
    return pc.binary_join_element_wise(*parts, "-")


def _safe(texts: pa.Array) -> pa.Array:
    """:func:`noisebank.ids.safe` of every text, at the cost of a look at the bytes where all are."""
    data = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts), "")[0].as_buffer()
    lengths = pc.binary_length(texts)
    if _SAFE[np.frombuffer(data, np.uint8)].all() and (pc.max(lengths).as_py() or 0) <= LONGEST_SAFE:
        return texts
    return pa.array([safe(text) for text in texts.to_pylist()], pa.string())


def _blank(texts: pa.Array) -> npt.NDArray[np.bool_]:
    short = pc.less(pc.binary_length(texts), 1)
    spaces = pc.equal(pc.ascii_ltrim_whitespace(texts), "")
    return np.asarray(pc.or_(short, spaces).to_numpy(zero_copy_only=False), bool)


def _trace(fields: Fields, i: int) -> str:
    """What identifies an invalid row without an id: the reason, which has the bad value, and the other fields."""
    columns = (fields.video, fields.uri, fields.caption)
    return "\0".join([fields.invalid[i], *(str(column[i].as_py()) for column in columns)])


def _replaced(column: pa.Array, values: dict[int, str]) -> pa.Array:
    mask = np.zeros(len(column), bool)
    places = sorted(values)
    mask[places] = True
    return pc.replace_with_mask(column, pa.array(mask), pa.array([values[i] for i in places], pa.string()))


def _text(times: pa.Array) -> pa.Array:
    return times.cast(pa.string()).fill_null(_EMPTY)
