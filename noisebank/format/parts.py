"""Manifest parts: Parquet files with one row per data file of a snapshot.

Kinds: ``clips`` (tars), ``sidecars`` (the Parquet files beside them), ``captions``, and the stages over clips by name
(``noise/<set>``). A commit adds a part for its new files and rewrites only the parts whose files it drops; few parts
are kept by merging small ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import BankDamaged
from noisebank.format.reading import verified_table
from noisebank.format.receipts import Receipt
from noisebank.format.schemas import PART
from noisebank.format.stage_names import CLIPS, SIDECARS
from noisebank.format.tables import merge_from, write_parquet
from noisebank.ids import Hashes
from noisebank.storage import BankWriter, FileEntry, Store

_LAYOUT = ("data_offset", "stride", "scale_offset", "scale_stride")


def kind_of(path: str) -> str:
    """The kind of a data file.

    >>> kind_of("clips/00.parquet"), kind_of("noise/modelscope/00.arrow")
    ('sidecars', 'noise/modelscope')
    """
    folder, _, name = path.rpartition("/")
    return SIDECARS if folder == CLIPS and not name.endswith(".tar") else folder


def part_rows(receipts: Iterable[Receipt]) -> dict[str, pa.Table]:
    """The manifest rows of the data files of receipts, by kind."""
    rows: dict[str, list[dict[str, object]]] = {}
    for receipt in receipts:
        for entry in receipt.files:
            row = {"key": entry.key, **asdict(entry), "stage": receipt.stage, "inputs": receipt.inputs}
            row |= {"fingerprint": receipt.fingerprint, **{name: receipt.info.get(name) for name in _LAYOUT}}
            rows.setdefault(kind_of(entry.path), []).append(row)
    return {kind: pa.Table.from_pylist(group, PART) for kind, group in rows.items()}


def read_parts(store: Store, entries: Sequence[FileEntry]) -> pa.Table:
    """The data files that manifest parts name, as one table (:data:`PART`) in no particular order.

    Raises:
        BankDamaged: a part is missing or damaged.
    """
    tables = [verified_table(store, entry, PART.names) for entry in entries]
    return pa.concat_tables([PART.empty_table(), *tables]).combine_chunks()


def part_entries(part: pa.Table) -> list[FileEntry]:
    """The data files of a table of :func:`read_parts`, sorted by path."""
    columns = [part.column(name).to_pylist() for name in ("path", "bytes", "sha256", "rows")]
    return sorted((FileEntry(*values) for values in zip(*columns, strict=True)), key=lambda entry: entry.path)


def find_entries(part: pa.Table, kind: str, keys: Iterable[int]) -> dict[int, FileEntry]:
    """The data files of a table of :func:`read_parts` by their keys; BankDamaged unless all of ``keys``, to which rows
    refer, are among them."""
    entries = {entry.key: entry for entry in part_entries(part)}
    if lost := set(keys) - entries.keys():
        raise BankDamaged(f"{kind} file {min(lost):016x}: rows refer to it, no manifest part names it; run verify")
    return entries


def update_parts(
    writer: BankWriter, entries: Sequence[FileEntry], new: pa.Table | None, live: Hashes
) -> tuple[tuple[FileEntry, ...], int]:
    """The parts of one kind after a commit, and the bytes of all files in them.

    Args:
        writer: of the bank.
        entries: the parts before.
        new: files to add; one that is there already is listed anew, for other options may have made the same content.
        live: keys of the files that some row refers to; all others are dropped.
    """
    tables = [read_parts(writer.store, [entry]) for entry in entries]
    kept = [table.filter(pc.field("key").isin(pa.array(live))) for table in tables]
    if new is not None:
        keys, first = np.unique(new.column("key").to_numpy(), return_index=True)
        kept = [table.filter(~pc.field("key").isin(pa.array(keys))) for table in kept]
        kept.append(new.take(pa.array(first)).filter(pc.field("key").isin(pa.array(live))))
    first_merged = merge_from([table.num_rows for table in kept])
    groups = [[i] for i in range(first_merged)] + [[*range(first_merged, len(kept))]] * (first_merged < len(kept))
    written = []
    for group in groups:
        table = pa.concat_tables([kept[i] for i in group])
        unchanged = len(group) == 1 and group[0] < len(tables) and table.num_rows == tables[group[0]].num_rows
        if unchanged:
            written.append(entries[group[0]])
        elif table.num_rows:
            written.append(write_parquet(writer, "parts", table.sort_by("key")))
    return tuple(written), sum(pc.sum(table.column("bytes")).as_py() or 0 for table in kept)
