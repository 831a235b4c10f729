"""Stages over clips: of every clip of a tar one record, all of a tar's in one file. Noise is one of them.

A user's own is a subclass, registered for a kind that the configuration's ``stages`` may then name::

    @dataclass(frozen=True)
    class SharpnessOptions(StageOptions):
        blur: int = option(3, "pixels of the blur to compare with")

    @register_stage("sharpness", SharpnessOptions)
    class Sharpness(StageOverClips):
        def write(self, path, samples, clips, plan, model):
            rows = [{"num": ..., "id": sample.id, "sharpness": ...} for sample in samples]
            pq.write_table(pa.Table.from_pylist(rows), path)
            return Written(rows=len(rows))
"""

from __future__ import annotations

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
from noisebank.format.reading import read_table
from noisebank.format.receipts import Failure, inputs_hash
from noisebank.format.shards import ShardSample, read_shard
from noisebank.format.stage_names import CLIPS, StageName
from noisebank.options import Config, fingerprint, register_options
from noisebank.planning.plan import Plan, read_task
from noisebank.stages.clips import sidecar_of
from noisebank.stages.job import Made
from noisebank.stages.stage import Identity, LazyModel, ShardWork, Stage
from noisebank.storage import BankWriter, Store

STAGES: dict[str, type[StageOverClips]] = {}
"""Stages over clips by their kind, beside noise."""


def register_stage(kind: str, options: type[Any]) -> Callable[[type[StageOverClips]], type[StageOverClips]]:
    """Class decorator that makes a stage over clips selectable as ``stages: [{kind: <kind>, name: ...}]``.

    Args:
        kind: its name, letters, digits and ``_``.
        options: dataclass that extends :class:`noisebank.options.StageOptions` with the stage's own options.

    Raises:
        ConfigError: it is no such name, or the bank has a folder of this name for something else.
    """
    if not is_free(kind):
        raise ConfigError(
            f"stage kind {kind!r} is not allowed: letters, digits and _ are, and no name of a folder of banks"
        )

    def register(cls: type[StageOverClips]) -> type[StageOverClips]:
        cls.kind = kind
        STAGES[kind] = cls
        register_options("stages", kind, options, cls.__module__)
        return cls

    return register


@dataclass(frozen=True)
class Written:
    """What :meth:`StageOverClips.write` wrote.

    Args:
        rows: records in the file; if there are none, it is not kept.
        failures: of the other clips (:func:`noisebank.stages.job.failure_of`).
        info: for the receipt, plain JSON; its ``description``, if there is one, goes into the snapshot's ``models``.
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
    suffix: ClassVar[str] = ".parquet"
    """Of its files: ``.parquet`` or ``.arrow``; they have a column ``num`` and, for records with one, ``checksum``."""

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
        """Writes the records of the clips of one tar.

        Args:
            path: file to write, with the rows of the records in the order of the clips.
            samples: the clips, in their order; taken one at a time.
            clips: what is known of them, in the same order: num, id, source, uri, clip_row, sha256, attempt.
            plan: what :meth:`identify` said of the model.
            model: gives the loaded model (:meth:`load_model`).
        """

    def job(self, store: Store, plan: Plan, work: ShardWork, model: LazyModel) -> TarJob | None:
        if work.clips is not None and not work.clips.rows:
            return None
        tar, clips = _read_wanted_clips(store, work)
        stage = self.name.name
        planned = plan.models.get(stage, {})
        return TarJob(self, tar, clips, plan.fingerprints[stage], planned, lambda: model.get(planned["digest"]))


@dataclass(frozen=True)
class TarJob:
    """The records of the clips of one tar.

    Args:
        maker: the stage.
        tar: path of the tar in the bank.
        clips: which of its clips, and each one's attempt (:func:`clips_of_tar`).
        fingerprint: of the stage.
        planned: what the plan says of its model.
        model: gives the loaded model.
    """

    maker: StageOverClips
    tar: str
    clips: pa.Table
    fingerprint: str
    planned: Mapping[str, Any]
    model: Callable[[], Any]

    @property
    def stage(self) -> str:
        return self.maker.name.name

    @property
    def inputs(self) -> str:
        return record_inputs(self.fingerprint, self.clips)

    @property
    def size(self) -> int:
        return len(self.clips)

    def make(self, writer: BankWriter) -> Made:
        """One data file, or none if every clip failed.

        Raises:
            BankDamaged: the tar lacks a clip.
            JobFailed: the stage does not account for every clip.
        """
        with tempfile.TemporaryDirectory(prefix=f"noisebank-{self.maker.kind}-") as scratch:
            path = Path(scratch, f"records{self.maker.suffix}")
            samples = self._samples(_local(writer.store, self.tar, Path(scratch)))
            written = self.maker.write(path, samples, self.clips, self.planned, self.model)
            self._check(written)
            files = (writer.file(path, self.stage, self.maker.suffix, written.rows),) if written.rows else ()
        return Made(files, written.rows, tuple(written.failures), {**written.info, "tar": self.tar}, written.note)

    def _check(self, written: Written) -> None:
        """Refuses a stage, perhaps of a user's own, that does not account for every clip."""
        failed = [failure.num for failure in written.failures]
        if written.rows + len(failed) != len(self.clips) or len(set(failed)) != len(failed):
            raise JobFailed(
                f"stage {self.stage}: {written.rows} records and {len(failed)} failures of the {len(self.clips)} clips "
                f"of {self.tar}; each clip needs one record or one failure"
            )
        if others := {failure.stage for failure in written.failures} - {self.stage}:
            raise JobFailed(f"stage {self.stage}: failures under another stage's name: {', '.join(sorted(others))}")

    def _samples(self, tar: Path) -> Iterator[ShardSample]:
        """The wanted clips of the tar, in its order."""
        wanted = set(self.clips.column("id").to_pylist())
        found = 0
        for sample in read_shard(tar):
            if sample.id in wanted:
                found += 1
                yield sample
        if found != len(wanted):
            raise BankDamaged(f"{self.tar}: {found} of {len(wanted)} clips are in it; run noisebank verify")


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


def _read_wanted_clips(store: Store, work: ShardWork) -> tuple[str, pa.Table]:
    """The tar of a piece of work, and which of its clips are wanted, with the number of the try."""
    if work.clips is not None:
        tar = next(entry.path for entry in work.clips.files if kind_of(entry.path) == CLIPS)
        return tar, clips_of_tar(store, tar)
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
    with store.open(tar) as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return copy
