"""Noise shards: one uncompressed Arrow IPC file of one record batch, from which a record is one slice of bytes.

Column ``noise`` is a fixed-shape tensor ``[C, F, H, W]`` of float16, or of int8 with one float32 scale a channel and
frame in column ``scale``. Where both columns begin is noted when the file is written, so a reader needs no footer: a
record is a slice of a memory map or one range request, and its XXH3-64 (values, then scales) is checked on every read.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

import numpy.typing as npt
import pyarrow as pa
import torch
import xxhash

from noisebank.errors import BankDamaged, ShapeMismatch
from noisebank.format.reading import reading
from noisebank.storage import Store

_INT8_MAX = 127
_TORCH = {"float16": torch.float16, "int8": torch.int8}
_NOTHING = torch.empty(0, dtype=torch.uint8)


@dataclass(frozen=True)
class RecordLayout:
    """Where the records of a noise shard are, in bytes from the start of the file.

    Args:
        data_offset: of the first record's values; the others follow every ``stride``.
        stride: bytes of one record's values.
        scale_offset: of the first record's scales; 0 where records have none.
        scale_stride: bytes of one record's scales.
    """

    data_offset: int
    stride: int
    scale_offset: int = 0
    scale_stride: int = 0

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> RecordLayout:
        """From what :meth:`NoiseWriter.finish` returned, wherever it was kept."""
        return cls(*(info.get(field.name) or 0 for field in fields(cls)))


def quantise(noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 with one scale a channel and frame: ``q = round(x / s)``, ``s = max |x| / 127`` over height and width.

    Args:
        noise: ``[..., H, W]`` float32.

    Returns:
        Values ``[..., H, W]`` int8 and scales ``[...]`` float32. Cosine with the original 0.99997 for Gaussian noise.
    """
    scale = noise.abs().amax(dim=(-2, -1)) / _INT8_MAX
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    values = (noise / divisor[..., None, None]).round().clamp(-_INT8_MAX, _INT8_MAX)
    return values.to(torch.int8), scale


