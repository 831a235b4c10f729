"""The rows of a snapshot's tables that a plan changes before any work is done: new, claimed, dropped, removed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from noisebank.format.schemas import RECORDS, ROWS
from noisebank.format.stage_names import CAPTIONS, CLIPS
from noisebank.format.status import Status
from noisebank.planning.claims import BestClaims
from noisebank.planning.diff import Difference
from noisebank.planning.parent import Columns


def changed_rows(difference: Difference) -> pa.Table:
    """The rows of the table of rows that change, sorted by num."""
    clips, captions, old = difference.clips, difference.captions_claimed, difference.old
    pending = clips.todo | (difference.captions_todo & ~clips.failed)
    unclear = difference.claimed_values(CLIPS, clips.claimed, "status")
    failed = np.where(clips.claimed.failed, unclear, np.where(clips.failed, old["status"], Status.OK))
    status = np.where(pending, Status.PENDING, failed)
    kept_caption = difference.has_caption & ~captions.done
    touched = difference.new | difference.changed | pending | difference.captions_todo | captions.done
    touched |= clips.claimed.done | clips.claimed.failed | difference.drops_clip | (status != old["status"])
    file, row = (difference.claimed_values(CAPTIONS, captions, name) for name in ("file", "row"))
    after = {
        "num": difference.nums,
        "source": difference.listing.values("source"),
        "listed": difference.listed,
        "video": np.where(clips.claimed.done, difference.video, np.where(difference.has_clip, old["video"], 0)),
        "caption": np.where(captions.done, difference.caption, np.where(kept_caption, old["caption"], 0)),
        "clip_file": difference.clip_file,
        "clip_row": np.where(difference.clip_file != 0, difference.clip_row, -1),
        "caption_file": np.where(captions.done, file, np.where(kept_caption, old["caption_file"], 0)),
        "caption_row": np.where(captions.done, row, np.where(kept_caption, old["caption_row"], -1)),
        "status": status,
    }
    after = {name: values[touched] for name, values in after.items()}
    gone = {name: values[difference.removed] for name, values in difference.known.items()}
    gone["status"] = np.full(int(difference.removed.sum()), Status.REMOVED)
    return _unite(after, gone, ROWS)


def changed_records(difference: Difference, stage: str) -> pa.Table:
    """The records of a stage over clips that change, sorted by num."""
    known, to_do = difference.records[stage], difference.over_clips.get(stage)
    taken = np.zeros(len(difference.nums), bool)
    replaced = difference.drops_clip
    after = {key: np.zeros(0, values.dtype) for key, values in known.items()}
    if to_do:
        taken = to_do.claimed.done | to_do.claimed.failed
        columns = ("file", "row", "checksum", "status")
        after = {key: difference.claimed_values(stage, to_do.claimed, key)[taken] for key in columns}
        after["num"] = difference.nums[taken]
        made = known["file"] != 0
        stale = made & ~difference.parent.is_current(stage, known["file"])
    else:  # (nobody makes a record of the new clip for a set that is not configured: neither the old record nor the old
        # failure is the new clip's)
        made, stale = np.ones(len(known["num"]), bool), np.zeros(len(known["num"]), bool)
        replaced = replaced | difference.clips.todo | difference.clips.claimed.done
    stale |= made & np.isin(known["num"], difference.nums[replaced])
    removed = np.isin(known["num"], difference.known["num"][difference.removed])
    dropped = stale | removed
    dropped &= (known["status"] != Status.REMOVED) & ~np.isin(known["num"], difference.nums[taken])
    gone = {key: values[dropped] for key, values in known.items()}
    gone |= {"file": np.zeros_like(gone["file"]), "status": np.full(int(dropped.sum()), Status.REMOVED)}
    return _unite(after, gone, RECORDS)


def used_receipts(difference: Difference) -> set[int]:
    """Numbers of the receipts of which anything is claimed."""
    taken: dict[str, BestClaims] = {CLIPS: difference.clips.claimed, CAPTIONS: difference.captions_claimed}
    taken |= {stage: to_do.claimed for stage, to_do in difference.over_clips.items()}
    used: set[int] = set()
    for stage, claimed in taken.items():
        used.update(difference.claimed_values(stage, claimed, "receipt")[claimed.done | claimed.failed].tolist())
    return used


def _unite(one: Columns, other: Columns, schema: pa.Schema) -> pa.Table:
    """The rows of both, which have no num in common, sorted by num."""
    order = np.argsort(np.concatenate([one["num"], other["num"]]))
    columns = [
        pa.array(np.concatenate([one[name], other[name]])[order]).cast(schema.field(name).type) for name in schema.names
    ]
    return pa.table(columns, schema=schema)
