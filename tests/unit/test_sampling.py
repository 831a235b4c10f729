"""Noise for a list of prompts: each row as its own call gives it, whatever else is in the list, and made only once."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from noisebank import NoiseBank, sampling
from noisebank.format.manifest import read_snapshot
from noisebank.storage import open_store
from tests.support.bank import build
from tests.support.projects import CAPTIONS, Ran, noisebank

CLIPS = {f"mine-{i:02}": caption for i, caption in enumerate([*CAPTIONS, *CAPTIONS, *CAPTIONS])}
"""Three clips a caption: each is as near to a prompt as the others."""
PROMPTS = [f"{caption}{more}" for caption in CAPTIONS for more in ("", " in slow motion", ", seen from above")]


@pytest.fixture(scope="module")
def bank_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    build(open_store(folder), CLIPS)
    return folder


def write_prompts(folder: Path, prompts: list[str], name: str = "prompts.txt") -> Path:
    path = folder / name
    path.write_text("".join(f"{prompt}\n" for prompt in prompts))
    return path


def sample(bank: Path, prompts: Path, *words: object) -> dict[str, Any]:
    """The document of a run that ends well, into the folder ``out`` beside the list."""
    ran = noisebank("sample", bank, "-f", prompts, "-o", prompts.parent / "out", *words)
    assert ran.exit_code == 0, ran.stderr
    return ran.document


def manifest(prompts: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (prompts.parent / "out" / "manifest.jsonl").read_text().splitlines()]


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def test_every_row_is_what_its_single_call_gives(bank_folder: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, PROMPTS)
    words = ["--eta", 0.5, "--prior", "mixed", "--lowpass", "gaussian"]
    document = sample(bank_folder, prompts, "--seed", 40, *words)
    assert (document["prompts"], document["made"], document["kept"], document["invalid"]) == (36, 36, 0, [])
    rows = manifest(prompts)
    assert [row["prompt"] for row in rows] == PROMPTS
    assert [row["seed"] for row in rows] == [*range(40, 76)]
    for row in rows:
        one = tmp_path / "one.safetensors"
        ran = noisebank("sample", bank_folder, row["prompt"], "--seed", row["seed"], "-o", one, *words)
        assert (ran.document["id"], ran.document["caption"]) == (row["clip"], row["caption"])
        made = tmp_path / "out" / row["file"]
        assert torch.equal(load_file(made)["latents"], load_file(one)["latents"])
        with safe_open(made, "pt") as file, safe_open(one, "pt") as single:
            assert file.metadata().items() >= single.metadata().items()


def test_seeds_of_a_column_and_of_the_rows_without(bank_folder: Path, tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a dog", "a cat", "a bee", ""], "seed": [7, None, 2**63 - 1, 1], "id": list("wxyz")})
    pq.write_table(table, tmp_path / "list.parquet")
    (tmp_path / "list.csv").write_text("prompt,seed,id\na dog,7,w\na cat,,x\na bee,x,y\n")
    document = sample(bank_folder, tmp_path / "list.parquet", "--seed", 10)
    assert [(row["id"], row.get("seed"), row.get("code")) for row in manifest(tmp_path / "list.parquet")] == [
        ("w", 7, None), ("x", 11, None), ("y", 2**63 - 1, None), ("z", None, "empty_prompt"),
    ]  # fmt: skip
    assert [row["code"] for row in document["invalid"]] == ["empty_prompt"]
    document = sample(bank_folder, tmp_path / "list.csv", "--seed", 10)
    assert [(row["row"], row["code"]) for row in document["invalid"]] == [(2, "bad_seed")]
    assert (document["made"], document["kept"]) == (0, 2)


def test_a_killed_run_goes_on_and_nothing_is_made_twice(
    bank_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, out = write_prompts(tmp_path, PROMPTS), tmp_path / "out"
    save, left = sampling.save_latents, iter(range(9))

    def save_a_few(*arguments: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "save_latents", save_a_few)
        assert noisebank("sample", bank_folder, "-f", prompts, "-o", out).exit_code == 130
    before = stamps(out)
    assert len(before) == 9 and not (out / "manifest.jsonl").exists()
    (out / "000003.safetensors").write_bytes((out / "000003.safetensors").read_bytes()[:-1])
    (out / f".{'0f' * 16}.tmp").write_bytes(b"half a file")
    document = sample(bank_folder, prompts)
    assert (document["made"], document["kept"]) == (28, 8)
    assert {name for name, stamp in stamps(out).items() if before.get(name) == stamp} == before.keys() - {
        "000003.safetensors"
    }
    assert len(manifest(prompts)) == 36 and not [*out.glob(".*")]
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    for path in out.iterdir():
        path.unlink()
    sample(bank_folder, prompts)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


def test_files_of_others_stay(bank_folder: Path, tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path, PROMPTS[:1]), tmp_path / "out"
    out.mkdir()
    others = {".my-notes.tmp", f".{'0f' * 16}.tmp.txt", f"{'0f' * 16}.tmp"}
    for name in others:
        (out / name).write_text("mine")
    sample(bank_folder, prompts)
    assert {path.name for path in out.iterdir()} == others | {"000000.safetensors", "manifest.jsonl"}


def test_a_second_run_in_a_folder_is_refused(
    bank_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, out, second = write_prompts(tmp_path, PROMPTS[:2]), tmp_path / "out", list[Ran]()
    save, starts = sampling.save_latents, iter(range(1))

    def save_while_another_starts(*arguments: Any) -> None:
        if next(starts, None) is not None:
            second.append(noisebank("sample", bank_folder, "-f", prompts, "-o", out))
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "save_latents", save_while_another_starts)
        assert sample(bank_folder, prompts)["made"] == 2
    assert second[0].exit_code == 1 and f"{out}: another run writes there" in second[0].stderr
    assert sample(bank_folder, prompts)["kept"] == 2


@pytest.mark.parametrize("name", ["000001.safetensors", "manifest.jsonl"])
def test_a_folder_where_a_file_is_to_be_is_named_before_anything_is_made(
    bank_folder: Path, tmp_path: Path, name: str
) -> None:
    prompts, there = write_prompts(tmp_path, PROMPTS[:2]), tmp_path / "out" / name
    there.mkdir(parents=True)
    ran = noisebank("sample", bank_folder, "-f", prompts, "-o", tmp_path / "out")
    assert ran.exit_code == 2 and f"{there} is no file" in ran.stderr and "move it" in ran.stderr
    assert [*there.parent.iterdir()] == [there]


@pytest.mark.parametrize("change", ["prompt", "seed", "eta", "snapshot"])
def test_what_was_made_of_something_else_is_made_again(tmp_path: Path, change: str) -> None:
    store, prompts = open_store(tmp_path / "bank"), write_prompts(tmp_path, PROMPTS[:4])
    build(store, {"mine-dog": CAPTIONS[0]})
    sample(tmp_path / "bank", prompts)
    if change == "prompt":
        write_prompts(tmp_path, ["something else", *PROMPTS[1:4]])
    elif change == "snapshot":
        build(store, {"mine-cat": CAPTIONS[4]})
        assert read_snapshot(store).number == 2
    words = {"seed": ["--seed", 5], "eta": ["--eta", 0.3]}.get(change, [])
    document = sample(tmp_path / "bank", prompts, *words)
    assert (document["made"], document["kept"]) == ((1, 3) if change == "prompt" else (4, 0))
    with NoiseBank.open(store.url) as bank:
        seed, eta = (5 if change == "seed" else 0), (0.3 if change == "eta" else 0.2)
        prompt = "something else" if change == "prompt" else PROMPTS[0]
        expected = bank.noise(prompt, eta=eta, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(load_file(tmp_path / "out" / "000000.safetensors")["latents"], expected)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a dog", "-f", "list.txt", "-o", "out"], "either a prompt or a list"),
        (["-o", "out"], "either a prompt or a list"),
        (["-f", "empty.txt", "-o", "out"], "empty.txt"),
        (["-f", "list.txt", "-o", "list.txt"], "is a file"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    bank_folder: Path, tmp_path: Path, words: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_prompts(tmp_path, ["a dog"], "list.txt")
    write_prompts(tmp_path, [], "empty.txt")
    ran: Ran = noisebank("sample", bank_folder, *words)
    assert ran.exit_code == 2 and says in ran.stderr
