"""The frames of clips of a bank, by id: what generated clips are compared with, and what judges are measured on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from noisebank.errors import BankDamaged
from noisebank.evaluation.judges import Frames
from noisebank.format.reading import verified_store
from noisebank.format.schemas import ROWS
from noisebank.format.tables import OverlayTable
from noisebank.ids import clip_number
from noisebank.reader.pinned import PinnedSnapshot
from noisebank.reader.samples import SampleReader
from noisebank.video.frames import decode_mp4


def read_clips(pinned: PinnedSnapshot, ids: Iterable[str]) -> Iterator[tuple[str, Frames]]:
    """Ids and frames of clips, a tar after the other; only what was asked for is read and decoded.

    Args:
        pinned: the snapshot.
        ids: of clips that are in it.

    Raises:
        BankDamaged: a clip is not where the snapshot says.
    """
    entries = pinned.snapshot.rows
    rows = OverlayTable(verified_store(pinned.store, entries, pinned.scratch), entries, schema=ROWS)
    places: list[dict[str, Any]] = []
    for id in ids:
        if (found := rows.find(clip_number(id))) is None:
            raise BankDamaged(f"clip {id}: the snapshot has no row of it; run verify")
        places.append({**dict(zip(ROWS.names, found, strict=True)), "id": id})
    with SampleReader(pinned, None, ["clip"]) as reader:
        for place in sorted(places, key=lambda place: (place["clip_file"], place["clip_row"])):
            sample = reader.read(place)
            if sample["id"] != place["id"]:
                raise BankDamaged(f"clip {place['id']}: its row is of {sample['id']}; run verify")
            yield sample["id"], decode_mp4(sample["clip"])
