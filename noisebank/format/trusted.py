"""Files of a bank as a reader trusts them: there, of the right size, and of the right content.

Content is compared with the manifest's sha256 up to 1 GiB a file; beyond, and for record after record, other checks
take over. What is remote is copied to this machine once, and always compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.errors import BankDamaged
from noisebank.storage import FileEntry, Store, file_sha256, open_store
from noisebank.storage.base import checked_key

VERIFIED_BYTES = 1 << 30
_CHUNK = 1 << 20


def trusted_path(store: Store, entry: FileEntry, scratch: Path) -> Path:
    """A local path with the content of ``entry``: the file itself, or a copy under the same name in ``scratch``.

    Raises:
        BankDamaged: the file is missing, has another size, or differs from its sha256.
    """
    path = store.local_path(entry.path)
    try:
        if path is None:
            path, digest = _copy(store, entry, scratch)
        else:
            small = path.stat().st_size == entry.bytes <= VERIFIED_BYTES
            digest = file_sha256(path) if small else entry.sha256
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise BankDamaged(f"{entry.path}: missing; run verify") from error
    if size != entry.bytes:
        raise BankDamaged(f"{entry.path}: {size} bytes, the manifest says {entry.bytes}; run verify")
    if digest != entry.sha256:
        raise BankDamaged(f"{entry.path}: differs from its checksum; run verify")
    return path


def trusted_store(store: Store, entries: Iterable[FileEntry], scratch: Path) -> Store:
    """A store that has ``entries`` as they should be: ``store`` itself, or one over copies in ``scratch``.

    Raises:
        BankDamaged: as :func:`trusted_path`.
    """
    local = [trusted_path(store, entry, scratch).is_relative_to(scratch) for entry in entries]
    return open_store(scratch) if any(local) else store


def trusted_bytes(store: Store, entry: FileEntry) -> bytes:
    """The content of a small file.

    Raises:
        BankDamaged: the file is missing or differs from its sha256.
    """
    try:
        content = store.read(entry.path)
    except FileNotFoundError as error:
        raise BankDamaged(f"{entry.path}: missing; run verify") from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BankDamaged(f"{entry.path}: differs from its checksum; run verify")
    return content


def trusted_table(store: Store, entry: FileEntry, columns: Sequence[str] | None = None) -> pa.Table:
    """A small Parquet file, all of it or some columns.

    Raises:
        BankDamaged: the file is missing or differs from its sha256.
    """
    return pq.read_table(pa.BufferReader(arrow_buffer(trusted_bytes(store, entry))), columns=columns)


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
