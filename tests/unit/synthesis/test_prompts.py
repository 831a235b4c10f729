"""Which prompts of a list are made, in which shards: what is there stays, bad rows keep their own codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisebank.errors import ConfigError
from noisebank.format.receipts import Failure, Receipt, finish
from noisebank.storage import BankWriter, Store, open_store
from noisebank.synthesis.entry import Prompt
from noisebank.synthesis.job import prompt_key, shard_inputs
from noisebank.synthesis.options import STAGE
from noisebank.synthesis.prompts import count_failures, cut_shards, list_prompts, read_finished, without_taken

FINGERPRINT = "f"


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(text.partition(" ")[0], text) for text in texts]


def made(store: Store, shard: tuple[Prompt, ...], *failed: str, code: str = "no_image") -> None:
    """The receipt of a shard, with a file if anything succeeded."""
    entry = BankWriter(store).data(repr(shard).encode(), STAGE, ".tar", len(shard) - len(failed))
    failures = [Failure(1, p.id, "", "", STAGE, code, "why", False, p.attempt) for p in shard if p.id in failed]
    info = {"keys": {prompt.id: prompt_key(prompt) for prompt in shard}}
    inputs = shard_inputs(FINGERPRINT, shard)
    finish(store, Receipt(STAGE, inputs, FINGERPRINT, (entry,), entry.rows, tuple(failures), info))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "out")


def left(store: Store, wanted: list[Prompt], maxcount: int = 2, retry: tuple[str, ...] = ()) -> list[list[str]]:
    found = read_finished(store)
    shards = cut_shards(without_taken(wanted, found), found, FINGERPRINT, maxcount, retry)
    return [[prompt.id for prompt in shard] for shard in shards]


def test_rows_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "far.csv").write_text(
        "prompt,id,image\n a dog ,x.1,\na cat,two,cat.png\na cow,three,https://example.org/a.png\n"
        ",,\n,,\na dog,x.1,\na horse,two,\n"
    )
    listed, duplicates = list_prompts(str(tmp_path / "far.csv"))
    assert [(prompt.text, prompt.image) for prompt in listed[:3]] == [
        ("a dog", ""),
        ("a cat", f"{tmp_path}/cat.png"),
        ("a cow", "https://example.org/a.png"),
    ]
    assert [prompt.id for prompt in listed[1:3]] == ["two", "three"] and "." not in listed[0].id
    assert duplicates == 1
    codes = [prompt.invalid.partition(":")[0] for prompt in listed]
    assert codes == ["", "", "", "empty_prompt", "empty_prompt", "id_taken"]
    assert len({prompt.id for prompt in listed}) == 6
    assert list_prompts(str(tmp_path / "far.csv"))[0] == listed


def test_a_killed_job_cuts_what_is_left_as_it_did_before(store: Store) -> None:
    wanted = prompts("a", "b", "c", "d", "e", "f", "g")
    assert left(store, wanted) == [["a", "b"], ["c", "d"], ["e", "f"], ["g"]]
    made(store, tuple(wanted[2:4]), "d")
    assert left(store, wanted) == [["a", "b"], ["e", "f"], ["g"]]
    made(store, tuple(wanted[6:]), "g")
    assert left(store, wanted) == [["a", "b"], ["e", "f"]]
    assert count_failures(wanted, read_finished(store)) == {"no_image": 2}


def test_another_list_adds_to_the_source(store: Store) -> None:
    wanted = prompts("a", "b", "c")
    made(store, tuple(wanted[:2]))
    made(store, tuple(wanted[2:]))
    assert left(store, [*prompts("d", "b", "e", "f")]) == [["d", "e"], ["f"]]


def test_damaged_work_counts_as_not_made(store: Store) -> None:
    wanted = prompts("a", "b", "c", "d")
    for shard in (tuple(wanted[:2]), tuple(wanted[2:])):
        made(store, shard)
    (tar,) = (key for key in store.list(STAGE) if key.endswith(".tar") and b"'a'" in store.read(key))
    store.put(tar, store.read(tar)[::-1])
    assert left(store, wanted) == [["a", "b"]]


def test_failures_are_tried_again_when_asked_for_or_when_the_row_changes(store: Store) -> None:
    wanted = prompts("a", "b", "c")
    made(store, tuple(wanted[:2]), "b")
    assert left(store, wanted) == [["c"]]
    assert left(store, wanted, retry=("not_finite",)) == [["c"]]
    assert left(store, wanted, retry=("no_image",)) == left(store, wanted, retry=("all",)) == [["c"], ["b"]]
    changed = [wanted[0], Prompt("b", "b in other words"), wanted[2]]
    assert left(store, changed) == [["c"], ["b"]]
    found = read_finished(store)
    ((again,),) = cut_shards(wanted[:2], found, FINGERPRINT, 2, ["all"])
    assert again.attempt == 2
    made(store, (again,), "b", code="not_finite")
    assert count_failures(wanted, read_finished(store)) == {"not_finite": 1}
    ((last,),) = cut_shards(wanted[:2], read_finished(store), FINGERPRINT, 2, ["all"])
    assert last.attempt == 3
    made(store, (last,))
    assert not read_finished(store).failures and left(store, wanted) == [["c"]]


def test_an_id_whose_clip_shows_another_prompt_is_refused(store: Store) -> None:
    made(store, tuple(prompts("a", "b")))
    taken = Prompt("a", "something else")
    found = read_finished(store)
    first, refused = without_taken([*prompts("b"), taken], found)
    assert first.id == "b" and refused.invalid.startswith("id_taken: the source has a clip of another prompt")
    assert refused.id not in ("a", "b")
    made(store, (refused,), refused.id, code="id_taken")
    assert left(store, [*prompts("a", "b"), taken]) == []


def test_a_source_has_one_set_of_options(store: Store) -> None:
    made(store, tuple(prompts("a")))
    with pytest.raises(ConfigError, match=r"out: its clips were made with other options.*give another out"):
        cut_shards(prompts("b"), read_finished(store), "g", 2)
