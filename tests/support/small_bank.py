"""A bank of real files made by hand, without Beam, models or videos: for tests of the format and the writer."""

import hashlib
import itertools
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from noisebank.commits.commit import commit
from noisebank.commits.delta import CommitInfo, Delta
from noisebank.format.manifest import IndexSegment, Snapshot, latest_snapshot
from noisebank.format.receipts import Failure, Receipt, finish, inputs_hash
from noisebank.format.schemas import CLIPS, ENTRIES, FAILURES, RECORDS, ROWS, captions_schema, noise_schema
from noisebank.format.shards import ShardSample, write_shard
from noisebank.format.status import Status
from noisebank.ids import clip_number, source_number, xxh64
from noisebank.storage import BankWriter, Store

SET = "toy"
SHAPE = (1, 2, 2, 2)
DIM = 4
FINGERPRINTS = {"clips": "c1", "captions": "t1", f"noise/{SET}": "n1"}
_runs = itertools.count()


def num_of(id: str) -> int:
    """The number of an id."""
    return clip_number(id)


@dataclass
class Made:
    """What a build of some clips made, ready to commit."""

    delta: Delta
    receipts: dict[str, Receipt] = field(default_factory=dict)


def source_of(id: str) -> str:
    """The source of an id."""
    return id.partition("-")[0]


def make(store: Store, captions: Mapping[str, str], *, failed: Iterable[str] = (), vacuum: int = 0) -> Made:
    """One shard with a clip, caption, noise record and index entry for each id of ``captions``; ``failed`` ids fail."""
    ids = sorted(captions, key=num_of)
    with tempfile.TemporaryDirectory() as scratch:
        clips = _clips(BankWriter(store, vacuum), Path(scratch), ids, captions, list(failed))
        texts = _captions(BankWriter(store, vacuum), Path(scratch), ids, captions)
        noise = _noise(BankWriter(store, vacuum), Path(scratch), ids, captions)
        index, indexed = _index(BankWriter(store, vacuum), Path(scratch), ids, captions)
    rows = [
        _row(id, clips.files[0].key, i, texts.files[0].key, Status.OK, caption=captions[id]) for i, id in enumerate(ids)
    ]
    rows += [_row(id, 0, -1, 0, Status.FAILED) for id in failed]
    records = [
        {
            "num": num_of(id),
            "file": noise.files[0].key,
            "row": i,
            "checksum": _checksum(noise_of(id, captions[id])),
            "status": 0,
        }
        for i, id in enumerate(ids)
    ]
    receipts = {"clips": clips, "captions": texts, "noise": noise, "index": indexed}
    delta = Delta(
        rows=[table(rows, ROWS)],
        records={SET: [table(records, RECORDS)]},
        failures=[table([failure(id) for id in failed], FAILURES)],
        receipts=list(receipts.values()),
        index=index,
    )
    return Made(delta, receipts)


def remove(ids: Iterable[str]) -> Delta:
    """Tombstones of ``ids``."""
    ids = list(ids)
    rows = [_row(id, 0, -1, 0, Status.REMOVED) for id in ids]
    records = [{"num": num_of(id), "file": 0, "row": -1, "checksum": 0, "status": Status.REMOVED} for id in ids]
    return Delta(rows=[table(rows, ROWS)], records={SET: [table(records, RECORDS)]})


def publish(
    store: Store, delta: Delta, parent: Snapshot | None = None, *, newest: bool = True, **info: object
) -> Snapshot:
    """Commits ``delta``, planned on the newest snapshot or (``newest=False``) on ``parent``."""
    values: dict[str, object] = {"run_id": f"run{next(_runs)}", "fingerprints": FINGERPRINTS, "noise_sets": (SET,)}
    values |= {
        "sources": ("a", "b"),
        "models": {"captions": {"model": "toy"}, f"noise/{SET}": {"shape": list(SHAPE)}},
        **info,
    }
    return commit(store, latest_snapshot(store) if newest else parent, delta, CommitInfo(**values))


