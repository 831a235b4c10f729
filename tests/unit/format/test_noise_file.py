"""Noise shards: what is written comes back, foreign readers open it, and damage is never returned as noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import xxhash

from noisebank.errors import BankDamaged, ShapeMismatch
from noisebank.format.noise_file import (
    NoiseShard,
    NoiseWriter,
    RecordLayout,
    dequantise,
    quantise,
    storage_roundtrip,
)
from noisebank.storage import open_store
from schemas.noise import noise_schema

SHAPE = (4, 3, 5, 7)


def columns(schema: pa.Schema, row: int) -> dict[str, Any]:
    """Plausible values for every column that the writer does not make itself."""
    made: dict[str, Any] = {}
    for field in schema:
        if field.name in ("noise", "scale", "checksum"):
            continue
        if pa.types.is_fixed_size_list(field.type):
            made[field.name] = [0.5] * field.type.list_size
        else:
            made[field.name] = f"{field.name}-{row}" if field.type == pa.string() else row
    return made


def write(folder: Path, dtype: str, n: int = 6) -> tuple[torch.Tensor, NoiseShard, list[int], RecordLayout]:
    """A shard of random noise: the noise, the open shard, its checksums, and where the writer says that records are."""
    noise = torch.randn((n, *SHAPE), generator=torch.Generator().manual_seed(7))
    schema = noise_schema(SHAPE, dtype)
    with NoiseWriter(folder / "n.arrow", schema) as writer:
        for row, record in enumerate(noise):
            writer.append(record, columns(schema, row))
        layout = RecordLayout.from_info(writer.finish())
    with pa.OSFile(str(folder / "n.arrow")) as file:
        checksums = pa.ipc.open_file(file).read_all().column("checksum").to_pylist()
    shard = NoiseShard(open_store(folder), "n.arrow", n, SHAPE, dtype, layout)
    return noise, shard, checksums, layout


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_record_comes_back_as_the_storage_roundtrip_of_what_was_written(tmp_path: Path, dtype: str) -> None:
    noise, shard, checksums, _ = write(tmp_path, dtype)
    for row in (0, 3, 5):
        record = shard.record(row, checksums[row])
        assert record.dtype == torch.float32
        assert torch.equal(record, storage_roundtrip(noise[row], dtype))


def test_float16_and_int8_lose_as_little_as_stated() -> None:
    noise = torch.randn((2, 4, 16, 32, 32), generator=torch.Generator().manual_seed(0))
    for dtype, most in (("float16", 3e-4), ("int8", 9e-3)):
        error = (storage_roundtrip(noise, dtype) - noise).norm() / noise.norm()
        assert 0 < error < most
    values, scale = quantise(noise)
    assert values.dtype == torch.int8 and values.abs().max() == 127
    assert scale.shape == (2, 4, 16)
    cosine = torch.cosine_similarity(dequantise(values, scale).flatten(), noise.flatten(), dim=0)
    assert cosine > 0.99996


def test_a_frame_of_zeros_survives_int8() -> None:
    noise = torch.zeros((1, 2, 3, 4, 4))
    noise[0, 1] = 2.0
    assert torch.equal(storage_roundtrip(noise, "int8"), noise)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_pyarrow_alone_opens_the_file_and_finds_tensors_and_checksums(tmp_path: Path, dtype: str) -> None:
    noise, _, checksums, _ = write(tmp_path, dtype)
    with pa.memory_map(str(tmp_path / "n.arrow")) as source:
        reader = pa.ipc.open_file(source)
        assert reader.num_record_batches == 1
        batch = reader.get_batch(0)
        tensors = batch.column("noise").to_numpy_ndarray()
        assert tensors.shape == (6, *SHAPE)
        assert batch.column("id").to_pylist()[2] == "id-2"
        content = tensors[2].tobytes()
        values = tensors.astype(np.float32)
        if dtype == "int8":
            scale = np.asarray(batch.column("scale").to_pylist(), np.float32)
            content += scale[2].tobytes()
            values *= scale.reshape(6, *SHAPE[:2], 1, 1)
    assert xxhash.xxh3_64_intdigest(content) == checksums[2]
    np.testing.assert_array_equal(values, storage_roundtrip(noise, dtype).numpy())


def test_offsets_point_at_the_bytes_and_equal_input_gives_equal_files(tmp_path: Path) -> None:
    noise, _, _, layout = write(tmp_path, "float16")
    first = (tmp_path / "n.arrow").read_bytes()
    assert layout == RecordLayout(layout.data_offset, 2 * 4 * 3 * 5 * 7)
    start = layout.data_offset + 4 * layout.stride
    assert first[start : start + layout.stride] == noise[4].half().numpy().tobytes()
    write(tmp_path, "float16")
    assert (tmp_path / "n.arrow").read_bytes() == first


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_any_flipped_bit_of_a_record_is_found(tmp_path: Path, dtype: str) -> None:
    _, shard, checksums, layout = write(tmp_path, dtype)
    content = bytearray((tmp_path / "n.arrow").read_bytes())
    places = [layout.data_offset + 2 * layout.stride, layout.data_offset + 3 * layout.stride - 1]
    if dtype == "int8":
        places += [layout.scale_offset + 2 * layout.scale_stride + 5]
    for place in places:
        content[place] ^= 1
        (tmp_path / "n.arrow").write_bytes(content)
        with pytest.raises(BankDamaged, match=r"n\.arrow: record 2 differs"):
            shard.record(2, checksums[2])
        content[place] ^= 1
        (tmp_path / "n.arrow").write_bytes(content)
        shard.record(2, checksums[2])


def test_a_truncated_missing_or_misdescribed_file_is_damage(tmp_path: Path) -> None:
    _, shard, checksums, layout = write(tmp_path, "float16")
    with pytest.raises(BankDamaged, match="no record 6"):
        shard.record(6, 0)
    content = (tmp_path / "n.arrow").read_bytes()
    (tmp_path / "n.arrow").write_bytes(content[: layout.data_offset + 6 * layout.stride - 1])
    with pytest.raises(BankDamaged, match="ends before byte"):
        shard.record(5, checksums[5])
    store = open_store(tmp_path)
    with pytest.raises(BankDamaged, match="are not float16"):
        NoiseShard(store, "n.arrow", 6, (4, 3, 5, 8), "float16", layout)
    (tmp_path / "n.arrow").unlink()
    with pytest.raises(BankDamaged, match="missing"):
        NoiseShard(store, "n.arrow", 6, SHAPE, "float16", layout)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_remote_shard_is_read_by_ranges(tmp_path: Path, dtype: str) -> None:
    noise, shard, checksums, layout = write(tmp_path, dtype)
    store = open_store("memory://test-noise-file-" + dtype)
    store.upload(tmp_path / "n.arrow", "n.arrow")
    remote = NoiseShard(store, "n.arrow", 6, SHAPE, dtype, layout)
    assert torch.equal(remote.record(4, checksums[4]), shard.record(4, checksums[4]))
    with pytest.raises(BankDamaged, match="differs from its checksum"):
        remote.record(3, checksums[4])
    store.delete("n.arrow")
    with pytest.raises(BankDamaged, match="missing"):
        remote.record(4, checksums[4])
    assert noise.shape[0] == remote.rows


def test_noise_of_another_shape_is_refused(tmp_path: Path) -> None:
    schema = noise_schema(SHAPE, "float16")
    with NoiseWriter(tmp_path / "n.arrow", schema) as writer:
        with pytest.raises(ShapeMismatch, match=r"\[4, 3, 5, 8\]: the schema takes \[4, 3, 5, 7\]"):
            writer.append(torch.zeros(4, 3, 5, 8), columns(schema, 0))
        with pytest.raises(ValueError, match="at least one record"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []
