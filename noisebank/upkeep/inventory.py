"""What a vacuum knows of a bank: its listing, and what manifest parts and receipts name, each read once.

Whoever commits while a vacuum looks around makes it look again, and only what is new costs anything then. The listing
is of one moment: a file that was written later is not in it, and stays; a file in it that a later snapshot refers to
stays because that snapshot is read.
"""

from __future__ import annotations

import time
from collections.abc import Set
from contextlib import suppress
from functools import cache

from noisebank.format.layout import is_ours
from noisebank.format.manifest import FOLDER, Snapshot
from noisebank.format.parts import read_parts
from noisebank.format.receipts import read_receipt, receipt_path
from noisebank.storage import FileEntry, Store, StoredFile


class Inventory:
    """The files of a bank, and which of them refer to which.

    Args:
        store: the bank; it is listed now.

    Attributes:
        files: by key, all with names of a bank's, snapshots excepted.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        listed = (file for file in store.scan() if is_ours(file.key) and not file.key.startswith(f"{FOLDER}/"))
        self.files = {file.key: file for file in listed}
        self._paths_in = cache(self._read_part)
        self.receipt_paths = cache(self._read_receipt)

    def add(self, paths: Set[str]) -> None:
        """Adds those of the files that were written after the listing."""
        for path in filter(is_ours, paths - self.files.keys()):
            with suppress(FileNotFoundError):
                self.files[path] = StoredFile(path, self.store.size(path), time.time())

    def paths(self, snapshot: Snapshot) -> set[str]:
        """The files and receipts of a snapshot.

        Raises:
            BankDamaged: one of its manifest parts is missing or damaged.
        """
        own = {entry.path for entry in snapshot.own_files}
        return own.union(*(self._paths_in(part) for parts in snapshot.parts.values() for part in parts))

    def _read_part(self, entry: FileEntry) -> set[str]:
        """The files that a manifest part names, and their receipts."""
        part = read_parts(self.store, [entry])
        stages, inputs, paths = (part.column(name).to_pylist() for name in ("stage", "inputs", "path"))
        return {*paths, *map(receipt_path, stages, inputs)}

    def _read_receipt(self, path: str) -> frozenset[str] | None:
        """The files that the receipt at ``path`` names; None if it is gone, damaged or something else."""
        receipt = read_receipt(self.store, path)
        return None if receipt is None else frozenset(entry.path for entry in receipt.files)
