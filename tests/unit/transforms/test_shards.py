"""The step that makes shards of any stage, one model a process, and none where there is nothing to do."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import itertools
import logging
import re
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline

from noisebank import options
from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo
from noisebank.commits.publishing import BuildResult
from noisebank.config import config_from_mapping
from noisebank.errors import BankDamaged, ConfigError
from noisebank.fixtures.small_models import make_small_model, smooth_clip
from noisebank.format.manifest import read_snapshot
from noisebank.format.parts import part_entries, read_parts
from noisebank.format.receipts import Receipt, find_receipt, list_receipts
from noisebank.format.schemas import CLIPS, ROWS, TASK_RECORDS, TASK_ROWS
from noisebank.format.status import Status
from noisebank.format.tables import FAILURE_KEY, OverlayTable, write_segment
from noisebank.ids import clip_number, xxh64
from noisebank.models import model_digest
from noisebank.models.stable_diffusion import ModelScope
from noisebank.options import CaptionOptions, NoiseOptions
from noisebank.planning.cut import Task
from noisebank.planning.plan import Plan, read_plan
from noisebank.search.embed import embedder_digest
from noisebank.stages.captions import CaptionsStage
from noisebank.stages.configured import all_stages
from noisebank.stages.noise import NoiseStage
from noisebank.stages.over_clips import STAGES, StageOverClips
from noisebank.stages.stage import ShardWork, Stage
from noisebank.storage import BankWriter, Store, open_store
from tests.support.clip_shards import mp4_of, write_clips
from tests.support.minilm import MINILM
from transforms.shards import MakeShards, ShardHandler
from transforms.work import Done

CAPTIONS = [f"a dog number {i} on a beach" for i in range(12)]
EMBED = CaptionsStage(CaptionOptions(model=MINILM))
ABSENT = CaptionsStage(CaptionOptions(model="/no/such/model"))
SET = "small"
STAGE = f"noise/{SET}"
SHAPE = (4, 2, 4, 4)
IDS = sorted([f"mine-{i}" for i in range(5)], key=clip_number)
BRIGHT = "brightness/mean"


@pytest.fixture(scope="module")
def invert(tmp_path_factory: pytest.TempPathFactory) -> NoiseStage:
    model = make_small_model("modelscope", tmp_path_factory.mktemp("models") / "small")
    return NoiseStage(NoiseOptions(name=SET, model=str(model), inverter="ddim", num_inference_steps=4, batch_size=2))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


def with_options(stage: NoiseStage, **changes: Any) -> NoiseStage:
    return NoiseStage(dataclasses.replace(stage.options, **changes))


def plan(
    store: Store, folder: Path, stage: str, rows: pa.Table, size: int, *, tar: str = "", **known: Any
) -> list[ShardWork]:
    """The work of a plan with a task of a stage for every ``size`` of the rows."""
    hash = f"{len(store.list('plans')):032x}"
    key = f"plans/{hash}/tasks.arrow"
    with pa.ipc.new_file(folder / "tasks.arrow", rows.schema) as writer:
        writer.write_table(rows)
    store.upload(folder / "tasks.arrow", key)
    starts = range(0, max(rows.num_rows, 1), size)
    tasks = tuple(Task(stage, ((key, start, min(start + size, rows.num_rows)),), tar) for start in starts)
    made: dict[str, Any] = {name: {} for name in ("config", "models", "counts", "sources", "changes")}
    made |= {"parent": None, "parent_uuid": "", "created": "", "folders": ("",), "source_names": {7: "mine"}}
    made |= {"fingerprints": {"clips": "c", "captions": "t", STAGE: "n"}, "locations": (), "claimed": ()}
    work = Plan(hash=hash, tasks={stage: tasks}, **made | known)
    store.create(work.path, work.to_bytes())
    return [ShardWork(work.path, task) for task in tasks]


def shards(store: Store, works: Sequence[ShardWork], stage: Stage, make: bool = True) -> list[tuple[str, bool]]:
    """Inputs hash of every shard that the step gives, sorted, and whether it was made."""
    for key in store.list("probe"):
        store.delete(key)
    with TestPipeline(runner=FnApiRunner()) as pipeline:
        done = pipeline | beam.Create(list(works)) | MakeShards(store.url, stage, make)
        _ = done | beam.Map(_keep, store.url)
    return [(key.split("/")[1], store.read(key) == b"made") for key in store.list("probe")]


def _keep(done: Done, url: str) -> None:
    open_store(url).put(f"probe/{done.finished.receipt.inputs}", b"made" if done.finished.made else b"found")


def task_rows(captions: Sequence[str]) -> pa.Table:
    rows = [
        {"num": clip_number(f"mine-{text}"), "id": f"mine-{text}", "source": 7, "caption": text, "embed": True}
        | {"caption_hash": xxh64(text), "attempt": 1, "base": 0}
        for text in captions
    ]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["num"]), TASK_ROWS)


def captions_plan(store: Store, folder: Path) -> list[ShardWork]:
    """Three captions tasks of four rows."""
    models = {"captions": {"digest": embedder_digest(MINILM)}}
    return plan(store, folder, "captions", task_rows(CAPTIONS), 4, models=models)


def clips(store: Store, ids: list[str]) -> Receipt:
    return write_clips(store, {id: mp4_of(smooth_clip(2, 32, 32, seed)) for seed, id in enumerate(ids)})


def records(attempts: dict[str, int]) -> pa.Table:
    """Clips to make a record of, each for the n-th time."""
    rows = [{"num": clip_number(id), "id": id, "attempt": attempt} for id, attempt in attempts.items()]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["num"]), TASK_RECORDS)


def noise_plan(store: Store, invert: NoiseStage, folder: Path, tar: str, attempts: dict[str, int]) -> ShardWork:
    """The work of a plan with one task: these clips of a tar."""
    models = {STAGE: {"shape": SHAPE, "digest": model_digest(invert.options.model)}}
    (work,) = plan(store, folder, STAGE, records(attempts), 5, tar=tar, models=models)
    return work


def ids_of(store: Store) -> list[list[str]]:
    """The ids in every noise file."""
    files = [key for key in store.list(STAGE) if key.endswith(".arrow")]
    return [pa.ipc.open_file(store.read(key)).read_all().column("id").to_pylist() for key in files]


def test_every_task_becomes_a_captions_file_with_its_receipt(store: Store, tmp_path: Path) -> None:
    made = shards(store, captions_plan(store, tmp_path), EMBED)
    assert made == [(inputs, True) for inputs in list_receipts(store, "captions")] and len(made) == 3
    files = [key for key in store.list("captions") if key.endswith(".parquet")]
    tables = [pq.read_table(pa.BufferReader(store.read(key))) for key in files]
    captions = [text for table in tables for text in table.column("caption").to_pylist()]
    assert sorted(captions) == sorted(CAPTIONS)
    assert set(pa.concat_tables(tables).column("source").to_pylist()) == {"mine"}


def test_finished_captions_are_found_again_and_no_model_is_loaded(store: Store, tmp_path: Path) -> None:
    works = captions_plan(store, tmp_path)
    made = shards(store, works, EMBED)
    before = store.list("captions")
    for make in (True, False):
        assert shards(store, works, ABSENT, make) == [(inputs, False) for inputs, _ in made]
    assert store.list("captions") == before


def test_a_worker_with_another_captions_model_than_the_plan_stops(store: Store, tmp_path: Path) -> None:
    works = captions_plan(store, tmp_path)
    other = shutil.copytree(MINILM, tmp_path / "other")
    (other / "more.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"^captions model '{other}' has digest"):
        shards(store, works, CaptionsStage(CaptionOptions(model=str(other))))
    assert list_receipts(store, "captions") == []


def test_captions_that_another_machine_should_have_made_are_asked_for(store: Store, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="captions: a shard of 4 rows is not finished; run 'noisebank captions'"):
        shards(store, captions_plan(store, tmp_path), ABSENT, make=False)


def test_new_clips_hand_on_their_good_rows_alone(store: Store, tmp_path: Path) -> None:
    work = captions_plan(store, tmp_path)[0]
    rows = task_rows(CAPTIONS).slice(0, 4)
    made = [{"num": num, "clip_row": -1 if i == 1 else i} for i, num in enumerate(rows.column("num").to_pylist())]
    pq.write_table(pa.Table.from_pylist(made, CLIPS), tmp_path / "sidecar")
    sidecar = BankWriter(store).file(tmp_path / "sidecar", "clips", ".parquet", 4)
    shards(store, [dataclasses.replace(work, clips=Receipt("clips", "0" * 32, "c", (sidecar,), 3))], EMBED)
    (key,) = (key for key in store.list("captions") if key.endswith(".parquet"))
    table = pq.read_table(pa.BufferReader(store.read(key)))
    ids = rows.column("id").to_pylist()
    assert table.column("id").to_pylist() == [ids[0], ids[2], ids[3]]


def test_the_wanted_clips_of_a_tar_become_a_noise_file(
    store: Store, invert: NoiseStage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = [IDS[0], IDS[2], IDS[3]]
    tar = clips(store, IDS).files[0].path
    work = noise_plan(store, invert, tmp_path, tar, dict.fromkeys(wanted, 1))
    with caplog.at_level(logging.INFO, logger="transforms.shards"):
        ((inputs, made),) = shards(store, [work], invert)
    assert re.search(rf"{STAGE} of {tar}: 3 made, 0 failed, in \d+\.\d s, .+ clips/s, .+GB$", caplog.text, re.MULTILINE)
    assert made and list_receipts(store, STAGE) == [inputs]
    assert ids_of(store) == [wanted]


def test_a_second_try_is_another_shard(store: Store, invert: NoiseStage, tmp_path: Path) -> None:
    tar = clips(store, IDS).files[0].path
    tries = [shards(store, [noise_plan(store, invert, tmp_path, tar, {IDS[1]: n})], invert) for n in (1, 2)]
    assert tries[0] != tries[1] and [made for ((_, made),) in tries] == [True, True]


def test_finished_noise_is_found_again_and_no_model_is_loaded(store: Store, invert: NoiseStage, tmp_path: Path) -> None:
    work = noise_plan(store, invert, tmp_path, clips(store, IDS).files[0].path, dict.fromkeys(IDS, 1))
    ((inputs, _),) = shards(store, [work], invert)
    absent = with_options(invert, model="/no/such/model")
    for make in (True, False):
        assert shards(store, [work], absent, make) == [(inputs, False)]


def test_noise_that_another_machine_should_have_made_is_asked_for(
    store: Store, invert: NoiseStage, tmp_path: Path
) -> None:
    work = noise_plan(store, invert, tmp_path, clips(store, IDS).files[0].path, dict.fromkeys(IDS, 1))
    with pytest.raises(Exception, match="noise/small: a shard of 5 rows is not finished; run 'noisebank noise'"):
        shards(store, [work], invert, make=False)


def test_new_clips_are_inverted_all_and_a_tar_that_never_was_is_passed_over(
    store: Store, invert: NoiseStage, tmp_path: Path
) -> None:
    made = clips(store, IDS)
    work = dataclasses.replace(noise_plan(store, invert, tmp_path, "", {}), clips=made)
    assert [made for _, made in shards(store, [work], invert)] == [True]
    assert ids_of(store) == [IDS]
    failed = dataclasses.replace(made, files=made.files[1:], rows=0)
    for make in (True, False):
        assert shards(store, [dataclasses.replace(work, clips=failed)], invert, make) == []


def test_clips_that_the_tar_lacks_are_told(store: Store, invert: NoiseStage, tmp_path: Path) -> None:
    work = noise_plan(store, invert, tmp_path, clips(store, IDS[1:]).files[0].path, dict.fromkeys(IDS, 1))
    with pytest.raises(BankDamaged, match=r"^clips/.*\.parquet: 5 clips are wanted, it has 4 of them"):
        shards(store, [work], invert)


@pytest.mark.parametrize("damage", ["missing", "cut", "overwritten"])
def test_a_damaged_sidecar_is_named(store: Store, invert: NoiseStage, tmp_path: Path, damage: str) -> None:
    tar, sidecar = (entry.path for entry in clips(store, IDS).files)
    work = noise_plan(store, invert, tmp_path, tar, dict.fromkeys(IDS, 1))
    data = store.read(sidecar)
    store.delete(sidecar)
    if damage != "missing":
        store.put(sidecar, data[:-20] if damage == "cut" else data[:4] + bytes(len(data) - 8) + data[-4:])
    says = "missing; run verify" if damage == "missing" else r"cannot be read \(.+\); run verify"
    with pytest.raises(BankDamaged, match=f"^{sidecar}: {says}"):
        shards(store, [work], invert)


def test_a_worker_with_another_noise_model_than_the_plan_stops(
    store: Store, invert: NoiseStage, tmp_path: Path
) -> None:
    work = noise_plan(store, invert, tmp_path, clips(store, IDS).files[0].path, dict.fromkeys(IDS, 1))
    other = shutil.copytree(invert.options.model, tmp_path / "other")
    (other / "model_index.json").write_text((other / "model_index.json").read_text() + "\n")
    with pytest.raises(ConfigError, match=f"^model '{other}' has digest"):
        shards(store, [work], with_options(invert, model=str(other)))
    assert list_receipts(store, STAGE) == []


def test_threads_of_a_process_take_turns_with_the_model(
    store: Store, invert: NoiseStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = clips(store, IDS).files[0].path
    works = [noise_plan(store, invert, tmp_path, tar, {id: 1}) for id in IDS[:3]]
    predict = ModelScope.predict
    callers: list[int] = []

    def noted(self: ModelScope, *arguments: Any, **conditioning: Any) -> torch.Tensor:
        callers.append(threading.get_ident())
        time.sleep(0.01)  # (lets another thread in, if it may)
        return predict(self, *arguments, **conditioning)

    monkeypatch.setattr(ModelScope, "predict", noted)
    handler = ShardHandler(invert.load_model, MakeShards(store.url, invert).finish, "noise")
    model = handler.load_model()
    with ThreadPoolExecutor(3) as threads:
        assert len([*threads.map(lambda work: handler.run_inference([work], model), works)]) == 3
    assert len([*itertools.groupby(callers)]) == len(set(callers)) > 1


def test_out_of_memory_in_the_step_is_survived(
    store: Store, invert: NoiseStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = ModelScope.predict

    def small_device(self: ModelScope, latents: torch.Tensor, *args: Any, **conditioning: torch.Tensor) -> Any:
        if len(latents) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return predict(self, latents, *args, **conditioning)

    monkeypatch.setattr(ModelScope, "predict", small_device)
    work = noise_plan(store, invert, tmp_path, clips(store, IDS).files[0].path, dict.fromkeys(IDS, 1))
    ((inputs, _),) = shards(store, [work], invert)
    receipt = find_receipt(store, STAGE, inputs)
    assert receipt is not None and (receipt.rows, receipt.info["batch_size"]) == (5, 1)


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of a stage of one's own, just imported; what it registers is forgotten after the test."""
    name, kind = "tests.support.brightness", "brightness"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(STAGES, kind, StageOverClips)
    monkeypatch.setitem(options.OPTION_CLASSES, ("stages", kind), options.StageOptions)
    monkeypatch.setitem(options._REGISTERED_BY, ("stages", kind), "tests")
    return importlib.import_module(name)