def table(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    """Rows as a table sorted by num."""
    return pa.Table.from_pylist(sorted(rows, key=lambda row: (row["num"], row.get("stage", ""))), schema)


def failure(id: str, code: str = "http_404", stage: str = "clips") -> dict[str, object]:
    """A failure row; an empty code heals it."""
    return {
        "num": num_of(id), "id": id, "source": source_of(id), "uri": f"{id}.mp4", "stage": stage, "code": code,
        "message": "gone", "retryable": False, "attempts": 1, "first_snapshot": 0, "last_snapshot": 0,
    }  # fmt: skip


def noise_of(id: str, caption: str) -> npt.NDArray[np.float16]:
    """The noise of a clip, [C, F, H, W]."""
    return np.random.default_rng([num_of(id), len(caption)]).normal(size=SHAPE).astype(np.float16)


def vector_of(caption: str) -> npt.NDArray[np.float32]:
    """The embedding of a caption, [D], of length one."""
    vector = np.random.default_rng(xxh64(caption)).normal(size=DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def decoded_files(store: Store) -> dict[str, bytes]:
    """Every file of a bank by its key, the columns of Parquet files decoded."""
    files = {}
    for key in store.list(""):
        files[key] = store.read(key)
        if key.endswith(".parquet"):
            for column in pq.read_table(pa.BufferReader(files[key])).columns:
                buffers = [buffer for chunk in column.chunks for buffer in chunk.buffers()]
                files[key] += b"".join(buffer.to_pybytes() for buffer in buffers if buffer)
    return files


def _checksum(noise: npt.NDArray[np.float16]) -> int:
    return xxhash.xxh3_64_intdigest(noise.tobytes())


def _mp4(id: str) -> bytes:
    return f"video of {id} ".encode() * 50


def _sha256(id: str) -> str:
    return hashlib.sha256(_mp4(id)).hexdigest()


def _row(id: str, clip: int, row: int, caption_file: int, status: Status, caption: str = "") -> dict[str, object]:
    return {
        "num": num_of(id), "source": source_number(source_of(id)), "listed": 1, "video": 1 if clip else 0,
        "caption": xxh64(caption) if caption_file else 0,
        "clip_file": clip, "clip_row": row, "caption_file": caption_file, "caption_row": row, "status": int(status),
    }  # fmt: skip


def _receipt(
    store: Store,
    stage: str,
    ids: list[str],
    files: tuple[object, ...],
    texts: Iterable[str],
    failures: tuple[Failure, ...] = (),
    **info: int,
) -> Receipt:
    inputs = inputs_hash(FINGERPRINTS.get(stage, "x"), pa.array(ids), pa.array(list(texts)))
    return finish(store, Receipt(stage, inputs, "x", files, len(ids), failures, info))


def _clips(
    writer: BankWriter, scratch: Path, ids: list[str], captions: Mapping[str, str], failed: list[str]
) -> Receipt:
    tar, sidecar = scratch / "x.tar", scratch / "x.parquet"
    write_shard(tar, [ShardSample(id, _mp4(id), captions[id], {"id": id, "caption": captions[id]}) for id in ids])
    rows = [
        {
            "num": num_of(id),
            "id": id,
            "source": source_of(id),
            "uri": f"{id}.mp4",
            "caption": captions[id],
            "caption_hash": xxh64(captions[id]),
            "attempt": 1,
            "clip_row": i,
            "sha256": _sha256(id),
        }
        for i, id in enumerate(ids)
    ]
    rows += [
        {"num": num_of(id), "id": id, "uri": f"{id}.mp4", "caption": f"of {id}", "clip_row": -1, "code": "http_404"}
        for id in failed
    ]
    pq.write_table(table(rows, CLIPS), sidecar)
    files = writer.group([(tar, ".tar", len(ids)), (sidecar, ".parquet", len(rows))], "clips")
    failures = tuple(
        Failure(num_of(id), id, source_of(id), f"{id}.mp4", "clips", "http_404", "gone", False, 1) for id in failed
    )
    return _receipt(writer.store, "clips", ids, files, captions.values(), failures)


def _captions(writer: BankWriter, scratch: Path, ids: list[str], captions: Mapping[str, str]) -> Receipt:
    path = scratch / "captions.parquet"
    rows = [
        {
            "num": num_of(id),
            "id": id,
            "source": source_of(id),
            "caption": captions[id],
            "embedding": vector_of(captions[id]),
        }
        for id in ids
    ]
    pq.write_table(pa.Table.from_pylist(rows, captions_schema(DIM)), path)
    return _receipt(
        writer.store,
        "captions",
        ids,
        (writer.file(path, "captions", ".parquet", len(ids)),),
        captions.values(),
    )


def _noise(writer: BankWriter, scratch: Path, ids: list[str], captions: Mapping[str, str]) -> Receipt:
    path = scratch / "noise.arrow"
    schema = noise_schema(SHAPE, "float16")
    values = np.stack([noise_of(id, captions[id]) for id in ids])
    columns = {
        "num": [num_of(id) for id in ids],
        "id": ids,
        "sha256": [_sha256(id) for id in ids],
        "checksum": [_checksum(value) for value in values],
        "noise": pa.FixedShapeTensorArray.from_numpy_ndarray(values),
    }
    arrays = [pa.nulls(len(ids), f.type) if f.name not in columns else columns[f.name] for f in schema]
    arrays = [pa.array(a, f.type) if isinstance(a, list) else a for a, f in zip(arrays, schema, strict=True)]
    with pa.ipc.new_file(path, schema) as file:
        file.write_batch(pa.record_batch(arrays, schema=schema))
    entry = writer.file(path, f"noise/{SET}", ".arrow", len(ids))
    return _receipt(writer.store, f"noise/{SET}", ids, (entry,), captions.values(), data_offset=64, stride=16)


def _index(
    writer: BankWriter, scratch: Path, ids: list[str], captions: Mapping[str, str]
) -> tuple[IndexSegment, Receipt]:
    path = scratch / "entries.parquet"
    rows = [{"num": num_of(id), "id": id, "source": source_of(id), "caption": captions[id]} for id in ids]
    pq.write_table(pa.Table.from_pylist(rows, ENTRIES), path)
    entries = writer.file(path, "index", ".parquet", len(ids))
    flat = faiss.IndexFlatIP(DIM)
    flat.add(np.stack([vector_of(captions[id]) for id in ids]))
    index = writer.data(faiss.serialize_index(flat).tobytes(), "index", ".faiss", len(ids))
    info = writer.data(f"{xxh64(str(ids))}".encode(), "index", ".json", 1)
    segment = IndexSegment(index, entries, info, None, "Flat", len(ids), 1.0)
    return segment, _receipt(writer.store, "index", ids, (index, entries, info), captions.values())
