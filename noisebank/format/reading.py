"""The one door to the files of a bank: whatever is wrong with one becomes BankDamaged, with its name and the remedy.

Files are read as they are, or *verified*: compared with the size and the sha256 that a manifest or receipt states, up
to 1 GiB a file; beyond, and for record after record, other checks take over. What is remote is copied to this machine
once, and always compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.errors import BankDamaged
from noisebank.storage import FileEntry, Store, file_sha256, open_store
from noisebank.storage.base import checked_key

PARQUET = ".parquet"
VERIFY = "run verify"
"""What to do about damage in a snapshot."""
BUILD_AGAIN = "run the build again, which makes it again"
"""What to do about damage in work that no snapshot has."""
PLAN_AGAIN = "run the build again, which plans anew"
"""What to do about damage in a plan."""
VERIFIED_BYTES = 1 << 30
_CHUNK = 1 << 20


@contextmanager
def reading(path: str, remedy: str = "") -> Iterator[None]:
    """Whatever the libraries say inside of a file that is missing or cannot be read is BankDamaged.

    Args:
        path: of the file in the bank.
        remedy: what to do about it; by default, to verify the bank, or of a plan's file to build again.
    """
    remedy = remedy or (PLAN_AGAIN if path.startswith("plans/") else VERIFY)
    try:
        yield
    except FileNotFoundError as error:
        raise BankDamaged(f"{path}: missing; {remedy}") from error
    except (pa.ArrowException, OSError, EOFError) as error:
        cause = " ".join(str(error).split())
        raise BankDamaged(f"{path}: cannot be read ({cause}); {remedy}") from error


def read_table(
    store: Store,
    path: str,
    columns: Sequence[str] | None = None,
    *,
    without: Collection[str] = (),
    remedy: str = "",
) -> pa.Table:
    """A Parquet or Arrow file, as it is; of the columns that are not asked for no byte is read.

    Args:
        store: the bank.
        path: of the file in it; its suffix says which of the two it is.
        columns: those wanted; by default all.
        without: columns to leave out.
        remedy: what to do if it is damaged.

    Raises:
        BankDamaged: it is missing or cannot be read.
    """
    with reading(path, remedy), store.open(path) as file:
        if path.endswith(PARQUET):
            table = pq.read_table(file, columns=columns and list(columns))
        else:
            names = pa.ipc.open_file(file).schema.names
            kept = [i for i, name in enumerate(names) if name not in without and name in (columns or names)]
            file.seek(0)
            table = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=kept)).read_all()
        return table.select(columns) if columns else table


def read_records(store: Store, entry: FileEntry) -> pa.Table:
    """Number and checksum of each record of a data file of a stage over clips; 0 where it has no checksums."""
    table = read_table(store, entry.path, without=("noise", "scale"))
    if "checksum" not in table.column_names:
        table = table.append_column("checksum", pa.array(np.zeros(table.num_rows, np.uint64)))
    return table.select(["num", "checksum"])


def verified_path(store: Store, entry: FileEntry, scratch: Path) -> Path:
    """A local path with the content of ``entry``: the file itself, or a copy under the same name in ``scratch``.

    Raises:
        BankDamaged: the file is missing, has another size, or differs from its sha256.
    """
    path = store.local_path(entry.path)
    with reading(entry.path):
        if path is None:
            path, digest = _copy(store, entry, scratch)
        else:
            small = path.stat().st_size == entry.bytes <= VERIFIED_BYTES
            digest = file_sha256(path) if small else entry.sha256
        size = path.stat().st_size
    if size != entry.bytes:
        raise BankDamaged(f"{entry.path}: {size} bytes, the manifest says {entry.bytes}; {VERIFY}")
    if digest != entry.sha256:
        raise BankDamaged(f"{entry.path}: differs from its checksum; {VERIFY}")
    return path


def verified_store(store: Store, entries: Iterable[FileEntry], scratch: Path) -> Store:
    """A store that has ``entries`` as they should be: ``store`` itself, or one over copies in ``scratch``.

    Raises:
        BankDamaged: as :func:`verified_path`.
    """
    local = [verified_path(store, entry, scratch).is_relative_to(scratch) for entry in entries]
    return open_store(scratch) if any(local) else store


def verified_bytes(store: Store, entry: FileEntry) -> bytes:
    """The content of a small file.

    Raises:
        BankDamaged: the file is missing or differs from its sha256.
    """
    with reading(entry.path):
        content = store.read(entry.path)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BankDamaged(f"{entry.path}: differs from its checksum; {VERIFY}")
    return content


def verified_table(store: Store, entry: FileEntry, columns: Sequence[str] | None = None) -> pa.Table:
    """A small Parquet file, all of it or some columns; errors as :func:`verified_bytes`."""
    return pq.read_table(pa.BufferReader(arrow_buffer(verified_bytes(store, entry))), columns=columns)


def arrow_buffer(content: bytes) -> pa.Buffer:
    """A copy in Arrow's own memory.

    Arrow's threads free what they read when they are done with it; memory of Python's, freed by one of them while the
    interpreter ends, would abort the process.
    """
    buffer = pa.allocate_buffer(len(content))
    memoryview(buffer).cast("B")[:] = content
    return buffer


def _copy(store: Store, entry: FileEntry, scratch: Path) -> tuple[Path, str]:
    path = scratch / checked_key(entry.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with store.open(entry.path) as source, path.open("wb") as target:
        while piece := source.read(_CHUNK):
            digest.update(piece)
            target.write(piece)
    return path, digest.hexdigest()
