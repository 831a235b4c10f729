"""Claims: rows that finished, unpublished shards already made, so that a new plan does only what is left.

A build that was killed or refused leaves receipts. Whatever of their rows a new plan still wants, it takes; a list that
grew by one row costs one row. Work that is damaged counts as not made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from noisebank.format.parts import kind_of
from noisebank.format.reading import read_records, read_table
from noisebank.format.receipts import Receipt, find_receipt, list_receipts
from noisebank.format.stage_names import CAPTIONS, CLIPS, SIDECARS, StageName
from noisebank.format.status import Status, failure_status
from noisebank.format.tables import matches
from noisebank.planning.listing import Hashes, Mask, Nums
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
        read = _over_clips if StageName.parse(name.stage).is_over_clips else _READERS[name.stage]
        rows = read(store, receipt)
        count = len(rows["num"])
        rows |= {"receipt": np.full(count, number), "stage": np.full(count, stages.index(name.stage))}
        tables.append(_claims_table(rows, count))
    return pa.concat_tables(tables)


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
    first = np.ones(len(order), bool)
    first[1:] = rows[order[1:]] != rows[order[:-1]]
    best = order[first]
    result = BestClaims(np.zeros(len(nums), bool), np.zeros(len(nums), bool), np.zeros(len(nums), np.int64))
    result.claim[rows[best]] = best
    result.done[rows[best]] = done[best]
    result.failed[rows[best]] = ~done[best]
    return result


def _claims_table(rows: Mapping[str, Any], count: int) -> pa.Table:
    """Columns as a table of :data:`CLAIMS`; those that are left out are 0 or null."""
    columns = {}
    for field in CLAIMS:
        if field.name in rows:
            columns[field.name] = pa.array(rows[field.name]).cast(field.type)
        elif pa.types.is_string(field.type):
            columns[field.name] = pa.nulls(count, field.type)
        else:
            columns[field.name] = pa.array(np.zeros(count, field.type.to_pandas_dtype()))
    return pa.table(columns, schema=CLAIMS)


def _clips(store: Store, receipt: Receipt) -> dict[str, Any]:
    sidecar = next(file for file in receipt.files if kind_of(file.path) == SIDECARS)
    columns = ("num", "video", "clip_row", "attempt", "code", "message", "retryable")
    table = read_table(store, sidecar.path, columns)
    row = table.column("clip_row").to_numpy()
    retryable = table.column("retryable").fill_null(False).to_numpy()
    return {
        "num": table.column("num").to_numpy(),
        "match": table.column("video").to_numpy(),
        "file": np.where(row >= 0, np.uint64(sidecar.key), np.uint64(0)),
        "row": row,
        "attempt": table.column("attempt").to_numpy(),
        "status": np.where(row >= 0, Status.OK, failure_status(retryable)),
        "code": table.column("code").combine_chunks(),
        "message": table.column("message").combine_chunks(),
    }


def _captions(store: Store, receipt: Receipt) -> dict[str, Any]:
    if not receipt.files:
        return {"num": np.zeros(0, np.int64)}
    table = read_table(store, receipt.files[0].path, ["num", "caption_hash"])
    return {
        "num": table.column("num").to_numpy(),
        "match": table.column("caption_hash").to_numpy(),
        "file": np.full(table.num_rows, receipt.files[0].key, np.uint64),
        "row": np.arange(table.num_rows),
    }


def _over_clips(store: Store, receipt: Receipt) -> dict[str, Any]:
    tar = FileEntry(receipt.info["tar"], 0, "", 0).key
    failures = receipt.failures
    nums, checksums, key = np.zeros(0, np.int64), np.zeros(0, np.uint64), 0
    if receipt.files:
        key = receipt.files[0].key
        table = read_records(store, receipt.files[0])
        nums, checksums = table.column("num").to_numpy(), table.column("checksum").to_numpy()
    good, bad = len(nums), len(failures)
    retryable = np.array([failure.retryable for failure in failures], bool)
    return {
        "num": np.concatenate([nums, np.array([failure.num for failure in failures], np.int64)]),
        "match": np.full(good + bad, tar, np.uint64),
        "file": np.repeat(np.array([key, 0], np.uint64), [good, bad]),
        "row": np.concatenate([np.arange(good), np.full(bad, -1)]),
        "checksum": np.concatenate([checksums, np.zeros(bad, np.uint64)]),
        "attempt": np.array([0] * good + [failure.attempts for failure in failures], np.int16),
        "status": np.concatenate([np.full(good, Status.OK), failure_status(retryable)]),
        "code": pa.array([None] * good + [failure.code for failure in failures], pa.string()),
        "message": pa.array([None] * good + [failure.message for failure in failures], pa.string()),
    }


_READERS: dict[str, Callable[[Store, Receipt], dict[str, Any]]] = {CLIPS: _clips, CAPTIONS: _captions}
