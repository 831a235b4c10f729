"""From the fields of a list to rows with ids, numbers and hashes; what cannot be used is marked, never dropped.

All layouts end here: they say what is the video, where it is, which part of it is meant and what is seen, as columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.ids import LONGEST_SAFE, Hashes, Mask, clip_numbers, safe, source_number, xxh64, xxh64_of
from noisebank.sources.block import LISTS, QUOTED, Block
from noisebank.sources.times import times_ms

FILTERED = "filtered: "
"""What the reason begins with of a row that its source does not take."""
_SAFE = rf"^[A-Za-z0-9_-]{{0,{LONGEST_SAFE}}}$"


@dataclass
class Fields:
    """Rows as a layout reads them; one entry a row in every column.

    Args:
        video: text, what the source calls the video (or the clip, where ids are explicit).
        uri: text, as listed.
        caption: text, as listed; or lists of texts, several captions a clip.
        start_ms, end_ms: int64; null: from the start, to the end.
        ranged: whether ids carry the range.
        invalid: why a row cannot be used, ``"code: message"``, by its place.
        filtered: why the source does not take a row, null where it does; by default it takes all.
        is_cut: whether the range of a row is all of its file, and only names it.
    """

    video: pa.Array
    uri: pa.Array
    caption: pa.Array
    start_ms: pa.Array
    end_ms: pa.Array
    ranged: bool
    invalid: dict[int, str] = field(default_factory=dict)
    filtered: pa.Array | None = None
    is_cut: bool = False

    def refuse(self, bad: Mask, code: str, what: str, *values: pa.Array) -> None:
        """Marks the rows in ``bad`` invalid with ``what`` and their ``values``, unless they are already."""
        for i in np.flatnonzero(bad).tolist():
            shown = ", ".join(repr(column[i].as_py())[:QUOTED] for column in values)
            self.invalid.setdefault(i, f"{code}: {what}{shown and ' '}{shown}")


def read_fields(
    block: Block,
    *,
    id: str | None,
    uri: str | None,
    caption: str | Sequence[str] | None,
    start: str | None = None,
    end: str | None = None,
    ranged: bool = False,
    times: str = "seconds or HH:MM:SS.mmm are wanted, not",
    need_times: bool = False,
) -> Fields:
    """The rows of a block, by the names of its columns; a bad time, or an empty range, is ``bad_time``.

    Args:
        block: some rows of a list.
        id: column of the video (or clip); None: the XXH64 of its uri, and ids carry the range.
        uri, caption: columns of text; of captions there may be several columns, and lists in their cells.
        start, end: columns of times, seconds or ``HH:MM:SS.mmm``; None where there are none.
        ranged: whether ids carry the range.
        times: what is said of a bad time, before its value.
        need_times: whether a row without both times is bad.
    """
    uris = block.text(uri)
    listed = [block.column(name) for name in (start, end)]
    (start_ms, bad_start), (end_ms, bad_end) = map(times_ms, listed)
    video = block.text(id) if id else _hash(uris)
    captions = block.texts([caption] if isinstance(caption, str) else caption or [])
    fields = Fields(video, uris, captions, start_ms, end_ms, ranged or not id, dict(block.bad))
    missing = need_times & np.asarray(pc.or_(start_ms.is_null(), end_ms.is_null()))
    fields.refuse(bad_start | bad_end | missing, "bad_time", times, *listed)
    empty = pc.less_equal(end_ms, start_ms.fill_null(0)).fill_null(False)
    fields.refuse(np.asarray(empty), "bad_time", "the end is not after the start:", *listed)
    return fields


def video_hashes(uri: pa.Array, start_ms: pa.Array, end_ms: pa.Array, rhythm: str = "") -> Hashes:
    """What tells the clips of rows apart: XXH64 of uri, range and, where its source has one, rhythm
    (:attr:`noisebank.options.SourceOptions.rhythm`)."""
    times = (column.cast(pa.string()).fill_null("") for column in (start_ms, end_ms))
    own = [pa.scalar(rhythm)] if rhythm else []
    return xxh64_of(pc.binary_join_element_wise(uri, *times, *own, "\0"))


def listed_rows(fields: Fields, source: str, base: int, position: int, rhythm: str = "") -> pa.Table:
    """The rows as the plan's table of listed rows, with ids, numbers and hashes.

    Args:
        fields: what the layout read.
        source: name of the source.
        base: number of the folder that relative uris start from.
        position: of the first row; the others follow.
        rhythm: of the source.

    Returns:
        One row an entry, in their order: num, position, id, source (low half of XXH64 of its name), uri, base,
        start_ms, end_ms, caption, captions (null where there is one alone; blank ones and repetitions are no captions),
        invalid (null, or ``"code: message"``; the code of a row that its source does not take is ``filtered``), video
        (:func:`video_hashes`), caption_hash (XXH64 of the caption, of several with a zero byte between them).
    """
    rows = len(fields.uri)
    first, captions = _split_captions(fields.caption)
    video, uri, caption = (column.fill_null("") for column in (fields.video, fields.uri, first))
    fields.refuse(_blank(uri), "missing_uri", "no address of a video; the row's id is", video)
    no_id = _blank(video)
    fields.refuse(no_id, "missing_id", "no id; the row's address is", uri)
    without_id = [i for i in fields.invalid if fields.ranged or no_id[i]]
    fields.refuse(_blank(caption), "empty_caption", "no caption for", uri)
    invalid_ids = {i: f"{source}-invalid-{xxh64(_trace(fields, i)):016x}" for i in without_id}
    ids = _replace(_ids(fields, source, video), invalid_ids)
    times = (fields.start_ms, fields.end_ms)
    start_ms, end_ms = (pa.nulls(rows, pa.int64()) for _ in times) if fields.is_cut else times
    reasons = _replace(pa.nulls(rows, pa.string()), fields.invalid)
    if fields.filtered is not None:
        reasons = pc.coalesce(pc.binary_join_element_wise(FILTERED, fields.filtered, ""), reasons)
    return pa.table(
        {
            "num": clip_numbers(ids),
            "position": np.arange(position, position + rows, dtype=np.int64),
            "id": ids,
            "source": np.full(rows, source_number(source), np.uint32),
            "uri": uri,
            "base": np.full(rows, base, np.uint32),
            "start_ms": start_ms,
            "end_ms": end_ms,
            "caption": caption,
            "captions": captions,
            "invalid": reasons,
            "video": video_hashes(uri, start_ms, end_ms, rhythm),
            "caption_hash": xxh64_of(_join(captions, caption)),
        }
    )


def _join(captions: pa.Array, caption: pa.Array) -> pa.Array:
    """What the hash of a row's captions is of; the usual list, with one a row, costs nothing."""
    if captions.null_count == len(captions):
        return caption
    return pc.coalesce(pc.binary_join(captions, "\0"), caption)


