"""A sealed snapshot that lacks a member, or has one of another type: every reader names it, or answers as it should."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest

from noisebank import NoiseBank
from noisebank.describe import describe, diff, read_failures, snapshot_files
from noisebank.errors import BankDamaged, NoiseBankError
from noisebank.format.manifest import LATER, Snapshot, read_snapshot
from noisebank.format.sealed import seal, unseal
from noisebank.storage import Store, open_store
from noisebank.upkeep.vacuum import vacuum
from noisebank.upkeep.verify import verify
from tests.support.bank import build
from tests.support.made_up import embedder

DOG, TEA = "a dog runs on the beach", "a cup of tea on a table"
PIPELINE = {"family": "modelscope", "pipeline": "TextToVideoSDPipeline", "num_inference_steps": 4}
MODEL = {"layout": "BCFHW", "shape": [4, 2, 4, 6], "spatial_ratio": 8, "temporal_ratio": 1, "call": {}, **PIPELINE}

READERS: dict[str, Callable[[Store], object]] = {
    "search": lambda store: opened(store).search(DOG),
    "noise": lambda store: opened(store).noise(DOG, eta=1.0),
    "noise by id": lambda store: opened(store).noise(id="mine-dog"),
    "inputs": lambda store: opened(store).inputs(DOG),
    "inverted": lambda store: opened(store).inverted("mine-dog"),
    "show": lambda store: describe(store, read_snapshot(store)),
    "diff": lambda store: diff(store, read_snapshot(store, 1), read_snapshot(store)),
    "files": lambda store: snapshot_files(store, read_snapshot(store)),
    "failures": lambda store: read_failures(store, read_snapshot(store)),
    "verify": verify,
    "vacuum": lambda store: vacuum(store, dry_run=True),
}


def opened(store: Store) -> NoiseBank:
    return NoiseBank(store, read_snapshot(store), None, embedder())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A bank of two snapshots, the second with a deletion in the index."""
    store = open_store(tmp_path_factory.mktemp("members"))
    build(store, {"mine-dog": DOG, "mine-tea": TEA, "mine-more": "more"}, description=MODEL)
    build(store, {"mine-tea": "a teapot"}, removed=["mine-more"], description=MODEL)
    return store


def members(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every member of a document, however deep; of lists the first item."""
    children = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from members(child, (*path, key))


def changed(document: dict[str, Any], path: tuple[str | int, ...], *, wrong: bool) -> dict[str, Any]:
    """The document with a member of another type, or without it."""
    document = copy.deepcopy(document)
    parent: Any = document
    for key in path[:-1]:
        parent = parent[key]
    if wrong:
        parent[path[-1]] = 7 if isinstance(parent[path[-1]], str | list | dict | None) else "seven"
    else:
        del parent[path[-1]]
    return document


@pytest.mark.parametrize("wrong", [False, True], ids=["missing", "another type"])
@pytest.mark.parametrize("member", [field.name for field in fields(Snapshot)])
def test_readers_name_what_is_wrong_or_answer(store: Store, member: str, wrong: bool) -> None:
    snapshot = read_snapshot(store)
    whole = store.read(snapshot.path)
    document = unseal(whole, snapshot.path)
    try:
        for path in [path for path in members(document) if path[0] == member]:
            store.put(snapshot.path, seal(changed(document, path, wrong=wrong)))
            for name, read in READERS.items():
                try:
                    read(store)
                except BankDamaged as error:
                    last = next(key for key in reversed(path) if isinstance(key, str))
                    names_it = snapshot.path in str(error) and last in str(error)
                    assert names_it or (path[0] == "parts" and len(path) > 1), (path, name, error)
                except NoiseBankError:  # (no such noise set, no record: what such a snapshot says)
                    assert len(path) > 1 and not wrong, (path, name)
                else:
                    optional = not wrong and (len(path) > 1 or member in LATER)
                    optional |= member == "made_with" and len(path) > 2  # (the value of an option, of any type)
                    assert optional or (name == "verify" and not verify(store).ok), (path, name)
    finally:
        store.put(snapshot.path, whole)
