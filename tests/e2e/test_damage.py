"""Every file of a real bank damaged in turn: verify names it, no noise comes of it, and repair with a build heals."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from noisebank import NoiseBank
from noisebank.errors import BankDamaged
from noisebank.search.embed import Embedder, load_embedder
from noisebank.storage import open_store
from noisebank.upkeep.verify import verify
from tests.support.minilm import MINILM
from tests.support.projects import Project

LOOSE = ("--max_failed", 1, "--max_removed", 1, "--max_changed", 1)
REPAIRABLE = ("clips/*.tar", "clips/*.parquet", "captions/*.parquet", "noise/small/*.arrow", "index/*.faiss")


@pytest.fixture(scope="module")
def built(module_project: Callable[[str], Project]) -> Project:
    """A bank after two updates: several shards a stage, an index with deletions, a failure."""
    project = module_project("damaged")
    rows = project.rows(7)
    project.write_list([*rows[:5], rows[0]._replace(id="gone", uri="gone.mp4")])
    project.build(*LOOSE)
    gone = rows[0]._replace(id="gone", uri="gone.mp4")
    edited = [rows[0]._replace(caption="a robot paints a portrait"), *rows[2:], gone]
    project.write_list([rows[1], *edited])
    project.build(*LOOSE)
    project.write_list(edited)
    project.build(*LOOSE)
    assert {path.suffix for path in project.bank.rglob("*") if path.is_file()} >= {".bits", ".tar", ".faiss"}
    return project


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder(MINILM)


def answers(bank: Path, embedder: Embedder) -> dict[str, Any]:
    """Everything that a reader, opened afresh, says: captions, the order of hits, and every record three ways."""
    reader = NoiseBank.open(bank, embedder=embedder)
    hits = reader.search("a dog", k=20)
    said: dict[str, Any] = {"hits": [(hit.id, hit.caption, hit.source) for hit in hits]}
    for hit in hits:
        inverted = reader.inverted(hit.id)
        said[hit.id] = inverted.noise, inverted.statistics
        assert torch.equal(reader.noise(id=hit.id, eta=float("inf"))[0], inverted.noise)
        assert torch.equal(reader.noise(hit.caption, eta=float("inf"))[0], inverted.noise)
    return said


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two readers said the same, bit for bit."""
    return (
        one.keys() == other.keys()
        and one["hits"] == other["hits"]
        and all(torch.equal(one[id][0], other[id][0]) and one[id][1] == other[id][1] for id, _, _ in one["hits"])
    )


def damages(path: Path, files: list[Path]) -> Iterator[tuple[str, set[Path]]]:
    """Damages a file in every way, one after the other, and puts it right again; yields what is damaged."""
    content = path.read_bytes()
    middle = len(content) // 2
    for how, damaged in (
        ("one bit", content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :]),
        ("one byte less", content[:-1]),
    ):
        path.write_bytes(damaged)
        yield how, {path}
    path.unlink()
    yield "deleted", {path}
    path.write_bytes(content)
    kind = [file for file in files if (file.parent, file.suffix) == (path.parent, path.suffix) and file != path]
    for other in kind[:1]:
        others = other.read_bytes()
        path.write_bytes(others)
        other.write_bytes(content)
        yield "swapped", {path, other} if content != others else set()
        other.write_bytes(others)
    path.write_bytes(content)


def test_whatever_happens_to_a_file_it_is_named_and_never_believed(
    built: Project, embedder: Embedder, tmp_path: Path
) -> None:
    bank = tmp_path / "bank"
    shutil.copytree(built.bank, bank)
    store = open_store(bank)
    expected = answers(bank, embedder)
    assert len(expected["hits"]) == 6
    snapshot = max((bank / "snapshots").iterdir())
    files = [bank / Path(path).relative_to(built.bank) for path in built.look("files")["files"]]
    raised = set()
    for path in [*files, snapshot]:
        for how, damaged in damages(path, files):
            if path == snapshot and how == "deleted":
                continue  # (then the bank is the one before)
            report = verify(store)
            assert {bank / damage.path for damage in report.damaged} == damaged, (path, how)
            try:
                said = answers(bank, embedder)
            except BankDamaged as error:
                assert any(file.name in str(error) for file in damaged), (path, how, error)
                raised.add(path.relative_to(bank).parts[0])
            else:
                assert same(said, expected), (path, how)
    assert raised >= {"noise", "index", "records", "snapshots", "parts"}
    assert verify(store).ok and same(answers(bank, embedder), expected)


def test_repair_and_a_build_give_back_the_same_rows(
    built: Project, embedder: Embedder, project: Project, tmp_path: Path
) -> None:
    shutil.copytree(built.bank, project.bank)
    shutil.copy(built.folder / "list.csv", project.folder)
    expected = answers(project.bank, embedder)
    files = built.files()
    for pattern, damage in zip(REPAIRABLE, itertools.cycle(["bit", "missing"]), strict=False):
        victim = project.bank / next(path for path in sorted(files) if Path(path).match(pattern))
        content = bytearray(victim.read_bytes())
        content[len(content) // 3] ^= 1
        victim.unlink()
        if damage == "bit":
            victim.write_bytes(content)
    repaired = project.look("verify", "--repair")
    assert (len(repaired["damaged"]), repaired["repaired_in"]) == (len(REPAIRABLE), 4)
    assert project.look("verify")["ok"]
    summary = project.build(*LOOSE)
    assert summary["committed"] and summary["rows"]["in_bank"] == 6
    assert project.look("verify")["ok"]
    healed = answers(project.bank, embedder)
    assert set(healed["hits"]) == set(expected["hits"])
    for id, _, _ in expected["hits"]:  # (batches of other sizes: other last bits)
        torch.testing.assert_close(healed[id][0], expected[id][0], rtol=1e-3, atol=1e-3)
    assert project.failures() == {"mine-gone": "missing_file"}
