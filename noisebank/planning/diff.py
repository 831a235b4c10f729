"""The difference between what the lists say and what a snapshot holds, row by row, in columns.

For every row it is decided, stage by stage, whether the work is held by the snapshot, was done by a finished shard that
no snapshot has (claimed), failed for good, waits, or is to do. Nothing here reads a caption or an address.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.format.stage_names import CAPTIONS, CLIPS, over_clips
from noisebank.format.status import Status
from noisebank.format.tables import matches
from noisebank.ids import Hashes, Mask, Nums
from noisebank.options import Config
from noisebank.planning.claims import BestClaims, best_claims
from noisebank.planning.listing import Listing, listing_hash
from noisebank.planning.parent import Columns, Parent, look_up
from noisebank.planning.survey import MAX_ATTEMPTS, Survey


@dataclass(frozen=True)
class ToDo:
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
    claimed: BestClaims
    failed: Mask
    retried: Mask


@dataclass(frozen=True)
class Difference:
    """Listed rows of one partition against the snapshot and the claims.

    Everything below is computed once, when it is first asked for; masks have one entry a listed row.

    Args:
        listing: what the lists say.
        parent: the snapshot.
        lo, hi: the partition's numbers.
        all_claims: of this partition (:data:`.claims.CLAIMS`).
        config: of the build; says what is retried and removed.
        survey: of the bank.
    """

    listing: Listing
    parent: Parent
    lo: int
    hi: int
    all_claims: pa.Table
    config: Config
    survey: Survey

    @cached_property
    def nums(self) -> Nums:
        """Sorted numbers of the listed rows."""
        return self.listing.nums

    @cached_property
    def video(self) -> Hashes:
        """Hash of the uri and range that each row lists."""
        return self.listing.values("video").astype(np.uint64)

    @cached_property
    def caption(self) -> Hashes:
        """Hash of the caption that each row lists."""
        return self.listing.values("caption_hash").astype(np.uint64)

    @cached_property
    def listed(self) -> Hashes:
        """Hash of everything that each row lists."""
        return listing_hash(self.video, self.caption)

    @cached_property
    def known(self) -> Columns:
        """The snapshot's rows."""
        return self.parent.rows(self.lo, self.hi)

    @cached_property
    def failures(self) -> pa.Table:
        """The snapshot's failures that hold."""
        return self.parent.failures(self.lo, self.hi)

    @cached_property
    def claims(self) -> dict[str, pa.Table]:
        """The claims of each stage."""
        numbers = self.all_claims.column("stage")
        return {stage: self.all_claims.filter(pc.equal(numbers, i)) for i, stage in enumerate(self.survey.stages)}

    @cached_property
    def records(self) -> dict[str, Columns]:
        """The snapshot's records of each stage over clips, those that are not configured included."""
        configured = [stage.name for stage in over_clips(self.survey.stages)]
        names = dict.fromkeys([*sorted(self.parent.record_tables), *configured])
        return {name: self.parent.records(name, self.lo, self.hi) for name in names}

    @cached_property
    def _old(self) -> tuple[Columns, Mask]:
        old, found = look_up(self.known, self.nums)
        return old, found & (old["status"] != Status.REMOVED)

    @property
    def old(self) -> Columns:
        """What the snapshot knows of each listed row, zeros where it knows nothing."""
        return self._old[0]

    @cached_property
    def new(self) -> Mask:
        """Rows that the snapshot does not have."""
        return ~self._old[1]

    @cached_property
    def same(self) -> Mask:
        """Rows that the snapshot has as they are listed."""
        return np.asarray(self._old[1] & (self.old["listed"] == self.listed), bool)

    @cached_property
    def changed(self) -> Mask:
        """Rows that the snapshot has otherwise."""
        return self._old[1] & ~self.same

    @cached_property
    def removed(self) -> Mask:
        """Rows of the snapshot that are not listed any more; one entry a *known* row."""
        known, parent = self.known, self.parent
        invalid = np.sort(self.listing.table.column("num").to_numpy()[self.listing.invalid])
        stale = (known["clip_file"] != 0) & ~parent.is_current(CLIPS, known["clip_file"])
        stale |= (known["caption_file"] != 0) & ~parent.is_current(CAPTIONS, known["caption_file"])
        unlisted = ~matches(self.nums, known["num"])[1]
        unlisted &= ~matches(invalid, known["num"])[1] | stale  # (what is listed wrongly stays, as long as it can)
        ours = self.config.prune | np.isin(known["source"], np.array([*self.survey.sources], np.uint32))
        return np.asarray(unlisted & ours & (known["status"] != Status.REMOVED), bool)

    @cached_property
    def filtered(self) -> Mask:
        """Those of the removed rows that are listed, but that their source does not take any more."""
        nums = self.listing.table.column("num").to_numpy()[self.listing.filtered]
        return np.asarray(self.removed & np.isin(self.known["num"], nums), bool)

    @cached_property
    def has_clip(self) -> Mask:
        """Rows that have a clip, of the listed video or of an earlier one, made with the present options."""
        return ~self.new & self.parent.is_current(CLIPS, self.old["clip_file"])

    @cached_property
    def drops_clip(self) -> Mask:
        """Rows whose clip was made with other options."""
        return np.asarray(~self.new & (self.old["clip_file"] != 0) & ~self.has_clip, bool)

    @cached_property
    def held(self) -> Mask:
        """Rows that have the clip of the listed video."""
        return np.asarray(self.has_clip & (self.old["video"] == self.video), bool)

    @cached_property
    def clips(self) -> ToDo:
        """What is to be done of the clips."""
        on_record = self.same & self.parent.same_options(CLIPS)
        return self._to_do(CLIPS, ~self.held, self.video, on_record, self.old["status"])

    @cached_property
    def has_caption(self) -> Mask:
        """Rows whose caption, the listed or an earlier one, is embedded by the present model."""
        return ~self.new & self.parent.is_current(CAPTIONS, self.old["caption_file"])

    @cached_property
    def _caption_fits(self) -> Mask:
        return np.asarray(self.has_caption & (self.old["caption"] == self.caption), bool)

    @cached_property
    def _ready(self) -> Mask:
        """Rows whose clip is there, so that their caption can be embedded on its own."""
        return self.held | self.clips.claimed.done

    @cached_property
    def captions_claimed(self) -> BestClaims:
        """The finished captions that are taken."""
        claimed = best_claims(self.claims[CAPTIONS], self.nums, self.caption, np.zeros(len(self.nums), np.int64))
        nothing = np.zeros(len(self.nums), bool)
        return claimed._replace(done=claimed.done & self._ready & ~self._caption_fits, failed=nothing)

    @cached_property
    def captions_todo(self) -> Mask:
        """Rows whose caption alone is to be embedded: a caption follows its clip."""
        outdated = self.has_clip & self.clips.failed & ~self.has_caption
        return (self._ready & ~self._caption_fits & ~self.captions_claimed.done) | outdated

    @cached_property
    def embed(self) -> Mask:
        """Rows whose clip is to be made and whose caption is to be embedded with it."""
        return self.clips.todo & ~self._caption_fits

    @cached_property
    def over_clips(self) -> dict[str, ToDo]:
        """What is to be done of each configured stage over clips."""
        return {stage.name: self._records_to_do(stage.name) for stage in over_clips(self.survey.stages)}

    @cached_property
    def clip_file(self) -> Hashes:
        """Key of the tar that holds each row's clip, 0: none, or none yet."""
        claim = self.claimed_values(CLIPS, self.clips.claimed, "file")
        kept = np.where(self.has_clip, self.old["clip_file"], 0)
        return np.where(self.clips.claimed.done, claim, kept).astype(np.uint64)

    @cached_property
    def clip_row(self) -> npt.NDArray[np.int32]:
        """Row of the clip in its tar."""
        claim = self.claimed_values(CLIPS, self.clips.claimed, "row")
        return np.where(self.clips.claimed.done, claim, self.old["clip_row"]).astype(np.int32)

    @cached_property
    def retried(self) -> Mask:
        """Unchanged rows that failed before and are tried again."""
        again = [self.clips.retried, *(to_do.retried for to_do in self.over_clips.values())]
        return np.asarray(self.same & np.logical_or.reduce(again), bool)

    def claimed_values(self, stage: str, claimed: BestClaims, column: str) -> npt.NDArray[Any]:
        """A column of the claims, by listed row; meaningless where nothing is claimed."""
        values = self.claims[stage].column(column).to_numpy()
        return values[claimed.claim] if len(values) else np.zeros(len(self.nums), values.dtype)

    def _records_to_do(self, stage: str) -> ToDo:
        clips = self.clips
        records, found = look_up(self.records[stage], self.nums)
        of_this_clip = found & ~clips.claimed.done
        held = of_this_clip & (records["status"] == Status.OK) & self.parent.is_current(stage, records["file"])
        has_clip = (self.has_clip | clips.claimed.done) & ~clips.todo
        on_record = of_this_clip & self.parent.same_options(stage)
        return self._to_do(stage, has_clip & ~held, self.clip_file, on_record, records["status"])

    def _to_do(self, stage: str, wanted: Mask, match: Hashes, on_record: Mask, status: npt.NDArray[np.uint8]) -> ToDo:
        """Splits the wanted rows of a stage into claimed, failed and to do; ``status`` holds of those ``on_record``."""
        attempts, due = self._tries(stage, on_record)
        stands = on_record & np.isin(status, (Status.FAILED, Status.RETRYABLE)) & ~due
        claimed = best_claims(self.claims[stage], self.nums, match, attempts)
        wanted = wanted & ~stands
        status, tried = (self.claimed_values(stage, claimed, column) for column in ("status", "attempt"))
        again = (status == Status.RETRYABLE) & (tried < MAX_ATTEMPTS)
        if self.claims[stage].num_rows:
            again |= self._find_asked(self.claims[stage].column("code"))[claimed.claim]
        again &= claimed.failed
        claimed = claimed._replace(done=claimed.done & wanted, failed=claimed.failed & wanted & ~again)
        todo = wanted & ~claimed.done & ~claimed.failed
        attempt = 1 + np.where(again, tried, attempts)
        failed = (stands & ~claimed.done) | claimed.failed
        return ToDo(todo, attempt.astype(np.int64), claimed, failed, retried=todo & (attempt > 1))

    def _find_asked(self, codes: pa.ChunkedArray) -> Mask:
        """Which failures of these codes are tried again because the configuration says so."""
        named = pc.is_in(codes, value_set=pa.array(self.config.retry_failures, pa.string())).to_numpy()
        return np.asarray(named | ("all" in self.config.retry_failures), bool)

    def _tries(self, stage: str, on_record: Mask) -> tuple[Nums, Mask]:
        """How often rows in ``on_record`` failed at a stage, as the snapshot says, and which are to be tried again."""
        attempts, due = np.zeros(len(self.nums), np.int64), np.zeros(len(self.nums), bool)
        table = self.failures.filter(pc.equal(self.failures.column("stage"), stage))
        if not len(self.nums) or not table.num_rows:
            return attempts, due
        rows, found = matches(self.nums, table.column("num").to_numpy())
        found &= on_record[rows]
        pairs = zip(table.column("attempts").to_pylist(), table.column("last_snapshot").to_pylist(), strict=True)
        is_due = np.array([pair in self.survey.due for pair in pairs], bool)
        is_due = (is_due & table.column("retryable").to_numpy()) | self._find_asked(table.column("code"))
        attempts[rows[found]] = table.column("attempts").to_numpy()[found]
        due[rows[found]] = is_due[found]
        return attempts, due
