"""Claims: rows that finished, unpublished shards already made, so that a new plan does only what is left.

A build that was killed or refused leaves receipts. Whatever of their rows a new plan still wants, it takes; a list that
grew by one row costs one row. Work that is damaged counts as not made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from noisebank.format.parts import kind_of
from noisebank.format.reading import BUILD_AGAIN, read_records, read_table
from noisebank.format.receipts import Receipt, find_receipt, list_receipts
from noisebank.format.stage_names import CAPTIONS, CLIPS, SIDECARS
from noisebank.format.status import Status, failure_status
from noisebank.format.tables import matches
from noisebank.ids import Hashes, Mask, Nums
from noisebank.planning.parent import Parent
from noisebank.storage import FileEntry, Store

CLAIMS = pa.schema(
    [
        ("num", pa.int64()),
        ("receipt", pa.int32()),  # number of the receipt in the survey
        ("stage", pa.int16()),  # number of the stage in the survey
        ("match", pa.uint64()),  # what it was made from: hash of the video or of the caption, or key of the tar
        ("file", pa.uint64()),  # key of the data file; 0: failed
        ("row", pa.int32()),
        ("checksum", pa.uint64()),  # of a noise record
        ("attempt", pa.int16()),
        ("status", pa.uint8()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)


class ReceiptName(NamedTuple):
    """Which receipt."""

    stage: str
    inputs: str


class BestClaims(NamedTuple):
    """The best claim on each row of a partition; every array has one entry a row, zeros where there is none."""

    done: Mask
    """Whether the work on it is finished."""
    failed: Mask
    """Whether it failed, and no other claim did better."""
    claim: Nums
    """Place in the claims, where done or failed."""


def unpublished_receipts(store: Store, parent: Parent, stages: Sequence[str]) -> list[ReceiptName]:
    """The receipts of finished shards that the parent does not have, sorted by stage."""
    names = []
    for stage in stages:
        published = parent.finished(SIDECARS if stage == CLIPS else stage)
        names += [ReceiptName(stage, inputs) for inputs in list_receipts(store, stage) if inputs not in published]
    return names


def read_claims(
    store: Store, names: Sequence[tuple[int, ReceiptName]], stages: Sequence[str], fingerprints: Mapping[str, str]
) -> pa.Table:
    """The rows of receipts whose fingerprint is the present one and whose files are whole.

    Args:
        store: the bank.
        names: receipts with their numbers.
        stages: of the configuration, in the order by which they are numbered.
        fingerprints: of the stages.
    """
    tables = [CLAIMS.empty_table()]
    for number, name in names:
        receipt = find_receipt(store, name.stage, name.inputs, verify=True)
        if receipt is None or receipt.fingerprint != fingerprints[name.stage]:
            continue
        tables += read_shard_rows(store, receipt, receipt=number, stage=stages.index(name.stage))
    return pa.concat_tables(tables)


def read_shard_rows(store: Store, receipt: Receipt, /, **known: int) -> Iterator[pa.Table]:
    """The rows of a finished shard and what became of them, as tables of :data:`CLAIMS`.

    Args:
        store: the bank.
        receipt: of the shard.
        known: what the columns ``receipt`` and ``stage`` have; 0 by default.
    """
    read = {CLIPS: _clips, CAPTIONS: _captions}.get(receipt.stage, _over_clips)
    return (_claims_table(known | rows) for rows in read(store, receipt))


def best_claims(claims: pa.Table, nums: Nums, match: Hashes, minimum: Nums) -> BestClaims:
    """For each row the claim to take: one that succeeded, else the failure after most attempts.

    Args:
        claims: of one stage.
        nums: sorted numbers of the rows.
        match: what each row is to be made from.
        minimum: attempts already on record; failures of no more than these are old news.
    """
    rows, found = matches(nums, claims.column("num").to_numpy())
    status, attempt = claims.column("status").to_numpy(), claims.column("attempt").to_numpy().astype(np.int64)
    done = status == Status.OK
    if len(nums):
        found = found & (claims.column("match").to_numpy() == match[rows]) & (done | (attempt > minimum[rows]))
    places = np.flatnonzero(found)
    files = claims.column("file").to_numpy()
    order = places[np.lexsort((files[places], -attempt[places], ~done[places], rows[places]))]
    best = order[np.unique(rows[order], return_index=True)[1]]
    result = BestClaims(np.zeros(len(nums), bool), np.zeros(len(nums), bool), np.zeros(len(nums), np.int64))
    result.claim[rows[best]] = best
    result.done[rows[best]] = done[best]
    result.failed[rows[best]] = ~done[best]
    return result


def _claims_table(rows: Mapping[str, Any]) -> pa.Table:
    """Columns, or one value for all rows, as a table of :data:`CLAIMS`; those that are left out are 0 or null."""
    count, columns = len(rows["num"]), []
    for field in CLAIMS:
        values = rows.get(field.name, None if pa.types.is_string(field.type) else 0)
        single = values is None or isinstance(values, int)
        columns.append(pa.repeat(pa.scalar(values, field.type), count) if single else pa.array(values).cast(field.type))
    return pa.table(columns, schema=CLAIMS)


def _clips(store: Store, receipt: Receipt) -> Iterator[dict[str, Any]]:
    sidecar = next(file for file in receipt.files if kind_of(file.path) == SIDECARS)
    columns = ("num", "video", "clip_row", "attempt", "code", "message", "retryable")
    table = read_table(store, sidecar.path, columns, remedy=BUILD_AGAIN)
    row = table.column("clip_row").to_numpy()
    retryable = table.column("retryable").fill_null(False).to_numpy()
    same = {name: table.column(name).combine_chunks() for name in ("num", "attempt", "code", "message")}
    yield same | {
        "match": table.column("video").to_numpy(),
        "file": np.where(row >= 0, np.uint64(sidecar.key), np.uint64(0)),
        "row": row,
        "status": np.where(row >= 0, Status.OK, failure_status(retryable)),
    }


def _captions(store: Store, receipt: Receipt) -> Iterator[dict[str, Any]]:
    for file in receipt.files:
        table = read_table(store, file.path, ["num", "caption_hash"], remedy=BUILD_AGAIN)
        nums, hashes = (table.column(name).to_numpy() for name in ("num", "caption_hash"))
        nums, first = np.unique(nums, return_index=True)  # (of the captions of a clip the first)
        yield {"num": nums, "match": hashes[first], "file": file.key, "row": first}


def _over_clips(store: Store, receipt: Receipt) -> Iterator[dict[str, Any]]:
    tar = FileEntry(receipt.info["tar"], 0, "", 0).key
    for file in receipt.files:
        table = read_records(store, file)
        nums, checksums = (table.column(name).to_numpy() for name in ("num", "checksum"))
        yield {"num": nums, "match": tar, "file": file.key, "row": np.arange(len(nums)), "checksum": checksums}
    failures = receipt.failures
    yield {
        "num": [failure.num for failure in failures],
        "match": tar,
        "row": -1,
        "attempt": [failure.attempts for failure in failures],
        "status": failure_status(np.array([failure.retryable for failure in failures], bool)),
        "code": [failure.code for failure in failures],
        "message": [failure.message for failure in failures],
    }
