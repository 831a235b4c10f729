"""Stages of a user's own: which kinds there may be, and that what they write is what their clips need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from noisebank import options
from noisebank.errors import ConfigError, JobFailed, RowFailure
from noisebank.fixtures.small_models import smooth_clip
from noisebank.format.layout import is_ours
from noisebank.format.stage_names import StageName
from noisebank.ids import clip_number
from noisebank.options import OPTION_CLASSES, Config, StageOptions
from noisebank.stages.captions import CaptionsStage
from noisebank.stages.configured import identify_stages
from noisebank.stages.job import Finished, failure_of, run_job
from noisebank.stages.noise import NoiseStage
from noisebank.stages.over_clips import KEYS, STAGES, StageOverClips, Written, clips_of_tar, register_stage
from noisebank.stages.stage import Identity
from noisebank.storage import BankWriter, Store, open_store
from noisebank.video.frames import decode_mp4
from tests.support.clip_shards import mp4_of, write_clips
from tests.support.docs import import_block

IDS = sorted(["mine-1", "mine-2", "mine-3"], key=clip_number)


@pytest.mark.parametrize("kind", ["noise", "clips", "records", "plans", "my-kind", "a/b", "", "naïve", "flow\n"])
def test_a_kind_whose_files_would_not_be_told_apart_is_refused(kind: str) -> None:
    with pytest.raises(
        ConfigError, match="is not allowed: letters, digits and _ are, and no name of a folder of banks"
    ):
        register_stage(kind, StageOptions)
    assert kind not in STAGES


def test_files_of_a_kind_that_is_registered_are_those_of_the_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, key, before in (
        (STAGES, "flow_2", StageOverClips),
        (OPTION_CLASSES, ("stages", "flow_2"), StageOptions),
        (options._REGISTERED_BY, ("stages", "flow_2"), __name__.partition(".")[0]),
    ):
        monkeypatch.setitem(registry, key, before)  # (so that it is as before after the test)

    @register_stage("flow_2", StageOptions)
    class Flow(StageOverClips):
        def write(self, *arguments: object) -> None: ...

    assert STAGES["flow_2"] is Flow and Flow.kind == "flow_2"
    assert Flow(StageOptions("flow_2", "near")).name.name == "flow_2/near"
    digest = "ab" * 16
    assert is_ours(f"flow_2/near/{digest}.parquet") and is_ours(f"flow_2/near/{digest}.json")
    assert is_ours(f"records/flow_2/near/{digest}.arrow") and not is_ours(f"flow_2/{digest}.parquet")


def test_a_kind_whose_files_are_no_parquet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"stage kind flow_3: its files end in '.arrow'; .parquet is wanted"):
        register_stage("flow_3", StageOptions)(type("Flow", (StageOverClips,), {"suffix": ".arrow"}))
    assert "flow_3" not in STAGES


@pytest.mark.parametrize("shape", ["square", [4, 0], [2.5], {"h": 3}])
def test_a_shape_that_is_none_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch, shape: Any) -> None:
    def identify(*arguments: object) -> Identity:
        return Identity("f", {"shape": shape})

    monkeypatch.setattr(NoiseStage, "identify", identify)
    monkeypatch.setattr(CaptionsStage, "identify", lambda *arguments: Identity("t"))
    with pytest.raises(ConfigError, match=r"^noise/modelscope: the shape of a record is .+; a list of whole numbers"):
        identify_stages(Config())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


def make(store: Store, stage: StageOverClips, mp4s: dict[str, bytes]) -> Finished:
    tar = write_clips(store, mp4s).files[0].path
    return run_job(stage.shard(tar, clips_of_tar(store, tar), "f", {}, lambda: None), BankWriter(store))


def test_the_stage_in_the_docs_is_a_stage(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_block("modules.md", "@register_stage", STAGES, ("stages", "contrast"), monkeypatch, tmp_path)
    mp4s = {
        IDS[0]: mp4_of(torch.full((2, 32, 32, 3), 90, dtype=torch.uint8)),
        IDS[1]: b"no clip",
        IDS[2]: mp4_of(smooth_clip(2, 32, 32, 1)),
    }
    receipt = make(store, module.Contrast(module.ContrastOptions("contrast", "sd")), mp4s).receipt
    assert {failure.id: failure.code for failure in receipt.failures} == {IDS[0]: "too_dull", IDS[1]: "decode_error"}
    (row,) = pq.read_table(pa.BufferReader(store.read(receipt.files[0].path))).to_pylist()
    assert (row["id"], row["contrast"]) == (IDS[2], pytest.approx(float(np.std(decode_mp4(mp4s[IDS[2]])))))


class Copy(StageOverClips):
    """Writes the keys of its clips, after a change."""

    kind = "copy"

    def write(self, path: Path, samples: Any, clips: pa.Table, plan: Any, model: Any) -> Any:
        assert [sample.id for sample in samples] == clips.column("id").to_pylist()
        return self.options(path, clips)

    @property
    def name(self) -> StageName:
        return StageName("copy", "a")


def write(path: Path, table: pa.Table, **said: Any) -> Written:
    pq.write_table(table, path)
    return Written(len(table), **said)


def reverse(table: pa.Table) -> pa.Table:
    return table.take([2, 1, 0])


def fail_second(path: Path, clips: pa.Table, kept: list[int]) -> Written:
    failure = failure_of(clips.to_pylist()[1], "copy/a", RowFailure("odd", "so"))
    return write(path, clips.select(KEYS).take(kept), failures=[failure])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda path, clips: None, "write gave None; a Written is wanted"),
        (lambda path, clips: Written(2, [RowFailure("odd", "so")]), "failures of failure_of"),
        (lambda path, clips: write(path, clips.slice(1)), "2 records and 0 failures of 3 clips"),
        (lambda path, clips: Written(3), "its file needs the columns num, id, sha256: records.parquet: missing"),
        (lambda path, clips: (path.write_bytes(b"PAR1"), Written(3))[1], "records.parquet: cannot be read"),
        (lambda path, clips: write(path, clips.drop_columns(["sha256"])), "its file needs the columns"),
        (lambda path, clips: write(path, reverse(clips)), "not those of the clips without a failure, in their order"),
        (lambda path, clips: (write(path, clips.slice(1)), Written(3))[1], "are not those of the clips"),
        (lambda path, clips: fail_second(path, clips, [0, 1]), "are not those of the clips without a failure"),
        (lambda path, clips: write(path, clips, info={"mean": np.float32(1)}), "info is no plain JSON: .*float32"),
        (lambda path, clips: write(path, clips, info={1: "a"}), "info has keys or values that JSON gives back as"),
        (lambda path, clips: write(path, clips, info={"description": {"a": 1}}), "info has a description"),
    ],
)
def test_what_is_not_a_record_a_clip_stops_the_stage(
    store: Store, change: Callable[[Path, pa.Table], Any], problem: str
) -> None:
    with pytest.raises(JobFailed, match=rf"^stage copy/a, clips/\S+\.tar: .*{problem}"):
        make(store, Copy(change), dict.fromkeys(IDS, b"a clip"))
    assert store.list("copy") == []


def test_records_of_all_clips_but_the_failed_are_kept(store: Store) -> None:
    made = make(store, Copy(lambda path, clips: fail_second(path, clips, [0, 2])), dict.fromkeys(IDS, b"a clip"))
    assert (made.receipt.rows, [failure.id for failure in made.receipt.failures]) == (2, [IDS[1]])


def test_a_stage_that_loads_a_model_has_one() -> None:
    class WithModel(Copy):
        def load_model(self, digest: str) -> str:
            return digest

    options = StageOptions("copy", "a")
    assert WithModel(options).has_model and not Copy(options).has_model