def test_a_stage_of_a_module_is_made_and_its_records_are_published(
    store: Store, tmp_path: Path, brightness: Any
) -> None:
    mp4s = {id: mp4_of(torch.full((2, 32, 32, 3), 40 * i, dtype=torch.uint8)) for i, id in enumerate(IDS)}
    config = config_from_mapping({"noise": [], "stages": [{"kind": "brightness", "name": "mean", "darkest": 30}]})
    (_, _, stage), writer = all_stages(config), BankWriter(store)
    assert (type(stage), stage.name.name) == (brightness.Brightness, BRIGHT)
    fingerprint = stage.identify(config, None).fingerprint
    tar = write_clips(store, mp4s).files[0]
    listed = [dict.fromkeys(ROWS.names, 1) | {"num": clip_number(id), "clip_file": tar.key} for id in IDS]
    rows = pa.Table.from_pylist([row | {"status": Status.OK} for row in listed], ROWS)
    known = {"fingerprints": {BRIGHT: fingerprint}, "changes": {"rows": (write_segment(writer, "plans/rows", rows),)}}
    (work,) = plan(store, tmp_path, BRIGHT, records(dict.fromkeys(IDS, 1)), 5, tar=tar.path, **known)
    ((inputs, made),) = shards(store, [work], stage)
    assert made and shards(store, [work], stage) == [(inputs, False)]
    assert shards(store, [work], stage, make=False) == [(inputs, False)]

    with BuildResult(store, read_plan(store, work.plan), None, [(BRIGHT, inputs)]) as result:
        assert result.failed.codes == {"too_dark": 1}
        commit(store, None, result.delta(), CommitInfo("run", fingerprints={BRIGHT: fingerprint}))
    snapshot = read_snapshot(store)
    assert snapshot.stage_fingerprints == {BRIGHT: fingerprint}
    assert (snapshot.record_counts, snapshot.noise_sets) == ({BRIGHT: 4}, ())
    (entry,) = part_entries(read_parts(store, snapshot.parts[BRIGHT]))
    assert pq.read_table(pa.BufferReader(store.read(entry.path))).to_pylist() == [
        {"num": clip_number(id), "id": id, "sha256": hashlib.sha256(mp4s[id]).hexdigest()}
        | {"brightness": brightness.brightness_of(mp4s[id])}
        for id in IDS[1:]
    ]
    published = OverlayTable(store, snapshot.records[BRIGHT]).read().to_pylist()
    failed = {"num": clip_number(IDS[0]), "file": 0, "row": -1, "checksum": 0, "status": Status.FAILED}
    good = [
        {"num": clip_number(id), "file": entry.key, "row": i, "checksum": 0, "status": Status.OK}
        for i, id in enumerate(IDS[1:])
    ]
    assert published == sorted([failed, *good], key=lambda row: row["num"])
    (failure,) = OverlayTable(store, snapshot.failures, FAILURE_KEY).read().to_pylist()
    assert (failure["id"], failure["stage"], failure["code"]) == (IDS[0], BRIGHT, "too_dark")
