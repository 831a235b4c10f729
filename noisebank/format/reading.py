"""The one door to the files of a bank: whatever is wrong with one becomes BankDamaged, with its name and the remedy.

Files are read as they are, or *verified*: compared with the size and the sha256 that a manifest or receipt states, up
to 1 GiB a file; beyond, and for record after record, other checks take over. What is remote is copied to this machine
once, and always compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.errors import BankDamaged, remedy_of
from noisebank.format.schemas import schema_of
from noisebank.storage import FileEntry, Store, file_sha256, open_store

PARQUET = ".parquet"
BUILD_AGAIN = "run the build again, which makes it again"
"""What to do about damage in work that no snapshot has."""
VERIFIED_BYTES = 1 << 30


@contextmanager
def reading(path: str, remedy: str = "") -> Iterator[None]:
    """Whatever the libraries say inside of a file that is missing or cannot be read is BankDamaged.

    Args:
        path: of the file in the bank.
        remedy: what to do about it; by default what its path says.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise BankDamaged(f"{path}: missing; {remedy or remedy_of(path)}") from error
    except (pa.ArrowException, OSError, EOFError, ValueError, OverflowError) as error:
        cause = " ".join(str(error).split())
        raise BankDamaged(f"{path}: cannot be read ({cause}); {remedy or remedy_of(path)}") from error


def check_columns(path: str, found: pa.Schema, names: Iterable[str], schema: pa.Schema, remedy: str = "") -> None:
    """Refuses a file without the columns ``names``, each of the type that it has in ``schema`` if it is there.

    Raises:
        BankDamaged: names the file and the column.
    """
    for name in names:
        at = found.get_field_index(name)
        if at < 0 or (name in schema.names and found.field(at).type.id != schema.field(name).type.id):
            says = f"column {name!r} is missing, there twice, or of another type"
            raise BankDamaged(f"{path}: {says}; {remedy or remedy_of(path)}")


def read_table(
    store: Store, path: str, columns: Sequence[str] | None = None, *, without: Collection[str] = (), remedy: str = ""
) -> pa.Table:
    """A Parquet or Arrow file, as it is; of the columns that are not asked for no byte is read.

    Args:
        store: the bank.
        path: of the file in it; its suffix says which of the two it is.
        columns: those wanted; by default all.
        without: columns to leave out.
        remedy: what to do if it is damaged; by default what its path says.

    Raises:
        BankDamaged: it is missing, cannot be read, or lacks a column.
    """
    with reading(path, remedy), store.open(path) as file:
        return _parse_table(file, path, columns, without, remedy)


def read_records(store: Store, entry: FileEntry) -> pa.Table:
    """Number and checksum of each record of a file, yet unpublished, of a stage over clips; 0 where it has no
    checksums."""
    table = read_table(store, entry.path, without=("noise", "scale"), remedy=BUILD_AGAIN)
    if "checksum" not in table.column_names:
        table = table.append_column("checksum", pa.array(np.zeros(table.num_rows, np.uint64)))
    return table.select(["num", "checksum"])


def verified_path(store: Store, entry: FileEntry, scratch: Path) -> Path:
    """A local path with the content of ``entry``: the file itself, or a copy under the same name in ``scratch``.

    Raises:
        BankDamaged: the file is missing, has another size, or differs from its sha256.
    """
    here = store.local_path(entry.path)
    with reading(entry.path):
        path = here or store.fetch(entry.path, scratch)
        size = path.stat().st_size
        checked = here is None or size == entry.bytes <= VERIFIED_BYTES
        digest = file_sha256(path) if checked else entry.sha256
    if (size, digest) != (entry.bytes, entry.sha256) and store.forget(entry.path) and here:
        return verified_path(store, entry, scratch)  # (a copy that this machine had kept was damaged)
    if size != entry.bytes:
        raise BankDamaged(f"{entry.path}: {size} bytes, the manifest says {entry.bytes}; run verify")
    if digest != entry.sha256:
        raise BankDamaged(f"{entry.path}: differs from its checksum; run verify")
    return path


def verified_store(store: Store, entries: Iterable[FileEntry], scratch: Path) -> Store:
    """A store that has ``entries`` as they should be: ``store`` itself, or one over copies in ``scratch``.

    Raises:
        BankDamaged: as :func:`verified_path`.
    """
    local = [verified_path(store, entry, scratch).is_relative_to(scratch) for entry in entries]
    return open_store(scratch) if any(local) else store


def verified_table(store: Store, entry: FileEntry, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet or Arrow file, all of it or some columns; errors as :func:`verified_path` and :func:`read_table`."""
    is_local = store.local_path(entry.path) is not None  # (where a folder for a copy would cost more than the file)
    with nullcontext("") if is_local else tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
        path = verified_path(store, entry, Path(scratch))
        with reading(entry.path), pa.OSFile(str(path)) as file:
            return _parse_table(file, entry.path, columns)


def _parse_table(
    file: Any, path: str, columns: Sequence[str] | None, without: Collection[str] = (), remedy: str = ""
) -> pa.Table:
    reader = pq.ParquetFile(file) if path.endswith(PARQUET) else pa.ipc.open_file(file)
    found = reader.schema_arrow if path.endswith(PARQUET) else reader.schema
    wanted = schema_of(path)
    check_columns(path, found, columns or set(wanted.names) - set(without), wanted, remedy)
    names = list(columns or (name for name in found.names if name not in without))
    if path.endswith(PARQUET):
        return reader.read(names).select(names)
    file.seek(0)
    included = pa.ipc.IpcReadOptions(included_fields=[found.get_field_index(name) for name in names])
    return pa.ipc.open_file(file, options=included).read_all().select(names)
