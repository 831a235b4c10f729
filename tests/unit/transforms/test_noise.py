"""The noise step: tars through RunInference, one model a process, and none where there is nothing to do."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
import torch
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline

from noisebank.errors import BankDamaged, ConfigError
from noisebank.fixtures.small_models import make_small_model, smooth_clip
from noisebank.format.receipts import Receipt, find_receipt, list_receipts
from noisebank.ids import clip_number
from noisebank.models import model_digest
from noisebank.models.stable_diffusion import ModelScope
from noisebank.options import NoiseOptions
from noisebank.planning.cut import Task
from noisebank.planning.plan import Plan, write_plan
from noisebank.storage import Store, open_store
from schemas.rows import TASK_RECORDS
from tests.support.clip_shards import mp4_of, write_clips
from transforms.noise import InvertClips, _NoiseHandler, load_adapter
from transforms.work import Done, Work

SET = "small"
STAGE = f"noise/{SET}"
SHAPE = (4, 2, 4, 4)
IDS = sorted([f"mine-{i}" for i in range(5)], key=clip_number)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> NoiseOptions:
    model = make_small_model("modelscope", tmp_path_factory.mktemp("models") / "small")
    return NoiseOptions(name=SET, model=str(model), inverter="ddim", num_inference_steps=4, batch_size=2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


def clips(store: Store, ids: list[str]) -> Receipt:
    return write_clips(store, {id: mp4_of(smooth_clip(2, 32, 32, seed)) for seed, id in enumerate(ids)})


def plan(store: Store, options: NoiseOptions, folder: Path, tar: str, attempts: dict[str, int]) -> Work:
    """The work of a plan with one task: these clips of a tar, each for the n-th time."""
    rows = [{"num": clip_number(id), "id": id, "attempt": attempt} for id, attempt in attempts.items()]
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["num"]), TASK_RECORDS)
    with pa.ipc.new_file(folder / "tasks.arrow", TASK_RECORDS) as writer:
        writer.write_table(table)
    hash = f"{len(store.list('plans')):032x}"
    key = f"plans/{hash}/tasks.arrow"
    store.upload(folder / "tasks.arrow", key)
    task = Task(STAGE, ((key, 0, len(rows)),), tar)
    made: dict[str, Any] = {name: {} for name in ("counts", "sources", "records", "config")}
    made |= {"parent": None, "parent_uuid": "", "created": "", "folders": ("",), "source_names": {7: "mine"}}
    made |= dict.fromkeys(("rows", "failures", "locations", "claimed"), ())
    made |= {"fingerprints": {"clips": "c", "captions": "t", "noise": {SET: "n"}}, "tasks": {STAGE: (task,)}}
    write_plan(
        store, Plan(hash=hash, models={"noise": {SET: {"shape": SHAPE, "digest": model_digest(options.model)}}}, **made)
    )
    return Work(hash, task)


def inverted(store: Store, work: Work, options: NoiseOptions, make: bool = True) -> list[tuple[str, bool]]:
    """Inputs hash of every shard that the step gives, and whether it was made."""
    for key in store.list("probe"):
        store.delete(key)
    with TestPipeline(runner=FnApiRunner()) as pipeline:
        done = pipeline | beam.Create([work]) | InvertClips(store.url, options, make)
        _ = done | beam.Map(_keep, store.url)
    return [(key.split("/")[1], store.read(key) == b"made") for key in store.list("probe")]


def _keep(done: Done, url: str) -> None:
    open_store(url).put(f"probe/{done.finished.receipt.inputs}", b"made" if done.finished.made else b"found")


def ids_of(store: Store) -> list[list[str]]:
    """The ids in every noise file."""
    files = [key for key in store.list(STAGE) if key.endswith(".arrow")]
    return [pa.ipc.open_file(store.read(key)).read_all().column("id").to_pylist() for key in files]


def test_the_wanted_clips_of_a_tar_become_a_noise_file(store: Store, options: NoiseOptions, tmp_path: Path) -> None:
    wanted = [IDS[0], IDS[2], IDS[3]]
    work = plan(store, options, tmp_path, clips(store, IDS).files[0].path, dict.fromkeys(wanted, 1))
    ((inputs, made),) = inverted(store, work, options)
    assert made and list_receipts(store, STAGE) == [inputs]
    assert ids_of(store) == [wanted]


def test_a_second_try_is_another_shard(store: Store, options: NoiseOptions, tmp_path: Path) -> None:
    tar = clips(store, IDS).files[0].path
    shards = [inverted(store, plan(store, options, tmp_path, tar, {IDS[1]: n}), options) for n in (1, 2)]
    assert shards[0] != shards[1] and [made for ((_, made),) in shards] == [True, True]


def test_a_finished_shard_is_found_again_and_no_model_is_loaded(
    store: Store, options: NoiseOptions, tmp_path: Path
) -> None:
    work = plan(store, options, tmp_path, clips(store, IDS).files[0].path, dict.fromkeys(IDS, 1))
    ((inputs, _),) = inverted(store, work, options)
    absent = dataclasses.replace(options, model="/no/such/model")
    for make in (True, False):
        assert inverted(store, work, absent, make) == [(inputs, False)]


def test_a_shard_that_another_machine_should_have_made_is_asked_for(
    store: Store, options: NoiseOptions, tmp_path: Path
) -> None:
    work = plan(store, options, tmp_path, clips(store, IDS).files[0].path, dict.fromkeys(IDS, 1))
    with pytest.raises(Exception, match="noise/small: a shard of 5 rows is not finished; run 'noisebank noise'"):
        inverted(store, work, options, make=False)


def test_new_clips_are_inverted_all_and_a_tar_that_never_was_is_passed_over(
    store: Store, options: NoiseOptions, tmp_path: Path
) -> None:
    made = clips(store, IDS)
    work = dataclasses.replace(plan(store, options, tmp_path, "", {}), clips=made)
    assert [made for _, made in inverted(store, work, options)] == [True]
    assert ids_of(store) == [IDS]
    failed = dataclasses.replace(made, files=made.files[1:], rows=0)
    assert inverted(store, dataclasses.replace(work, clips=failed), options) == []


def test_clips_that_the_tar_lacks_are_told(store: Store, options: NoiseOptions, tmp_path: Path) -> None:
    work = plan(store, options, tmp_path, clips(store, IDS[1:]).files[0].path, dict.fromkeys(IDS, 1))
    with pytest.raises(BankDamaged, match=r"^clips/.*\.parquet: 5 clips are wanted, it has 4 of them"):
        inverted(store, work, options)


@pytest.mark.parametrize("damage", ["missing", "cut", "overwritten"])
def test_a_damaged_sidecar_is_named(store: Store, options: NoiseOptions, tmp_path: Path, damage: str) -> None:
    tar, sidecar = (entry.path for entry in clips(store, IDS).files)
    work = plan(store, options, tmp_path, tar, dict.fromkeys(IDS, 1))
    data = store.read(sidecar)
    store.delete(sidecar)
    if damage != "missing":
        store.put(sidecar, data[:-20] if damage == "cut" else data[:4] + bytes(len(data) - 8) + data[-4:])
    with pytest.raises(BankDamaged, match=f"^{sidecar}: missing or damaged"):
        inverted(store, work, options)


def test_a_worker_with_another_model_than_the_plan_stops(store: Store, options: NoiseOptions, tmp_path: Path) -> None:
    work = plan(store, options, tmp_path, clips(store, IDS).files[0].path, dict.fromkeys(IDS, 1))
    other = shutil.copytree(options.model, tmp_path / "other")
    (other / "model_index.json").write_text((other / "model_index.json").read_text() + "\n")
    with pytest.raises(ConfigError, match=f"^model '{other}' has digest"):
        inverted(store, work, dataclasses.replace(options, model=str(other)))
    assert list_receipts(store, STAGE) == []


def test_threads_of_a_process_take_turns_with_the_model(
    store: Store, options: NoiseOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = clips(store, IDS).files[0].path
    works = [plan(store, options, tmp_path, tar, {id: 1}) for id in IDS[:3]]
    predict = ModelScope.predict
    callers: list[int] = []

    def noted(self: ModelScope, *arguments: Any, **conditioning: Any) -> torch.Tensor:
        callers.append(threading.get_ident())
        time.sleep(0.01)  # (lets another thread in, if it may)
        return predict(self, *arguments, **conditioning)

    monkeypatch.setattr(ModelScope, "predict", noted)
    handler = _NoiseHandler(store.url, options, True)
    model = handler.load_model()
    with ThreadPoolExecutor(3) as threads:
        assert len([*threads.map(lambda work: handler.run_inference([work], model), works)]) == 3
    assert len([*itertools.groupby(callers)]) == len(set(callers)) > 1


def test_out_of_memory_in_the_step_is_survived(
    store: Store, options: NoiseOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = ModelScope.predict

    def small_device(self: ModelScope, latents: torch.Tensor, *args: Any, **conditioning: torch.Tensor) -> Any:
        if len(latents) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return predict(self, latents, *args, **conditioning)

    monkeypatch.setattr(ModelScope, "predict", small_device)
    work = plan(store, options, tmp_path, clips(store, IDS).files[0].path, dict.fromkeys(IDS, 1))
    ((inputs, _),) = inverted(store, work, options)
    receipt = find_receipt(store, STAGE, inputs)
    assert receipt is not None and (receipt.rows, receipt.info["batch_size"]) == (5, 1)


@pytest.mark.parametrize(
    ("cuda", "bf16", "precision", "expected"),
    [
        (False, False, "auto", ("cpu", torch.float32)),
        (False, False, "bfloat16", ("cpu", torch.bfloat16)),
        (True, True, "auto", ("cuda", torch.bfloat16)),
        (True, False, "auto", ("cuda", torch.float16)),
        (True, True, "float32", ("cuda", torch.float32)),
    ],
)
def test_the_device_and_its_precision(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, bf16: bool, precision: str, expected: tuple[str, torch.dtype]
) -> None:
    loaded: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr("noisebank.models.load_model", lambda model, **options: loaded.append(options))
    load_adapter(NoiseOptions(precision=precision, motion_adapter="m", compile=True), "d")
    device, dtype = expected
    assert loaded == [{"device": device, "dtype": dtype, "motion_adapter": "m", "compile": True, "digest": "d"}]


def test_float32_is_not_rounded_to_tf32(options: NoiseOptions) -> None:
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        load_adapter(options)
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


@pytest.mark.parametrize("compile", [False, True])
def test_the_network_is_compiled_where_it_is_asked_for(
    options: NoiseOptions, monkeypatch: pytest.MonkeyPatch, compile: bool
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    load_adapter(dataclasses.replace(options, compile=compile))
    assert compiled == (["UNet3DConditionModel"] if compile else [])
