"""Every file of a bank opens with the tools that own its format; nothing of noisebank is imported here."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import datasets
import decord
import faiss
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import webdataset

IDS = [f"mine-clip{i:02}" for i in range(6)]


def command(*words: object) -> dict[str, Any]:
    """The JSON document that a ``noisebank`` command prints."""
    line = [sys.executable, "-m", "pipelines.cli", str(words[0]), "--json", *map(str, words[1:])]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=600)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module")
def files(bank_folder: Path) -> list[Path]:
    """The files of the snapshot, as the command lists them."""
    return [Path(path) for path in command("files", bank_folder)["files"]]


@pytest.fixture(scope="module")
def tars(files: list[Path]) -> list[str]:
    return [str(path) for path in files if path.suffix == ".tar"]


def in_folder(files: list[Path], bank: Path, pattern: str) -> list[Path]:
    found = [path for path in files if path.relative_to(bank).match(pattern)]
    assert found, f"no file {pattern}"
    return found


def captions(files: list[Path], bank: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in in_folder(files, bank, "captions/*.parquet"))


def test_webdataset_iterates_over_the_tars(tars: list[str], files: list[Path], bank_folder: Path) -> None:
    samples = {sample["__key__"]: sample for sample in webdataset.WebDataset(tars, shardshuffle=False)}
    assert sorted(samples) == IDS
    listed = dict(zip(*captions(files, bank_folder).select(["id", "caption"]).to_pydict().values(), strict=True))
    for id, sample in samples.items():
        assert sample["txt"].decode() == listed[id]
        facts = json.loads(sample["json"])
        assert (facts["id"], facts["caption"], facts["frames"]) == (id, listed[id], 4)
        assert facts["sha256"] == hashlib.sha256(sample["mp4"]).hexdigest()
        frames = decord.VideoReader(io.BytesIO(sample["mp4"]))
        assert (len(frames), *frames[0].shape) == (4, 64, 64, 3)


@pytest.mark.parametrize("streaming", [True, False])
def test_hugging_face_datasets_loads_the_tars(tars: list[str], tmp_path: Path, streaming: bool) -> None:
    loaded = datasets.load_dataset(
        "webdataset", data_files={"train": tars}, split="train", streaming=streaming, cache_dir=str(tmp_path)
    )
    if "mp4" in (loaded.features or {}):
        loaded = loaded.cast_column("mp4", datasets.Video(decode=False))
    rows = {row["__key__"]: row for row in loaded}
    assert sorted(rows) == IDS
    assert {row["json"]["height"] for row in rows.values()} == {64}
    assert rows[IDS[0]]["txt"] == "a dog runs on the beach"


def test_tars_are_plain_and_say_nothing_of_who_made_them_or_when(tars: list[str]) -> None:
    for path in tars:
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        assert all(member.isreg() and member.mtime == 0 and member.uid == member.gid == 0 for member in members)
        names = [member.name for member in members]
        stems = list(dict.fromkeys(name.partition(".")[0] for name in names))
        assert names == [f"{stem}.{suffix}" for stem in stems for suffix in ("json", "mp4", "txt")]


def test_captions_have_unit_embeddings(files: list[Path], bank_folder: Path) -> None:
    table = captions(files, bank_folder)
    assert sorted(table.column("id").to_pylist()) == IDS
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    frame = pandas.concat(pandas.read_parquet(path) for path in in_folder(files, bank_folder, "captions/*.parquet"))
    lengths = np.linalg.norm(np.stack(frame["embedding"].to_list()), axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-6)


def test_sidecars_have_a_row_for_every_row_good_or_failed(files: list[Path], bank_folder: Path) -> None:
    frame = pandas.concat(pandas.read_parquet(path) for path in in_folder(files, bank_folder, "clips/*.parquet"))
    frame = frame.set_index("id").sort_index()
    assert list(frame.index) == [*IDS, "mine-gone"]
    assert frame.loc["mine-gone", ["code", "clip_row"]].to_list() == ["missing_file", -1]
    good = frame.loc[IDS]
    assert good["code"].isna().all() and (good[["height", "width"]] == 64).all(axis=None)
    assert (good["frames"] == 4).all() and (good["source_fps"] == 25).all()


def test_failures_are_a_table(files: list[Path], bank_folder: Path) -> None:
    (path,) = in_folder(files, bank_folder, "failures/*.parquet")
    rows = {row["id"]: (row["stage"], row["code"], row["retryable"]) for row in pq.read_table(path).to_pylist()}
    assert rows == {
        "mine-gone": ("clips", "missing_file", False),
        "mine-mute": ("plan", "empty_caption", False),
    }


def test_noise_is_a_fixed_shape_tensor_in_an_arrow_file(files: list[Path], bank_folder: Path) -> None:
    ids = []
    for path in in_folder(files, bank_folder, "noise/small/*.arrow"):
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            assert reader.num_record_batches == 1
            batch = reader.get_batch(0)
            assert batch.schema.field("noise").type == pa.fixed_shape_tensor(pa.float16(), (4, 4, 8, 8))
            noise = batch.column("noise").to_numpy_ndarray()
            assert noise.dtype == np.float16 and noise.shape == (batch.num_rows, 4, 4, 8, 8)
            means = noise.astype(np.float64).mean(axis=(2, 3, 4))
            np.testing.assert_allclose(np.array(batch.column("mean").to_pylist()), means, atol=2e-4)
            assert set(batch.column("network_calls").to_pylist()) == {4}
            assert 0.3 < noise.astype(np.float32).std() < 3
            ids += batch.column("id").to_pylist()
    assert sorted(ids) == IDS


def test_faiss_finds_a_caption_by_its_embedding(files: list[Path], bank_folder: Path) -> None:
    (path,) = in_folder(files, bank_folder, "index/*.faiss")
    index = faiss.read_index(str(path))
    entries = pandas.read_parquet(path.with_suffix(".parquet"))
    how = json.loads(path.with_suffix(".json").read_text())
    assert (index.ntotal, index.d, how["size"], how["recall"]["1"]) == (6, 384, 6, 1.0)
    table = captions(files, bank_folder)
    queries = np.array(table.column("embedding").to_pylist(), np.float32)
    scores, positions = index.search(queries, 1)
    assert entries["id"].iloc[positions[:, 0]].to_list() == table.column("id").to_pylist()
    np.testing.assert_allclose(scores[:, 0], 1.0, atol=1e-5)


def test_the_snapshot_is_json_that_leads_to_every_file(files: list[Path], bank_folder: Path) -> None:
    (path,) = bank_folder.glob("snapshots/*.json")
    assert path.name == "00000001.json"
    snapshot = json.loads(path.read_text())
    assert (snapshot["number"], snapshot["parent"], snapshot["in_bank"]) == (1, None, 6)
    entries = [entry for group in snapshot["parts"].values() for entry in group]
    data = pandas.concat(pandas.read_parquet(bank_folder / entry["path"]) for entry in entries)
    named = [*entries, *data.to_dict("records"), *snapshot["rows"], *snapshot["failures"]]
    for entry in named:
        content = (bank_folder / entry["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"]), entry["path"]
    folders = {"clips", "captions", "noise"}
    listed = {str(file.relative_to(bank_folder)) for file in files}
    assert set(data["path"]) == {name for name in listed if name.split("/")[0] in folders}


def test_a_sample_is_a_safetensors_file(bank_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "latents.safetensors"
    said = command("sample", bank_folder, "a dog on the beach", "--eta", "inf", "-o", path)
    latents = safetensors.torch.load_file(path)["latents"]
    assert latents.dtype == torch.float32 and list(latents.shape) == said["shape"] == [1, 4, 4, 8, 8]
    assert said["id"] == IDS[0]
    records = {}
    for shard in bank_folder.glob("noise/small/*.arrow"):
        batch = pa.ipc.open_file(pa.memory_map(str(shard))).get_batch(0)
        records |= zip(batch.column("id").to_pylist(), batch.column("noise").to_numpy_ndarray(), strict=True)
    np.testing.assert_array_equal(latents[0].numpy(), records[IDS[0]].astype(np.float32))
