"""The rewrites in a folder: which files hold, and looking prompts up in them.

``rewrites/`` has the files with their receipts; ``manifests/<number>.json``, created only if absent, names those that
hold. One that was refused because too many prompts failed is there for the next run alone: nobody looks anything up in
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from noisebank.decode import decode
from noisebank.errors import BankNotFound, PromptNotFound, UnsupportedFormat
from noisebank.format.manifest import open_apart
from noisebank.format.reading import verified_table
from noisebank.format.schemas import REWRITE_ROWS
from noisebank.format.sealed import seal, unseal
from noisebank.storage import FileEntry, Store

FORMAT = 1
_FOLDER = "manifests"


@dataclass(frozen=True)
class Shard:
    """One file of rewrites.

    Args:
        prompts: hash of the prompts in it.
        fingerprint: of the options and the model that made it.
        file: the file.
        failed: rows without a rewrite, by code.
    """

    prompts: str
    fingerprint: str
    file: FileEntry
    failed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Which files hold.

    Args:
        number: from 1.
        shards: oldest first; where several have a prompt, the last one holds.
        refused: why nobody may use it; empty: it is published.
        format: version of the folder's layout.
    """

    number: int = 0
    shards: tuple[Shard, ...] = ()
    refused: str = ""
    format: int = FORMAT

    @property
    def path(self) -> str:
        """Where it is stored."""
        return f"{_FOLDER}/{self.number:08}.json"

    def to_bytes(self) -> bytes:
        """As a sealed JSON document."""
        return seal(asdict(self))


def open_rewrites_store(uri: str | Path) -> Store:
    """The store of a folder of rewrites.

    Raises:
        ConfigError: it can be no store, or a bank is there.
    """
    return open_apart(uri, "rewrites")


def latest_manifest(store: Store, *, refused: bool = False) -> Manifest | None:
    """The newest manifest, of those that are published or (``refused``) of all; None where there is none.

    Raises:
        UnsupportedFormat: a newer version of noisebank wrote it.
        BankDamaged: it differs from its digest, or is none.
    """
    for path in reversed([path for path in store.list(_FOLDER) if path.endswith(".json")]):
        document = unseal(store.read(path), path)
        if isinstance(format := document.get("format"), int) and format > FORMAT:
            raise UnsupportedFormat(f"{path}: format {format}; this version reads up to {FORMAT}; install a newer one")
        manifest: Manifest = decode(document, Manifest, path)
        if refused or not manifest.refused:
            return manifest
    return None


class Rewrites(Mapping[str, str]):
    """The rewrites of a folder that ``noisebank rewrite`` made, by prompt; see :meth:`open`.

    >>> rewrites = Rewrites.open("./rewrites")                                           # doctest: +SKIP
    >>> rewrites["a dog on the beach"]                                                   # doctest: +SKIP
    'a small brown dog runs along the beach'

    Attributes:
        table: all rows (:data:`noisebank.format.schemas.REWRITE_ROWS`): one a prompt, and those that are no prompts.
    """

    def __init__(self, url: str, table: pa.Table) -> None:
        prompts = table.column("prompt").to_pylist()
        last = {prompt: i for i, prompt in enumerate(prompts)}
        kept = [i for i, prompt in enumerate(prompts) if not prompt.strip() or last[prompt] == i]
        self.table = table.take(pa.array(kept, pa.int64())) if len(kept) < len(prompts) else table
        self._url = url
        self._rows = {prompts[row]: i for i, row in enumerate(kept) if prompts[row].strip()}

    @classmethod
    def open(cls, uri: str | Path) -> Rewrites:
        """Opens a folder and reads what was published in it last; no language model and no bank is needed.

        Args:
            uri: local path, ``gs://``, ``s3://``, ``az://`` or ``memory://``.

        Raises:
            BankNotFound: no rewrites are published there.
            BankDamaged: a file is missing or differs from its checksum.
            UnsupportedFormat: a newer version of noisebank wrote it.
        """
        store = open_rewrites_store(uri)
        manifest = latest_manifest(store)
        if manifest is None:
            raise BankNotFound(f"{store.url}: no rewrites here; make them with 'noisebank rewrite BANK PROMPTS -o DIR'")
        tables = [verified_table(store, shard.file) for shard in manifest.shards]
        return cls(store.url, pa.concat_tables([REWRITE_ROWS.empty_table(), *tables]))

    def __getitem__(self, prompt: str) -> str:
        return str(self.row(prompt)["rewritten"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, prompt: str) -> dict[str, Any]:
        """All columns of a prompt: ``code`` says why it has no rewrite, ``references`` which captions were shown.

        Raises:
            PromptNotFound: it is in no list that was rewritten into the folder.
        """
        if prompt not in self._rows:
            raise PromptNotFound(f"{self._url}: no rewrite of {prompt!r:.200}; 'noisebank rewrite' adds prompts")
        row: dict[str, Any] = self.table.slice(self._rows[prompt], 1).to_pylist()[0]
        return row