def dequantise(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """``q s`` in float32: ``values`` ``[..., H, W]`` int8, ``scale`` ``[...]`` float32."""
    return values.float().mul_(scale[..., None, None])


def storage_roundtrip(noise: torch.Tensor, dtype: str) -> torch.Tensor:
    """``noise`` as it comes back from a record of ``dtype`` (``float16`` or ``int8``), in float32."""
    return dequantise(*quantise(noise)) if dtype == "int8" else noise.half().float()


class StoredRecord(NamedTuple):
    """A record as its file holds it: encoded values and scales, and the other columns."""

    schema: pa.Schema
    values: npt.NDArray[Any]
    scales: npt.NDArray[Any]
    columns: dict[str, Any]


def read_stored_records(path: Path, rows: Iterable[int]) -> Iterator[StoredRecord]:
    """Records of a local noise shard, one in memory at a time.

    Args:
        path: the file.
        rows: positions of the records.
    """
    with pa.memory_map(str(path)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
        names = [name for name in batch.schema.names if name not in ("noise", "scale")]
        beside = batch.select(names).to_pylist()
        for row in rows:
            values = batch.column("noise").storage.slice(row, 1).flatten().to_numpy(zero_copy_only=False)
            scales = _NOTHING.numpy()
            if "scale" in batch.schema.names:
                scales = batch.column("scale").slice(row, 1).flatten().to_numpy(zero_copy_only=False)
            yield StoredRecord(batch.schema, values, scales, beside[row])


class NoiseWriter:
    """Writes one noise shard record by record; of the noise it holds none.

    The values wait, encoded as they are stored, in unnamed files in the folder of ``path``; :meth:`finish` maps them
    into the one record batch. A context manager, which removes them.

    Args:
        path: local file to write.
        schema: whose column ``noise`` is a fixed-shape tensor; it decides shape and storage dtype.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._tensor: pa.FixedShapeTensorType = schema.field("noise").type
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.names if name not in ("noise", "scale")}
        self._values = TemporaryFile(dir=path.parent)  # noqa: SIM115  (closed by __exit__)
        self._scales = TemporaryFile(dir=path.parent)  # noqa: SIM115

    def __enter__(self) -> NoiseWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._values.close()
        self._scales.close()

    @property
    def rows(self) -> int:
        """Records written so far."""
        return len(self._columns["checksum"])

    def append(self, noise: torch.Tensor, columns: Mapping[str, Any]) -> None:
        """One more record.

        Args:
            noise: ``[C, F, H, W]`` float32, sigma-normalised.
            columns: its values of every column but ``noise``, ``scale`` and ``checksum``.

        Raises:
            ShapeMismatch: ``noise`` has another shape than the schema's records.
        """
        if list(noise.shape) != list(self._tensor.shape):
            raise ShapeMismatch(f"noise of shape {list(noise.shape)}: the schema takes {list(self._tensor.shape)}")
        values, scales = _encode(noise.detach().cpu().float(), self._tensor.value_type)
        checked = {**columns, "checksum": _checksum(values, scales)}
        self.copy(StoredRecord(self._schema, values, scales, checked))

    def copy(self, record: StoredRecord) -> None:
        """One more record as another shard of the same schema holds it, bit for bit."""
        for name, column in self._columns.items():
            column.append(record.columns[name])
        self._values.write(record.values.data)
        self._scales.write(record.scales.data)

    def read(self, row: int) -> torch.Tensor:
        """Record ``row`` as it will come back from the file, ``[C, F, H, W]`` float32."""
        shape = tuple(self._tensor.shape)
        if "scale" not in self._schema.names:
            return _read_part(self._values, row, torch.float16, shape).float()
        return dequantise(
            _read_part(self._values, row, torch.int8, shape), _read_part(self._scales, row, torch.float32, shape[:2])
        )

    def note(self, row: int, **columns: Any) -> None:
        """Sets columns of a record that is written already."""
        for name, value in columns.items():
            self._columns[name][row] = value

    def finish(self, without: Collection[int] = ()) -> dict[str, int]:
        """Writes the file.

        Args:
            without: records that are left out after all.

        Returns:
            ``data_offset`` and ``stride``, and for int8 ``scale_offset`` and ``scale_stride`` (:class:`RecordLayout`).

        Raises:
            ValueError: there is no record.
        """
        if self.rows == len(without):
            raise ValueError(f"{self._path}: a noise shard has at least one record")
        noise = _map_values(self._values, self._tensor.value_type, math.prod(self._tensor.shape))
        arrays: dict[str, pa.Array] = {"noise": pa.ExtensionArray.from_storage(self._tensor, noise)}
        if "scale" in self._schema.names:
            scale_type = self._schema.field("scale").type
            arrays["scale"] = _map_values(self._scales, scale_type.value_type, scale_type.list_size)
        for name, column in self._columns.items():
            arrays[name] = pa.array(column, self._schema.field(name).type)
        batch = pa.record_batch([arrays[name] for name in self._schema.names], schema=self._schema)
        if without:
            batch = batch.filter(pa.array([row not in without for row in range(self.rows)]))
        with pa.OSFile(str(self._path), "wb") as sink, pa.ipc.new_file(sink, self._schema) as writer:
            writer.write_batch(batch)
        return _record_layout(self._path)


class LatentsFile:
    """The latents of a shard's clips, float32, in an unnamed file until it is known which are needed again.

    Args:
        folder: where the file is.
    """

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115  (closed by __exit__)
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> LatentsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, latents: torch.Tensor) -> None:
        """The next clip's, ``[C, F, H, W]`` float32 on the CPU; all have one shape."""
        self._shape = tuple(latents.shape)
        self._file.write(latents.contiguous().numpy().data)

    def read(self, row: int) -> torch.Tensor:
        """Those of clip ``row``, from 0."""
        return _read_part(self._file, row, torch.float32, self._shape)


def _record_layout(path: Path) -> dict[str, int]:
    """Where the records of a local noise shard are, read from its footer (see :class:`RecordLayout`)."""
    with pa.memory_map(str(path)) as source:
        start = source.read_buffer(source.size()).address
        source.seek(0)
        batch = pa.ipc.open_file(source).get_batch(0)
        places = {("data_offset", "stride"): batch.column("noise").storage}
        if "scale" in batch.schema.names:
            places["scale_offset", "scale_stride"] = batch.column("scale")
        layout = {}
        for (offset, stride), column in places.items():
            values = column.flatten()
            item = values.type.bit_width // 8
            layout[offset] = values.buffers()[1].address - start + values.offset * item
            layout[stride] = column.type.list_size * item
    return layout


class NoiseShard:
    """An open noise shard: memory-mapped where it is local, read by range requests where it is not.

    Args:
        store: the bank.
        path: of the shard in it.
        rows: its records.
        shape: ``(C, F, H, W)`` of a record.
        dtype: ``float16`` or ``int8``.
        layout: where the records are.
        in_turn: whether they will be read one after the other.

    Raises:
        BankDamaged: the file is missing or too short.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        rows: int,
        shape: tuple[int, ...],
        dtype: str,
        layout: RecordLayout,
        in_turn: bool = False,
    ) -> None:
        self.path, self.rows, self._store, self._shape, self._layout = path, rows, store, shape, layout
        self._dtype = _TORCH[dtype]
        items = math.prod(shape)
        scale_bytes = shape[0] * shape[1] * torch.float32.itemsize if dtype == "int8" else 0
        if layout.stride != items * self._dtype.itemsize or layout.scale_stride != scale_bytes:
            raise BankDamaged(f"{path}: records of {layout.stride} bytes are not {dtype} {list(shape)}; run verify")
        self._mapped: mmap.mmap | None = None
        if local := store.local_path(path):
            with reading(path), local.open("rb") as file:
                # (a private mapping, because torch takes no read-only memory; nothing is written)
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._mapped.madvise(mmap.MADV_SEQUENTIAL if in_turn else mmap.MADV_RANDOM)
        self._in_turn = in_turn

    def record(self, row: int, checksum: int | None) -> torch.Tensor:
        """Record ``row`` as float32 ``[C, F, H, W]``.

        Raises:
            BankDamaged: the bytes are missing or differ from ``checksum``, if there is one.
        """
        if not 0 <= row < self.rows:
            raise BankDamaged(f"{self.path}: no record {row}, the shard has {self.rows}; run verify")
        values, scales = self._read(row)
        if checksum is not None and _checksum(values.numpy(), scales.numpy()) != checksum:
            values, scales = self._read_again(row, checksum)
        record = values.view(self._dtype).view(self._shape)
        if not self._layout.scale_stride:
            return record.float()
        return dequantise(record, scales.view(torch.float32).view(self._shape[:2]))

    def _read(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and scales of a record as bytes; of the memory map, or fetched side by side."""
        layout = self._layout
        values = layout.data_offset + row * layout.stride, layout.stride
        scales = layout.scale_offset + row * layout.scale_stride, layout.scale_stride
        if self._mapped is not None:
            return self._slice(self._mapped, *values), self._slice(self._mapped, *scales) if scales[1] else _NOTHING
        with reading(self.path):
            if scales[1]:
                fetched = self._store.read_ranges(self.path, [values, scales])
            else:
                fetched = [self._store.read_range(self.path, *values)]
        for data, (offset, length) in zip(fetched, (values, scales), strict=False):
            self._check_end(len(data), length, offset)
        parts = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in fetched]
        return parts[0], parts[1] if scales[1] else _NOTHING

    def _read_again(self, row: int, checksum: int) -> tuple[torch.Tensor, torch.Tensor]:
        """:meth:`_read` of a record whose kept copy is damaged; BankDamaged if there is none, or the bank's is, too."""
        if self._store.forget(self.path):
            self._mapped = None
            values, scales = self._read(row)
            if _checksum(values.numpy(), scales.numpy()) == checksum:
                return values, scales
            self._store.forget(self.path)
        raise BankDamaged(f"{self.path}: record {row} differs from its checksum; run verify")

    def _slice(self, mapped: mmap.mmap, offset: int, length: int) -> torch.Tensor:
        """uint8 ``[length]`` from ``offset`` of the memory map."""
        self._check_end(mapped.size() - offset, length, offset)  # (the file may have been cut since)
        if length > mmap.PAGESIZE and not self._in_turn:
            page = offset - offset % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, offset + length - page)
        return torch.frombuffer(mapped, dtype=torch.uint8, count=length, offset=offset)

    def _check_end(self, found: int, length: int, offset: int) -> None:
        if found < length:
            raise BankDamaged(f"{self.path}: ends before byte {offset + length}; run verify")


def _checksum(values: npt.NDArray[Any], scales: npt.NDArray[Any]) -> int:
    digest = xxhash.xxh3_64(values.data)
    digest.update(scales.data)
    return digest.intdigest()


def _encode(noise: torch.Tensor, values: pa.DataType) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Values and scales of one record as they are stored; float16 has no scales."""
    if values == pa.int8():
        quantised, scale = quantise(noise)
        return quantised.contiguous().numpy(), scale.contiguous().numpy()
    return noise.half().contiguous().numpy(), _NOTHING.numpy()


def _read_part(file: IO[bytes], row: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Values of one record of a file in which those of all records follow each other."""
    size = math.prod(shape) * dtype.itemsize
    file.flush()
    content = bytearray(os.pread(file.fileno(), size, row * size))
    return torch.frombuffer(content, dtype=dtype).view(shape)


def _map_values(file: IO[bytes], values: pa.DataType, list_size: int) -> pa.FixedSizeListArray:
    """The content of a file as lists of ``list_size`` values, without reading it."""
    file.flush()
    content = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    items = content.size // (values.bit_width // 8)
    return pa.FixedSizeListArray.from_arrays(pa.Array.from_buffers(values, items, [None, content]), list_size)
