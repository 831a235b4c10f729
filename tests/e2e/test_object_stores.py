"""List, videos and bank in a bucket: the commands make the same files as on a disk, and keep them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from noisebank import NoiseBank
from noisebank.storage import open_store
from tests.support.emulators import Emulator
from tests.support.projects import Project, noisebank

COUNT = 5

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def local(module_project: Callable[[str], Project]) -> Project:
    """A bank on a disk, built, and updated by one row."""
    project = module_project("local")
    for rows in (COUNT, COUNT + 1):
        project.write_list(project.rows(rows))
        project.build()
    return project


@pytest.fixture(params=["memory", "s3", "gs", "az"])
def folder(request: pytest.FixtureRequest, start_emulator: Callable[[str], Emulator], tmp_path: Path) -> Iterator[str]:
    """The address of an empty folder of a bucket."""
    if request.param == "memory":
        yield f"memory://{tmp_path.name}/folder"
        return
    with start_emulator(request.param).found() as running:
        yield f"{running.url}/{tmp_path.name}"


def test_a_bank_in_a_bucket_is_the_same_as_on_a_disk(
    folder: str, local: Project, project: Project, tmp_path: Path
) -> None:
    store, bank = open_store(folder), f"{folder}/bank"
    rows = project.rows(COUNT + 1)
    for row in rows:
        store.upload(project.folder / row.uri, row.uri)
    project.configure(bank=bank, sources=[{**project.source("mine"), "path": f"{folder}/list.csv"}])
    for count in (COUNT, COUNT + 1):
        project.write_list(rows[:count])
        store.upload(project.folder / "list.csv", "list.csv")
        assert project.build()["rows"]["new"] == (COUNT if count == COUNT else 1)
    files = noisebank("files", bank).document["files"]
    hashes = {
        path.removeprefix(f"{bank}/"): hashlib.sha256(store.read(path.removeprefix(f"{folder}/"))).hexdigest()
        for path in files
    }
    assert hashes == local.files()
    assert noisebank("verify", bank).document["ok"]
    ours, theirs = (NoiseBank.open(address) for address in (bank, local.bank))
    ids = [hit.id for hit in ours.search("a dog", k=COUNT + 1)]
    assert ids == [hit.id for hit in theirs.search("a dog", k=COUNT + 1)]
    assert torch.equal(ours.noise(id=ids, eta=math.inf), theirs.noise(id=ids, eta=math.inf))
    assert noisebank("vacuum", bank, "--keep", 1).exit_code == 0
    assert noisebank("verify", bank).document["ok"]
