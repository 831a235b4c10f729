"""Receipts: the proof that a shard of a stage is finished, and what came of it.

A stage writes its data file, then creates ``<stage>/<inputs>.json`` only if it is absent, where ``inputs`` is the hash
of everything that the stage read. Whoever comes later, a repeated bundle or a rerun after a kill, finds the receipt and
skips the shard; of two attempts at once the first receipt wins, and the other's file is left for vacuum.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, TypedDict

import pyarrow as pa

from noisebank.decode import decode
from noisebank.errors import BankDamaged
from noisebank.format.manifest import IndexSegment
from noisebank.format.reading import BUILD_AGAIN, PARQUET, reading
from noisebank.format.schemas import FAILURES
from noisebank.format.sealed import seal, unseal
from noisebank.format.stage_names import CLIPS, INDEX, StageName
from noisebank.storage import FileEntry, Store
from noisebank.storage.files import is_intact, is_present

_log = logging.getLogger(__name__)
_READERS = 16


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row is not in the bank, at which stage: a row of ``failures/*.parquet`` but for the snapshot numbers."""

    num: int
    id: str
    source: str
    uri: str
    stage: str
    code: str
    message: str
    retryable: bool
    attempts: int


@dataclass(frozen=True)
class Receipt:
    """A finished shard.

    Args:
        stage: ``clips``, ``captions``, ``noise/<set>`` or ``index``.
        inputs: :func:`inputs_hash` of what the stage read.
        fingerprint: of the stage's options (:func:`noisebank.options.fingerprint`).
        files: the data files written, none where every row failed.
        rows: good rows.
        failures: all rows that failed.
        info: what else the next stages or the manifest need, in plain JSON; for noise files ``data_offset`` and
            ``stride`` (bytes), and ``scale_offset`` and ``scale_stride`` where records are scaled.
    """

    stage: str
    inputs: str
    fingerprint: str
    files: tuple[FileEntry, ...]
    rows: int
    failures: tuple[Failure, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where it is stored."""
        return receipt_path(self.stage, self.inputs)

    def to_bytes(self) -> bytes:
        """As a sealed JSON document."""
        return seal(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Receipt:
        """From the document ``data``; BankDamaged names the file ``name`` if it is damaged, another shard's, or lacks
        what a receipt of its stage has."""
        receipt: Receipt = decode(unseal(data, name), cls, name)
        if receipt.path != name:
            raise BankDamaged(f"{name}: says that it is {receipt.path}; files were swapped")
        with reading(name):
            failures_table(receipt.failures)
        if StageName.parse(receipt.stage).is_over_clips:
            tar = decode(receipt.info, _RecordsInfo, f"{name}: info")["tar"]
            decode({"path": tar, "bytes": 0, "sha256": "", "rows": 0}, FileEntry, f"{name}: info.tar")
        elif receipt.stage == INDEX:
            segment_of(receipt)
        elif receipt.stage == CLIPS and not any(file.path.endswith(PARQUET) for file in receipt.files[-1:]):
            raise BankDamaged(f"{name}: names no sidecar; {BUILD_AGAIN}")
        return receipt


class _RecordsInfo(TypedDict, total=False):
    tar: str
    description: Mapping[str, Any]
    data_offset: int
    stride: int
    scale_offset: int
    scale_stride: int


class _IndexInfo(TypedDict, total=False):
    segment: IndexSegment
    replaces: list[str]


def failures_table(failures: Sequence[Failure]) -> pa.Table:
    """Failures as rows of :data:`noisebank.format.schemas.FAILURES`, 0 for the snapshots that recorded them."""
    columns = {name: [getattr(failure, name) for failure in failures] for name in Failure.__slots__}
    zeros = [0] * len(failures)
    return pa.table({**columns, "first_snapshot": zeros, "last_snapshot": zeros}, FAILURES)


def receipt_path(stage: str, inputs: str) -> str:
    """Where the receipt of a shard is stored."""
    return f"{stage}/{inputs}.json"


def inputs_hash(fingerprint: str, *columns: pa.Array | pa.ChunkedArray) -> str:
    """Hash of what a stage reads: its fingerprint and the values of columns, however they are chunked.

    >>> inputs_hash("f", pa.array(["a", "b"])) == inputs_hash("f", pa.chunked_array([["a"], ["b"]]))
    True

    Returns:
        32 hexadecimal digits.
    """
    content = [fingerprint, *([str(column.type), column.to_pylist()] for column in columns)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def find_receipt(store: Store, stage: str, inputs: str, *, verify: bool = False) -> Receipt | None:
    """The receipt of a finished shard; None if the shard is still to do.

    A receipt that is damaged, or whose files are gone (vacuumed) or have another size, counts for nothing: whoever
    makes its shard again takes its place (:func:`finish`).

    Args:
        store: the bank.
        stage: name of the stage.
        inputs: hash of what the shard was made of.
        verify: read the files and compare their content too: for work that no snapshot has yet.
    """
    path = receipt_path(stage, inputs)
    try:
        return _trust(store, path, store.read(path), verify)
    except FileNotFoundError:
        return None


def _trust(store: Store, path: str, data: bytes, verify: bool) -> Receipt | None:
    """The receipt in ``data``; None if it counts for nothing."""
    try:
        receipt = Receipt.from_bytes(data, path)
    except BankDamaged as error:
        _log.warning("%s; its shard counts as not made", error)
        return None
    is_sound = is_intact if verify else is_present
    if lost := next((entry.path for entry in receipt.files if not is_sound(store, entry)), None):
        _log.warning("%s: %s is gone or damaged; its shard counts as not made", path, lost)
        return None
    return receipt


def find_receipts(store: Store, names: Iterable[tuple[str, str]], *, verify: bool = False) -> Iterator[Receipt]:
    """The receipts of many finished shards, ``(stage, inputs)`` each, in order; some are read ahead.

    ``verify``: their files are read and compared (:func:`find_receipt`).
    What one says in its ``info`` as the one before of its stage does (a model's description) is in memory once.

    Raises:
        BankDamaged: one of them, or a file that it names, has disappeared or (``verify``) is damaged.
    """
    said: dict[str, dict[str, Any]] = {}
    names = iter(names)
    find = partial(find_receipt, store, verify=verify)

    with ThreadPoolExecutor(_READERS) as pool:
        while ahead := list(islice(names, 4 * _READERS)):
            for name, receipt in zip(ahead, pool.map(find, *zip(*ahead, strict=True)), strict=True):
                if receipt is None:
                    raise BankDamaged(
                        f"{receipt_path(*name)}: a finished shard has disappeared or is damaged; run the build again"
                    )
                before = said.get(receipt.stage, {})
                info = {
                    key: before[key] if key in before and before[key] == value else value
                    for key, value in receipt.info.items()
                }
                said[receipt.stage] = info
                yield replace(receipt, info=info)


def read_receipt(store: Store, path: str) -> Receipt | None:
    """The receipt at ``path``; None if it is gone, damaged or something else (``index/*.json`` may be either)."""
    try:
        return Receipt.from_bytes(store.read(path), path)
    except (BankDamaged, FileNotFoundError):
        return None


def finish(store: Store, receipt: Receipt) -> Receipt:
    """Records ``receipt``, whose files are stored; returns the one that holds: this, or an earlier attempt's.

    One that counts for nothing is replaced, by one attempt only.
    """
    data = receipt.to_bytes()
    while not store.create(receipt.path, data):
        with suppress(FileNotFoundError):  # (removed meanwhile)
            held = store.read(receipt.path)
            if (winner := _trust(store, receipt.path, held, verify=True)) is not None:
                return winner
            if store.replace(receipt.path, held, data):
                break
    return receipt


def segment_of(receipt: Receipt) -> tuple[IndexSegment, frozenset[str]]:
    """The segment that an index receipt describes, and the paths of the index files that it replaces."""
    info = decode(receipt.info, _IndexInfo, f"{receipt.path}: info")
    return info["segment"], frozenset(info["replaces"])


def list_receipts(store: Store, stage: str) -> list[str]:
    """The ``inputs`` of every finished shard of a stage, published or not, sorted; read them by find_receipt."""
    names = (path.removeprefix(f"{stage}/") for path in store.list(stage))
    return [name.removesuffix(".json") for name in names if name.endswith(".json") and "/" not in name]
