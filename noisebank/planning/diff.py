"""The difference between what the lists say and what a snapshot holds, row by row, in columns.

For every row it is decided, stage by stage, whether the work is held by the snapshot, was done by a finished shard that
no snapshot has (claimed), failed for good, waits, or is to do. Nothing here reads a caption or an address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.format.status import Status
from noisebank.format.tables import matches
from noisebank.planning.claims import CLAIMS, Adopted, best_claims
from noisebank.planning.listing import Hashes, Listing, Mask, Nums, listing_hash
from noisebank.planning.parent import Columns, Parent, joined
from noisebank.planning.retries import MAX_ATTEMPTS


@dataclass(frozen=True)
class Rules:
    """What is retried and what is removed.

    Args:
        due: ``(attempts, last snapshot)`` of the retryable failures to try again.
        retry_codes: codes of permanent failures to try again; ``all`` is any.
        sources: numbers of the configured sources.
        prune: whether rows of other sources are removed.
    """

    due: Sequence[tuple[int, int]]
    retry_codes: Sequence[str]
    sources: Sequence[int]
    prune: bool


@dataclass(frozen=True)
class Tries:
    """The failures that a snapshot records of some rows at one stage; one entry a row.

    Args:
        attempts: how many there were, 0: none.
        due: whether they are to be tried again now.
    """

    attempts: Nums
    due: Mask


@dataclass(frozen=True)
class Work:
    """What one stage has to do; one entry a listed row in every array.

    Args:
        todo: what is to be done.
        attempt: the number of the try, 1 for the first.
        claimed: finished or failed work that no snapshot has.
        failed: rows whose failure, on record or claimed, stands, so that nothing is to be done.
        retried: rows to do that failed before.
    """

    todo: Mask
    attempt: Nums
    claimed: Adopted
    failed: Mask
    retried: Mask


class Difference:
    """Listed rows of one partition against the snapshot and the claims; masks have one entry a listed row.

    Args:
        listing: what the lists say.
        parent: the snapshot.
        lo, hi: the partition's numbers.
        claims: of this partition (:data:`.claims.CLAIMS`).
        rules: what is retried and removed.
        stages: numbers of the stages in the claims.
    """

    def __init__(
        self, listing: Listing, parent: Parent, lo: int, hi: int, claims: pa.Table, rules: Rules, stages: Sequence[str]
    ) -> None:
        self.listing, self.parent, self.rules = listing, parent, rules
        self.stages = list(stages)
        self.claims = {
            stage: claims.filter(pc.equal(claims.column("stage"), i)) if claims.num_rows else CLAIMS.empty_table()
            for i, stage in enumerate(self.stages)
        }
        self.nums = listing.nums
        self.video: Hashes = listing.values("video").astype(np.uint64)
        self.caption: Hashes = listing.values("caption_hash").astype(np.uint64)
        self.listed = listing_hash(self.video, self.caption)
        self.known = parent.rows(lo, hi)
        self.failures = parent.failures(lo, hi)
        self._compare()
        self.clips = self._clips_work()
        self._captions_work()
        names = dict.fromkeys([*parent.noise_sets, *(s.removeprefix("noise/") for s in self.stages if "/" in s)])
        self.records = {name: parent.records(name, lo, hi) for name in names}
        self.noise = {name: self._noise_work(name) for name in names if f"noise/{name}" in self.stages}

    def _compare(self) -> None:
        """Which rows are new, changed, unchanged and removed."""
        self.old, found = joined(self.known, self.nums)
        found &= self.old["status"] != Status.REMOVED
        self.new: Mask = ~found
        self.same: Mask = found & (self.old["listed"] == self.listed)
        self.changed: Mask = found & ~self.same
        known, sources = self.known, np.array(self.rules.sources, np.uint32)
        invalid = np.sort(self.listing.table.column("num").to_numpy()[self.listing.invalid])
        unlisted = ~matches(self.nums, known["num"])[1]
        stale = (known["clip_file"] != 0) & ~self.parent.is_current("clips", known["clip_file"])
        stale |= (known["caption_file"] != 0) & ~self.parent.is_current("captions", known["caption_file"])
        unlisted &= ~matches(invalid, known["num"])[1] | stale  # (what is listed wrongly stays, as long as it can)
        ours = self.rules.prune | np.isin(known["source"], sources)
        self.removed: Mask = unlisted & ours & (known["status"] != Status.REMOVED)
        """One entry a *known* row."""

    def _clips_work(self) -> Work:
        old, parent = self.old, self.parent
        self.has_clip = ~self.new & parent.is_current("clips", old["clip_file"])
        self.drops_clip = ~self.new & (old["clip_file"] != 0) & ~self.has_clip
        self.held = self.has_clip & (old["video"] == self.video)
        on_record = self.same & parent.same_options("clips")
        tries = self._tries("clips", on_record)
        stands = on_record & np.isin(old["status"], (Status.FAILED, Status.RETRYABLE)) & ~tries.due
        return self._work("clips", ~self.held, self.video, stands, tries)

    def _captions_work(self) -> None:
        """A caption follows its clip: embedded with it, or on its own where the clip is there."""
        old, clips = self.old, self.clips
        current = ~self.new & self.parent.is_current("captions", old["caption_file"])
        self.has_caption = current
        fits = current & (old["caption"] == self.caption)
        ready = self.held | clips.claimed.done
        outdated = self.has_clip & clips.failed & ~current
        nothing = np.zeros(len(self.nums), np.int64)
        claimed = best_claims(self.claims["captions"], self.nums, self.caption, nothing)
        adopts = claimed.done & ready & ~fits
        self.captions_claimed = claimed._replace(done=adopts)
        self.captions_todo: Mask = (ready & ~fits & ~adopts) | outdated
        self.embed: Mask = clips.todo & ~fits

    def _noise_work(self, name: str) -> Work:
        stage = f"noise/{name}"
        clips = self.clips
        records, found = joined(self.records[name], self.nums)
        status = records["status"]
        of_this_clip = found & ~clips.claimed.done
        held = of_this_clip & (status == Status.OK) & self.parent.is_current(stage, records["file"])
        has_clip = (self.has_clip | clips.claimed.done) & ~clips.todo
        on_record = of_this_clip & self.parent.same_options(stage)
        tries = self._tries(stage, on_record)
        stands = on_record & np.isin(status, (Status.FAILED, Status.RETRYABLE)) & ~tries.due
        return self._work(stage, has_clip & ~held, self.clip_file, stands, tries)

    @property
    def clip_file(self) -> Hashes:
        """Key of the tar that holds each row's clip, 0: none, or none yet."""
        claim = self._claimed("clips", self.clips.claimed, "file")
        kept = np.where(self.has_clip, self.old["clip_file"], 0)
        return np.where(self.clips.claimed.done, claim, kept).astype(np.uint64)

    @property
    def clip_row(self) -> npt.NDArray[np.int32]:
        """Row of the clip in its tar."""
        claim = self._claimed("clips", self.clips.claimed, "row")
        return np.where(self.clips.claimed.done, claim, self.old["clip_row"]).astype(np.int32)

    @property
    def retried(self) -> Mask:
        """Unchanged rows that failed before and are tried again."""
        noise = [work.retried for work in self.noise.values()]
        return np.asarray(self.same & np.logical_or.reduce([self.clips.retried, *noise]), bool)

    def touched_rows(self) -> Columns:
        """The rows of the table of rows that change, as they stand before any work is done; sorted by num."""
        clips, captions, old = self.clips, self.captions_claimed, self.old
        pending = clips.todo | (self.captions_todo & ~clips.failed)
        unclear = self._claimed("clips", clips.claimed, "status")
        failed = np.where(clips.claimed.failed, unclear, np.where(clips.failed, old["status"], Status.OK))
        status = np.where(pending, Status.PENDING, failed)
        kept_caption = self.has_caption & ~captions.done
        touched = self.new | self.changed | pending | self.captions_todo | captions.done
        touched |= clips.claimed.done | clips.claimed.failed | self.drops_clip | (status != old["status"])
        after = {
            "num": self.nums,
            "source": self.listing.values("source"),
            "listed": self.listed,
            "video": np.where(clips.claimed.done, self.video, np.where(self.has_clip, old["video"], 0)),
            "caption": np.where(captions.done, self.caption, np.where(kept_caption, old["caption"], 0)),
            "clip_file": self.clip_file,
            "clip_row": np.where(self.clip_file != 0, self.clip_row, -1),
            "caption_file": np.where(
                captions.done,
                self._claimed("captions", captions, "file"),
                np.where(kept_caption, old["caption_file"], 0),
            ),
            "caption_row": np.where(
                captions.done,
                self._claimed("captions", captions, "row"),
                np.where(kept_caption, old["caption_row"], -1),
            ),
            "status": status,
        }
        after = {name: values[touched] for name, values in after.items()}
        gone = {name: values[self.removed] for name, values in self.known.items()}
        gone["status"] = np.full(int(self.removed.sum()), Status.REMOVED)
        return _united(after, gone, self.known)

    def touched_records(self, name: str) -> Columns:
        """The records of a noise set that change before any work is done: claimed, failed, dropped; sorted by num."""
        known, stage = self.records[name], f"noise/{name}"
        taken = np.zeros(len(self.nums), bool)
        replaced = self.drops_clip
        stale = np.zeros(len(known["num"]), bool)
        after = {key: np.zeros(0, values.dtype) for key, values in known.items()}
        if name in self.noise:
            claimed = self.noise[name].claimed
            taken = claimed.done | claimed.failed
            after = {key: self._claimed(stage, claimed, key)[taken] for key in ("file", "row", "checksum", "status")}
            after["num"] = self.nums[taken]
            stale = ~self.parent.is_current(stage, known["file"])
        else:  # (nobody inverts the new clip for a set that is not configured, and the old record is not its)
            replaced = replaced | self.clips.todo | self.clips.claimed.done
        stale |= np.isin(known["num"], self.nums[replaced])
        dropped = (known["file"] != 0) & stale | np.isin(known["num"], self.known["num"][self.removed])
        dropped &= (known["status"] != Status.REMOVED) & ~np.isin(known["num"], self.nums[taken])
        gone = {key: values[dropped] for key, values in known.items()}
        gone |= {"file": np.zeros_like(gone["file"]), "status": np.full(int(dropped.sum()), Status.REMOVED)}
        return _united(after, gone, known)

    def used_receipts(self) -> set[int]:
        """Numbers of the receipts of which anything is claimed."""
        taken: dict[str, Adopted] = {"clips": self.clips.claimed, "captions": self.captions_claimed}
        taken |= {f"noise/{name}": work.claimed for name, work in self.noise.items()}
        used: set[int] = set()
        for stage, claimed in taken.items():
            mask = claimed.done | (claimed.failed if stage != "captions" else False)
            used.update(self._claimed(stage, claimed, "receipt")[mask].tolist())
        return used

    def _work(self, stage: str, wanted: Mask, match: Hashes, stands: Mask, tries: Tries) -> Work:
        """Splits the wanted rows of a stage into claimed, failed and to do."""
        claimed = best_claims(self.claims[stage], self.nums, match, tries.attempts)
        wanted = wanted & ~stands
        status, tried = (self._claimed(stage, claimed, column) for column in ("status", "attempt"))
        again = (status == Status.RETRYABLE) & (tried < MAX_ATTEMPTS)
        if self.claims[stage].num_rows:
            again |= self._asked(self.claims[stage].column("code"))[claimed.claim]
        again &= claimed.failed
        claimed = claimed._replace(done=claimed.done & wanted, failed=claimed.failed & wanted & ~again)
        todo = wanted & ~claimed.done & ~claimed.failed
        attempt = 1 + np.where(again, tried, tries.attempts)
        return Work(
            todo=todo,
            attempt=attempt.astype(np.int64),
            claimed=claimed,
            failed=(stands & ~claimed.done) | claimed.failed,
            retried=todo & (attempt > 1),
        )

    def _claimed(self, stage: str, claimed: Adopted, column: str) -> npt.NDArray[Any]:
        """A column of the claims, by listed row; meaningless where nothing is claimed."""
        values = self.claims[stage].column(column).to_numpy()
        return values[claimed.claim] if len(values) else np.zeros(len(self.nums), values.dtype)

    def _asked(self, codes: pa.ChunkedArray) -> Mask:
        """Which failures of these codes are tried again because the configuration says so."""
        if "all" in self.rules.retry_codes:
            return np.ones(len(codes), bool)
        asked: Mask = pc.is_in(codes, value_set=pa.array(self.rules.retry_codes, pa.string())).to_numpy()
        return asked

    def _tries(self, stage: str, on_record: Mask) -> Tries:
        """The failures on record of the rows in ``on_record``."""
        attempts, due = np.zeros(len(self.nums), np.int64), np.zeros(len(self.nums), bool)
        if self.failures is None or not self.failures.num_rows:
            return Tries(attempts, due)
        table = self.failures.filter(pc.equal(self.failures.column("stage"), stage))
        rows, found = matches(self.nums, table.column("num").to_numpy())
        if not len(self.nums):
            return Tries(attempts, due)
        found &= on_record[rows]
        pairs = zip(table.column("attempts").to_pylist(), table.column("last_snapshot").to_pylist(), strict=True)
        is_due = np.array([pair in self.rules.due for pair in pairs], bool)
        is_due = (is_due & table.column("retryable").to_numpy()) | self._asked(table.column("code"))
        attempts[rows[found]] = table.column("attempts").to_numpy()[found]
        due[rows[found]] = is_due[found]
        return Tries(attempts, due)


def _united(one: Columns, other: Columns, types: Columns) -> Columns:
    """The rows of both, which have no num in common, sorted by num; with the columns and dtypes of ``types``."""
    order = np.argsort(np.concatenate([one["num"], other["num"]]))
    return {
        name: np.concatenate([one[name], other[name]])[order].astype(values.dtype) for name, values in types.items()
    }


def count_by_source(numbers: npt.NDArray[np.uint32], names: Mapping[int, str]) -> dict[str, int]:
    """How many of the rows belong to each of the named sources."""
    found, counts = np.unique(numbers, return_counts=True)
    return {names[n]: c for n, c in zip(found.tolist(), counts.tolist(), strict=True) if n in names}
