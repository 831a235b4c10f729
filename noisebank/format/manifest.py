"""Snapshots: the JSON documents that say which files a version of the bank is made of.

A snapshot is one sealed JSON file, ``snapshots/<number>.json``, created only if absent: creating it is the commit, and
a reader sees all of it or the one before. It names Parquet *manifest parts* (one row a data file) and the segments of
the overlay tables, so that it stays small however large the bank is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypedDict

from noisebank.decode import decode
from noisebank.errors import BankDamaged, BankNotFound, ConfigError, SnapshotExpired, UnsupportedFormat
from noisebank.format.sealed import seal, unseal
from noisebank.format.stage_names import flatten
from noisebank.storage import FileEntry, Store, open_store

FORMAT = 1
"""Version of the bank's layout; readers refuse later ones."""

FOLDER = "snapshots"
LATER = frozenset({"stages", "made_with"})
"""Members that older snapshots of this format do not have; each has a default."""
_NAME = re.compile(r"snapshots/([0-9]{8})\.json")


@dataclass(frozen=True)
class IndexSegment:
    """One FAISS index over part of the captions.

    Args:
        index: ``index/*.faiss``; ids are positions.
        entries: ``index/*.parquet``: which clip stands at each position.
        info: ``index/*.json``: how it was built.
        deleted: ``index/*.bits``: one bit a position, least significant first, set where the caption has been removed
            or replaced; None while there is none. Its ``rows`` is the number of bits set.
        kind: such as ``Flat`` or ``IVF256,Flat``.
        size: positions, deleted ones included.
        recall: smallest of recall@1 and recall@5 against exact search, over all segments of the snapshot that it came
            with.
    """

    index: FileEntry
    entries: FileEntry
    info: FileEntry
    deleted: FileEntry | None
    kind: str
    size: int
    recall: float

    @property
    def live(self) -> int:
        """Positions that can still be found."""
        return self.size - (self.deleted.rows if self.deleted else 0)

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The files it is made of."""
        return tuple(file for file in (self.index, self.entries, self.info, self.deleted) if file)


class _Noise(TypedDict, total=False):
    """What readers need to know of a noise set: the options it was made with, and its model (``describe``)."""

    model: str
    revision: str
    inverter: str
    dtype: Literal["float16", "int8"]
    shape: list[int]
    num_inference_steps: int
    family: str
    pipeline: str
    layout: Literal["BCFHW", "BFCHW", "BCHW", "BSD"]
    spatial_ratio: int
    temporal_ratio: int
    call: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    levels: Mapping[str, Any]
    vae: Mapping[str, Any]
    weights: Mapping[str, Any]
    text_encoder: Mapping[str, Any]


class _Captions(TypedDict, total=False):
    model: str
    revision: str
    digest: str
    dim: int


class _Models(TypedDict, total=False):
    captions: _Captions
    noise: Mapping[str, _Noise]


class _Fingerprints(TypedDict, total=False):
    clips: str
    captions: str
    noise: Mapping[str, str]


@dataclass(frozen=True)
class Snapshot:
    """One version of a bank.

    Args:
        number: from 1, without gaps, never used again.
        uuid: tells two commits of the same number apart.
        parent: number of the snapshot it was built on; None for the first.
        operation: ``build``, ``compact``, ``repair`` or ``vacuum``.
        created: UTC, ISO 8601.
        run_id: of the job that committed it; a commit step that is repeated finds its snapshot by it.
        plan: hash of the plan that it carried out, or empty.
        fingerprints: ``{"clips": ..., "captions": ..., "noise": {set: ...}}``.
        models: ``{"captions": {...}, "noise": {set: {...}}}``: what readers must know of the models.
        made_with: by stage name, what its output depends on (:func:`noisebank.planning.redone.made_with`); empty in
            snapshots of older versions.
        counts: rows of the build, as its summary gives them.
        stages: of the build, as its summary gives them: rows ``done``, ``skipped`` and ``failed``, ``seconds`` of work.
        sources: rows known of each source, removed ones excluded.
        noise_sets: the noise sets of the configuration.
        in_bank: rows with a clip, a caption and a record in each of ``noise_sets``.
        records: overlay segments of each stage over clips, oldest first, by its key
            (:attr:`.stage_names.StageName.records`: a noise set's name); see :mod:`noisebank.format.tables`.
        record_counts: clips with a record, by the same key.
        failure_counts: failures by code.
        data_bytes: of all data files (clips, sidecars, captions, noise).
        parts: manifest parts by kind; see :mod:`noisebank.format.parts`.
        rows: overlay segments of what is known of every row.
        failures: overlay segments, by (num, stage); an empty code is a healed failure.
        index: segments, oldest first.
        touched: the numbers that this commit changed, or None.
        vacuum: number of the last vacuum up to here; 0: none.
        expired: what each vacuum so far deleted, one list a vacuum, oldest first.
        format: version of the layout.
    """

    number: int
    uuid: str
    parent: int | None
    operation: str
    created: str
    run_id: str
    plan: str = ""
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)
    noise_sets: tuple[str, ...] = ()
    in_bank: int = 0
    record_counts: Mapping[str, int] = field(default_factory=dict)
    failure_counts: Mapping[str, int] = field(default_factory=dict)
    data_bytes: int = 0
    parts: Mapping[str, tuple[FileEntry, ...]] = field(default_factory=dict)
    rows: tuple[FileEntry, ...] = ()
    records: Mapping[str, tuple[FileEntry, ...]] = field(default_factory=dict)
    failures: tuple[FileEntry, ...] = ()
    index: tuple[IndexSegment, ...] = ()
    touched: FileEntry | None = None
    vacuum: int = 0
    expired: tuple[FileEntry, ...] = ()
    made_with: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def path(self) -> str:
        """Where it is stored."""
        return snapshot_path(self.number)

    @property
    def stage_fingerprints(self) -> dict[str, str]:
        """Fingerprints by stage name."""
        return flatten(self.fingerprints)

    @property
    def own_files(self) -> tuple[FileEntry, ...]:
        """Every file that the JSON names; the data files are named by the manifest parts among them."""
        groups = [*self.parts.values(), self.rows, *self.records.values(), self.failures, self.expired]
        groups += [segment.files for segment in self.index]
        return tuple(chain(*groups, [self.touched] if self.touched else []))

    @property
    def total_bytes(self) -> int:
        """Size of every file, data files and :attr:`own_files`."""
        return self.data_bytes + sum(file.bytes for file in self.own_files)

    def to_bytes(self) -> bytes:
        """As a sealed JSON document."""
        return seal(asdict(self))


EMPTY = Snapshot(0, "", None, "", "", "")
"""What a bank is before its first commit; never stored."""

_DEFAULTS: dict[str, Any] = {name: value for name, value in asdict(EMPTY).items() if name in LATER}


def open_apart(uri: str | Path, what: str) -> Store:
    """The store of a folder that is no bank.

    Args:
        uri: its address.
        what: is kept there.

    Raises:
        ConfigError: it can be no store, or a bank is there.
    """
    store = open_store(uri)
    if next(store.scan(FOLDER), None):
        raise ConfigError(f"{store.url}: a bank is there; {what} are kept in a folder of their own")
    return store


def snapshot_path(number: int) -> str:
    """Where snapshot ``number`` is stored.

    >>> snapshot_path(3)
    'snapshots/00000003.json'
    """
    return f"{FOLDER}/{number:08}.json"


def snapshot_number(path: str) -> int:
    """The number of the snapshot stored at ``path``.

    >>> snapshot_number("snapshots/00000003.json")
    3
    """
    return int(path.removeprefix(f"{FOLDER}/").removesuffix(".json"))


def snapshot_numbers(store: Store, after: int = 0) -> list[int]:
    """The numbers of all snapshots later than ``after``, expired ones included, ascending."""
    names = [_NAME.fullmatch(path) for path in store.list(FOLDER, after=snapshot_path(after))]
    return [int(name[1]) for name in names if name]


def latest_snapshot(store: Store) -> Snapshot | None:
    """The newest snapshot, or None where nothing has been committed yet; errors as :func:`read_snapshot`."""
    numbers = snapshot_numbers(store)
    return read_snapshot(store, numbers[-1]) if numbers else None


def read_snapshot(store: Store, number: int | None = None) -> Snapshot:
    """One snapshot of a bank, by default the newest.

    Raises:
        BankNotFound: nothing has been committed here, or not this number.
        SnapshotExpired: it was vacuumed.
        UnsupportedFormat: a newer version of noisebank wrote it.
        BankDamaged: it differs from its digest, or does not fit together.
    """
    if number is None:
        if (latest := latest_snapshot(store)) is None:
            raise BankNotFound(f"{store.url}: no bank here, or nothing committed yet; make one with 'noisebank build'")
        return latest
    path = snapshot_path(number)
    try:
        document = unseal(store.read(path), path)
    except FileNotFoundError as error:
        known = snapshot_numbers(store)
        latest_known = f"the latest is {known[-1]}" if known else "there is none"
        raise BankNotFound(f"{store.url}: no snapshot {number}; {latest_known}") from error
    if "expired_by" in document:
        raise SnapshotExpired(
            f"{store.url}: snapshot {number} was removed by vacuum (snapshot {document['expired_by']}); "
            "open a later one"
        )
    if isinstance(format := document.get("format"), int) and format > FORMAT:
        raise UnsupportedFormat(
            f"{path}: format {format}, this version reads up to {FORMAT}; install a newer noisebank"
        )
    snapshot: Snapshot = decode(_DEFAULTS | document, Snapshot, f"{path}: snapshot")
    if snapshot.number != number:
        raise BankDamaged(f"{path}: says that it is snapshot {snapshot.number}; files were swapped")
    models = decode(snapshot.models, _Models, f"{path}: snapshot.models")
    fingerprints = decode(snapshot.fingerprints, _Fingerprints, f"{path}: snapshot.fingerprints")
    return replace(snapshot, models=models, fingerprints=fingerprints)


def expired_stub(snapshot: Snapshot | None, by: int) -> bytes:
    """What stands in the place of a vacuumed snapshot (None: it was damaged), so that its number is not used again."""
    names = ("format", "number", "uuid", "run_id", "created") if snapshot else ()
    return seal({**{name: getattr(snapshot, name) for name in names}, "expired_by": by})