def _split_captions(listed: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The first caption of every row, and all of them where there are several."""
    if not pa.types.is_list(listed.type):
        return listed, pa.nulls(len(listed), LISTS)
    rows = [[*dict.fromkeys(text for text in texts or () if text and text.strip())] for texts in listed.to_pylist()]
    several = [row if len(row) > 1 else None for row in rows]
    return pa.array([row[0] if row else None for row in rows], pa.string()), pa.array(several, LISTS)


def _hash(texts: pa.Array) -> pa.Array:
    encoded = texts.fill_null("").dictionary_encode()
    return pa.array([f"{xxh64(text):016x}" for text in encoded.dictionary.to_pylist()]).take(encoded.indices)


def _ids(fields: Fields, source: str, video: pa.Array) -> pa.Array:
    parts = [pa.scalar(source), _safe(video)]
    if fields.ranged:
        given = pc.or_(fields.start_ms.is_valid(), fields.end_ms.is_valid())
        times = (pc.if_else(given, column.fill_null(0), None) for column in (fields.start_ms, fields.end_ms))
        parts += [column.cast(pa.string()) for column in times]
    return pc.binary_join_element_wise(*parts, "-", null_handling="skip")


def _safe(texts: pa.Array) -> pa.Array:
    """:func:`noisebank.ids.safe` of every text, at the cost of a look where all are."""
    if pc.all(pc.match_substring_regex(texts, _SAFE), min_count=0).as_py():
        return texts
    return pa.array([safe(text) for text in texts.to_pylist()], pa.string())


def _blank(texts: pa.Array) -> Mask:
    return np.asarray(pc.equal(pc.ascii_ltrim_whitespace(texts), ""))


def _trace(fields: Fields, i: int) -> str:
    """What identifies an invalid row without an id: the reason, which has the bad value, and the other fields."""
    columns = (fields.video, fields.uri, fields.caption)
    return "\0".join([fields.invalid[i], *(str(column[i].as_py()) for column in columns)])


def _replace(column: pa.Array, values: dict[int, str]) -> pa.Array:
    if not values:
        return column
    mask = np.zeros(len(column), bool)
    mask[[*values]] = True
    return pc.replace_with_mask(column, pa.array(mask), pa.array([values[i] for i in sorted(values)], pa.string()))
