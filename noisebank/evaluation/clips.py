"""The frames of clips of a bank, by id: what generated clips are compared with, and what judges are measured on."""

from __future__ import annotations

import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from noisebank.errors import BankDamaged
from noisebank.evaluation.judges import Frames
from noisebank.format.manifest import Snapshot
from noisebank.format.parts import find_entries, read_parts
from noisebank.format.reading import reading, verified_path
from noisebank.format.schemas import ROWS
from noisebank.format.stage_names import CLIPS
from noisebank.format.tables import OverlayTable
from noisebank.ids import clip_number
from noisebank.storage import Store
from noisebank.video.frames import decode_mp4


def read_clips(store: Store, snapshot: Snapshot, ids: Iterable[str]) -> Iterator[tuple[str, Frames]]:
    """Ids and frames of clips, a tar after the other; only what was asked for is read and decoded.

    Args:
        store: the bank.
        snapshot: of it.
        ids: of clips that are in it.

    Raises:
        BankDamaged: a clip is not where the snapshot says.
    """
    rows = OverlayTable(store, snapshot.rows, schema=ROWS)
    places: dict[int, set[str]] = defaultdict(set)
    for id in ids:
        found = rows.find(clip_number(id))
        if found is None:
            raise BankDamaged(f"clip {id}: the snapshot has no row of it; run verify")
        places[dict(zip(ROWS.names, found, strict=True))["clip_file"]].add(id)
    tars = find_entries(read_parts(store, snapshot.parts.get(CLIPS, ())), CLIPS, places)
    with tempfile.TemporaryDirectory(prefix="noisebank-evaluation-") as scratch:
        for key, wanted in places.items():
            path = verified_path(store, tars[key], Path(scratch))
            yield from _read_tar(path, wanted)


def _read_tar(path: Path, wanted: set[str]) -> Iterator[tuple[str, Frames]]:
    missing = {f"{id}.mp4": id for id in wanted}
    with reading(f"shard {path}"), tarfile.open(path, "r:") as tar:
        for info in tar:
            if id := missing.pop(info.name, ""):
                member = tar.extractfile(info)
                yield id, decode_mp4(member.read() if member else b"")
            if not missing:
                return
    raise BankDamaged(f"shard {path.name}: {min(missing.values())} is not in it; run verify")
