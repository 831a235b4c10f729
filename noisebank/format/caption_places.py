"""Where the captions of a bank stand: in which captions files, and in which rows of each.

The table of rows says where the first caption of a clip is; its others follow. Of the rows of a captions file some may
be out of date.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import BankDamaged
from noisebank.format.parts import find_entries
from noisebank.format.reading import read_table
from noisebank.format.schemas import ROWS
from noisebank.format.stage_names import CAPTIONS
from noisebank.format.status import Status
from noisebank.format.tables import OverlayTable
from noisebank.ids import Nums
from noisebank.storage import FileEntry, Store

_NONE = pa.scalar(0, pa.uint64())
HELD = (
    (pc.field("status") != int(Status.REMOVED)) & (pc.field("clip_file") != _NONE) & (pc.field("caption_file") != _NONE)
)
"""Which rows have a clip and a caption, so that they can be found."""


def caption_places(
    store: Store, rows: Sequence[FileEntry], part: pa.Table, wanted: pc.Expression
) -> list[tuple[FileEntry, Nums]]:
    """Captions files that hold the captions of the wanted rows, and the rows of each file, ascending: all captions of
    those.

    Args:
        store: the bank.
        rows: segments of its rows.
        part: its captions files (:func:`noisebank.format.parts.read_parts`).
        wanted: which of the rows.

    Raises:
        BankDamaged: a file is not named by the manifest, or a segment is missing or damaged.
    """
    places = rows_by_file(store, rows, wanted)
    files = find_entries(part, CAPTIONS, places)
    return [(files[key], all_captions(store, files[key], at)) for key, at in places.items()]


def rows_by_file(store: Store, rows: Sequence[FileEntry], wanted: pc.Expression) -> dict[int, Nums]:
    """Where the first caption of each wanted row is, by the files' keys, whether a manifest names them or not."""
    columns = ["caption_file", "caption_row"]
    pieces = OverlayTable(store, rows, schema=ROWS).slices()
    tables = [ROWS.empty_table().select(columns), *(piece.filter(wanted).select(columns) for piece in pieces)]
    files, at = (pa.concat_tables(tables).column(name).to_numpy() for name in columns)
    order = np.lexsort((at, files))
    keys, starts = np.unique(files[order], return_index=True)
    return dict(zip(keys.tolist(), np.split(at[order].astype(np.int64), starts)[1:], strict=True))


def all_captions(store: Store, file: FileEntry, first: Nums) -> Nums:
    """The rows of all captions of some clips in a captions file, ascending, from those of their first captions.

    Raises:
        BankDamaged: the file is missing or damaged.
    """
    if len(first) == file.rows:
        return first
    nums = read_table(store, file.path, ["num"]).column("num").to_numpy()
    if first.max(initial=-1) >= len(nums):
        raise BankDamaged(f"{file.path}: does not hold the captions that rows look for in it; run verify")
    counts = np.searchsorted(nums, nums[first], side="right") - first
    before = np.cumsum(counts) - counts
    return np.repeat(first - before, counts) + np.arange(counts.sum())
