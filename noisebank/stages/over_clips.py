"""Stages over clips: of every clip of a tar one record, all of a tar's in one file. Noise is one of them.

A user's own is a subclass, registered for a kind that the configuration's ``stages`` may then name::

    @dataclass(frozen=True)
    class SharpnessOptions(StageOptions):
        blur: int = option(3, "pixels of the blur to compare with")

    @register_stage("sharpness", SharpnessOptions)
    class Sharpness(StageOverClips):
        def write(self, path, samples, clips, plan, model):
            pairs = zip(samples, clips.select(KEYS).to_pylist(), strict=True)
            rows = [clip | {"sharpness": self.measure(decode_mp4(sample.mp4))} for sample, clip in pairs]
            pq.write_table(pa.Table.from_pylist(rows), path)
            return Written(rows=len(rows))

docs/modules.md has a whole one, with clips that fail.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import BankDamaged, ConfigError, JobFailed
from noisebank.format.layout import is_free
from noisebank.format.manifest import Snapshot
from noisebank.format.parts import kind_of
from noisebank.format.reading import PARQUET, read_table, reading
from noisebank.format.receipts import Failure, inputs_hash
from noisebank.format.shards import ShardSample, read_shard
from noisebank.format.stage_names import CLIPS, StageName
from noisebank.options import Config, fingerprint, register_options
from noisebank.planning.cut import records_a_file
from noisebank.planning.plan import Plan, read_task
from noisebank.stages.clips import sidecar_of
from noisebank.stages.job import Made, ShardJob
from noisebank.stages.stage import Identity, LazyModel, ShardWork, Stage
from noisebank.storage import BankWriter, Store, open_store

KEYS = ("num", "id", "sha256")
"""Columns that every file of records has; the clips given to a stage have them too."""

STAGES: dict[str, type[StageOverClips]] = {}
"""Stages over clips by their kind, beside noise."""


def register_stage(kind: str, options: type[Any]) -> Callable[[type[StageOverClips]], type[StageOverClips]]:
    """Class decorator that makes a stage over clips selectable as ``stages: [{kind: <kind>, name: ...}]``.

    Args:
        kind: its name, letters, digits and ``_``.
        options: dataclass that extends :class:`noisebank.options.StageOptions` with the stage's own options.

    Raises:
        ConfigError: it is no such name, or the bank has a folder of this name for something else; or the stage's files
            are not Parquet.
    """
    if not is_free(kind):
        raise ConfigError(
            f"stage kind {kind!r} is not allowed: letters, digits and _ are, and no name of a folder of banks"
        )

    def register(cls: type[StageOverClips]) -> type[StageOverClips]:
        if cls.suffix != PARQUET:
            raise ConfigError(f"stage kind {kind}: its files end in {cls.suffix!r}; {PARQUET} is wanted")
        cls.kind = kind
        STAGES[kind] = cls
        register_options("stages", kind, options, cls.__module__)
        return cls

    return register


@dataclass(frozen=True)
class Written:
    """What :meth:`StageOverClips.write` wrote.

    Args:
        rows: records in the file, each with the :data:`KEYS` of its clip; if there are none, it is not kept.
        failures: of the other clips (:func:`noisebank.stages.job.failure_of`).
        info: for the receipt, plain JSON; its ``description`` goes into the snapshot's ``models`` beside what
            :meth:`StageOverClips.identify` said of the model.
        note: what else the log is to say of the shard.
    """

    rows: int
    failures: Sequence[Failure] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class StageOverClips(Stage):
    """A stage that makes one record of every clip."""

    kind: ClassVar[str]
    suffix: ClassVar[str] = PARQUET
    """Of its files, which have the :data:`KEYS` and, for records with one, ``checksum``; ``.arrow`` is noise's."""

    @property
    def name(self) -> StageName:
        return StageName(self.kind, self.options.name)

    def identify(self, config: Config, latest: Snapshot | None) -> Identity:
        return Identity(fingerprint(self.options))

    @abstractmethod
    def write(
        self,
        path: Path,
        samples: Iterator[ShardSample],
        clips: pa.Table,
        plan: Mapping[str, Any],
        model: Callable[[], Any],
    ) -> Written:
        """Writes the records of clips of one tar: of all, or of as many as one file takes (:meth:`split`).

        Args:
            path: file to write, with the rows of the records in the order of the clips.
            samples: the clips, in their order; taken one at a time.
            clips: what is known of them, in the same order: num, id, source, uri, clip_row, sha256, attempt.
            plan: what :meth:`identify` said of the model.
            model: gives the loaded model (:meth:`load_model`).
        """

    def split(self, plan: Plan, work: ShardWork) -> list[ShardWork]:
        """One for every file of the records of new clips: how many clips a file is made of follows from the ``shape``
        of a record, if :meth:`identify` gave one (:func:`noisebank.planning.cut.records_a_file`). Tasks over existing
        clips have been cut by the plan."""
        if work.clips is None:
            return [work]
        size = records_a_file(plan.models.get(self.name.name, {}))
        return [dataclasses.replace(work, file=file) for file in range(-(-work.clips.rows // size))]

    def job(self, store: Store, plan: Plan, work: ShardWork, model: LazyModel) -> ShardJob | None:
        if work.clips is not None and not work.clips.rows:
            return None
        stage = self.name.name
        planned = plan.models.get(stage, {})
        tar, clips = _read_wanted_clips(store, work, records_a_file(planned))
        return self.shard(tar, clips, plan.fingerprints[stage], planned, lambda: self.get_model(model, plan))

    def shard(
        self, tar: str, clips: pa.Table, fingerprint: str, planned: Mapping[str, Any], model: Callable[[], Any]
    ) -> ShardJob:
        """The job of one data file, or none if every clip failed.

        Args:
            tar: path of the tar in the bank.
            clips: which of its clips, and each one's attempt (:func:`clips_of_tar`).
            fingerprint: of the stage.
            planned: what the plan says of its model.
            model: gives the loaded model.

        Raises:
            BankDamaged: (when it is made) the tar lacks a clip.
            JobFailed: (when it is made) the stage does not account for every clip, or its file cannot be kept.
        """
        stage = self.name.name

        def make(writer: BankWriter) -> Made:
            with tempfile.TemporaryDirectory(prefix=f"noisebank-{self.kind}-") as scratch:
                path = Path(scratch, f"records{self.suffix}")
                samples = _read_samples(_local(writer.store, tar, Path(scratch)), tar, clips)
                written = self.write(path, samples, clips, planned, model)
                if problem := _find_problem(stage, written, path, clips, planned):
                    raise JobFailed(f"stage {stage}, {tar}: {problem}")
                files = (writer.file(path, stage, self.suffix, written.rows),) if written.rows else ()
            return Made(files, written.rows, tuple(written.failures), {**written.info, "tar": tar}, written.note)

        return ShardJob(stage, fingerprint, record_inputs(fingerprint, clips), len(clips), make)


def _find_problem(stage: str, written: Any, path: Path, clips: pa.Table, planned: Mapping[str, Any]) -> str | None:
    """What is wrong with what a stage, perhaps of a user's own, wrote and said; None if it can be kept."""
    if not isinstance(written, Written) or not all(isinstance(failure, Failure) for failure in written.failures):
        return f"write gave {written!r:.200}; a Written is wanted, with failures of failure_of(...)"
    failed = pa.array([failure.num for failure in written.failures], pa.int64())
    good = clips.filter(pc.invert(pc.is_in(clips.column("num"), failed)))
    if not len(good) == written.rows == len(clips) - len(failed):
        counts = f"{written.rows} records and {len(failed)} failures of {len(clips)} clips"
        return f"{counts}; each clip needs one record or one failure"
    if others := {failure.stage for failure in written.failures} - {stage}:
        return f"failures under another stage's name: {', '.join(sorted(others))}"
    try:
        if json.loads(json.dumps(written.info)) != written.info:
            return "info has keys or values that JSON gives back as others (tuples, numbers as keys, NaN)"
    except (TypeError, ValueError) as error:
        return f"info is no plain JSON: {error}"
    if not isinstance(description := written.info.get("description", {}), dict) or (description and not planned):
        return "info has a description, which is a mapping and only for stages whose identify says what their model is"
    try:
        stored = read_table(open_store(path.parent), path.name, KEYS, remedy="write one") if written.rows else good
    except (BankDamaged, KeyError) as error:
        return f"its file needs the columns {', '.join(KEYS)}: {error}"
    if stored.select(KEYS).to_pylist() != good.select(KEYS).to_pylist():
        return f"{', '.join(KEYS)} of the records are not those of the clips without a failure, in their order"
    return None


def _read_samples(path: Path, tar: str, clips: pa.Table) -> Iterator[ShardSample]:
    """The wanted clips of a tar that is at ``path`` here, in its order."""
    wanted = set(clips.column("id").to_pylist())
    found = 0
    for sample in read_shard(path, wanted):
        found += 1
        yield sample
    if found != len(wanted):
        raise BankDamaged(f"{tar}: {found} of {len(wanted)} clips are in it; run noisebank verify")


def clips_of_tar(store: Store, tar: str, nums: pa.ChunkedArray | None = None) -> pa.Table:
    """The good clips of a tar from its sidecar, in its order: all, or those of ``nums``; their ``attempt`` is 1."""
    table = read_table(store, sidecar_of(tar), ["num", "id", "source", "uri", "clip_row", "sha256"])
    table = table.filter(pc.field("clip_row") >= 0).sort_by("clip_row")
    if nums is not None:
        table = table.filter(pc.is_in(table.column("num"), nums.combine_chunks()))
    return table.append_column("attempt", pa.array(np.ones(table.num_rows, np.int16)))


def record_inputs(fingerprint: str, clips: pa.Table) -> str:
    """The inputs hash of a file of records: ids and the sha256 of each mp4 (and the try, where it is not the first)."""
    again = [clips.column("attempt")] if pc.any(pc.greater(clips.column("attempt"), 1)).as_py() else []
    return inputs_hash(fingerprint, clips.column("id"), clips.column("sha256"), *again)


def _read_wanted_clips(store: Store, work: ShardWork, size: int) -> tuple[str, pa.Table]:
    """The tar of a piece of work, and which of its clips are wanted, of new ones at most ``size``, with the number of
    the try."""
    if work.clips is not None:
        tar = next(entry.path for entry in work.clips.files if kind_of(entry.path) == CLIPS)
        return tar, clips_of_tar(store, tar).slice(work.file * size, size)
    wanted = read_task(store, work.task)
    clips = clips_of_tar(store, work.task.tar, wanted.column("num"))
    if clips.num_rows != wanted.num_rows:
        found = f"{wanted.num_rows} clips are wanted, it has {clips.num_rows} of them"
        raise BankDamaged(f"{sidecar_of(work.task.tar)}: {found}; run noisebank verify")
    attempts = wanted.sort_by("num").column("attempt")
    clips = clips.sort_by("num").set_column(clips.schema.get_field_index("attempt"), "attempt", attempts)
    return work.task.tar, clips.sort_by("clip_row")


def _local(store: Store, tar: str, scratch: Path) -> Path:
    """The tar as a local file: itself, or a copy."""
    if (path := store.local_path(tar)) is not None:
        return path
    copy = scratch / "clips.tar"
    with reading(tar), store.open(tar) as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return copy
