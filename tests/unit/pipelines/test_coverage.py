"""``noisebank coverage``: its document, the list that it writes, exit codes, and lists that are no lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from noisebank.prompts import LONGEST_PROMPT
from noisebank.synthesis.prompts import list_prompts
from pipelines.cli import main
from tests.support.projects import CAPTIONS, Ran, noisebank

KEYS = {"prompts", "similarity", "pool", "recall", "clips_used", "largest_share", "below", "far"}
FAR = ["an essay on tax law", "quantum chromodynamics"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join([CAPTIONS[0], FAR[0], CAPTIONS[1], FAR[1], FAR[0]]), "utf-8")
    return path


def coverage(bank: Path, prompts: Path, *words: object) -> Ran:
    return noisebank("coverage", bank, prompts, *words)


def test_the_document_is_as_documented(bank_folder: Path, prompts: Path) -> None:
    ran = coverage(bank_folder, prompts, "--set", "small")
    assert ran.exit_code == 0 and ran.document.keys() == KEYS
    document = ran.document
    assert document["prompts"] == {"read": 5, "measured": 5, "invalid": []}
    assert (document["pool"]["captions"], document["pool"]["compared"]) == (6, 6)
    assert (document["recall"], document["largest_share"]) == (1.0, document["clips_used"] and 0.4)
    assert document["similarity"]["quantiles"]["1"] == pytest.approx(1, abs=1e-6)
    for side, count in (("similarity", 5), ("pool", 6)):
        histogram, quantiles = document[side]["histogram"], [*document[side]["quantiles"].values()]
        assert sum(histogram["counts"]) == count and len(histogram["edges"]) == len(histogram["counts"]) + 1
        assert quantiles == sorted(quantiles)
    assert document["below"] == pytest.approx(document["pool"]["quantiles"]["0.05"])
    assert document == coverage(bank_folder, prompts).document


@pytest.mark.parametrize("name", ["far.txt", "far.jsonl"])
def test_the_list_of_far_prompts_is_what_synthesize_reads(
    bank_folder: Path, prompts: Path, tmp_path: Path, name: str
) -> None:
    ran = coverage(bank_folder, prompts, "--below", 0.9, "-o", tmp_path / name)
    assert ran.exit_code == 0, ran.stderr
    far = ran.document["far"]
    assert sorted(one["prompt"] for one in far) == sorted(FAR) and ran.document["below"] == 0.9
    assert all(one["similarity"] < 0.9 and one["caption"] in CAPTIONS and one["id"].startswith("mine-") for one in far)
    listed, duplicates = list_prompts(str(tmp_path / name))
    everything, _ = list_prompts(str(prompts))
    assert listed == [prompt for prompt in everything if prompt.text in FAR] and not duplicates
    assert coverage(bank_folder, tmp_path / name).document["prompts"]["measured"] == 2


def test_ids_and_images_go_into_the_list_too(bank_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    rows = [{"prompt": "a line\nand another", "id": "one", "image": "a.png"}, {"prompt": CAPTIONS[0], "id": "near"}]
    prompts = tmp_path / "lists" / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert coverage(bank_folder, prompts, "--below", 0.9, "-o", tmp_path / "far.jsonl").exit_code == 0
    (listed,), _ = list_prompts(str(tmp_path / "far.jsonl"))
    assert (listed.text, listed.id, listed.image) == (rows[0]["prompt"], "one", str(tmp_path / "lists" / "a.png"))
    refused = coverage(bank_folder, prompts, "-o", tmp_path / "far.txt")
    assert refused.exit_code == 2 and "name a .jsonl" in refused.stderr and not (tmp_path / "far.txt").exists()


def test_rows_that_are_no_prompts_are_named_and_the_others_measured(
    bank_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hostile.jsonl"
    good = [CAPTIONS[0], "\x1b[2Jclear\r\nthe screen\x00", "💥" * 50, "' OR 1=1 --", "x" * LONGEST_PROMPT]
    lines = [json.dumps({"prompt": prompt}).encode() for prompt in [*good, "y" * (LONGEST_PROMPT + 1), " \t"]]
    path.write_bytes(b"\n".join([*lines, b"{", b'{"prompt": "\xff"}', b'{"id": "mute"}']))
    document = coverage(bank_folder, path).document
    assert (document["prompts"]["read"], document["prompts"]["measured"]) == (10, 5)
    assert [(row["row"], row["code"]) for row in document["prompts"]["invalid"]] == [
        (6, "long_prompt"),
        (7, "empty_prompt"),
        (8, "bad_json"),
        (9, "bad_utf8"),
        (10, "empty_prompt"),
    ]
    assert main(["coverage", str(bank_folder), str(path), "--below", "0.9"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\x00" not in said and "row 8 of the list is left out: bad_json" in said
    assert "5 prompts against 6 captions" in said and "recall@1 of the index for these prompts: 1.0000" in said


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        ("", [], "there is none in it"),
        ("\n \n", [], "there is none in it"),
        ("x" * (LONGEST_PROMPT + 1), [], "no row can be used; row 1 is long_prompt"),
        ("a dog", ["--below", "1.5"], "'1.5' is not allowed"),
        ("a dog", ["--below", "nan"], "'nan' is not allowed"),
        ("a dog", ["--set", "other"], "no noise set 'other'; it has small"),
        ("a dog", ["-o", "far.csv"], "ends in .txt or .jsonl"),
        ("a dog", ["-o", "none/far.txt"], "its folder does not exist"),
    ],
)
def test_what_cannot_work_is_a_usage_error(
    bank_folder: Path, tmp_path: Path, content: str, words: list[str], said: str
) -> None:
    (tmp_path / "prompts.txt").write_text(content)
    ran = coverage(bank_folder, tmp_path / "prompts.txt", *words)
    assert ran.exit_code == 2 and said in ran.stderr, ran.stderr


def test_what_is_not_there_is_said(bank_folder: Path, tmp_path: Path, prompts: Path) -> None:
    assert coverage(bank_folder, tmp_path / "none.txt").exit_code == 2
    gone = coverage(tmp_path / "none", prompts)
    assert (gone.exit_code, gone.document["error"]["type"]) == (1, "BankNotFound")
