"""The decoder: documents as the types that they should have, plans among them, and errors that name what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypedDict

import pytest

from noisebank.decode import Dialect, decode
from noisebank.errors import BankDamaged, ConfigError
from noisebank.planning.cut import Task
from noisebank.storage import FileEntry

ENTRY = FileEntry(f"rows/{'ab' * 16}.arrow", 10, "cd" * 32, 2)
TASK = Task("clips", (("plans/x/a.arrow", 0, 512), ("plans/x/b.arrow", 0, 3)), "clips/t.tar")


class WrittenTask(NamedTuple):
    """A task as plans write it: under its stage."""

    pieces: tuple[tuple[str, int, int], ...]
    tar: str


@dataclass(frozen=True)
class Plan:
    """The kinds of members that a plan has."""

    hash: str
    parent: int | None
    config: Mapping[str, Any]
    folders: tuple[str, ...]
    source_names: Mapping[int, str]
    sources: Mapping[str, Mapping[str, int]]
    tasks: Mapping[str, tuple[Task, ...]]
    records: Mapping[str, tuple[FileEntry, ...]]
    claimed: tuple[tuple[str, str], ...]
    rows: tuple[FileEntry, ...] = ()


PLAN = Plan(
    hash="f00d",
    parent=None,
    config={"bank": "x", "noise": [{"name": "a"}]},
    folders=("", "/lists"),
    source_names={0: "mine", 12: "other"},
    sources={"mine": {"before": 3}},
    tasks={"clips": (TASK, TASK._replace(tar="")), "noise/a": ()},
    records={"a": (ENTRY,)},
    claimed=(("clips", "ab"),),
    rows=(ENTRY,),
)


def as_written(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_a_plan_survives_json() -> None:
    written = as_written(asdict(PLAN))
    assert written["source_names"] == {"0": "mine", "12": "other"}
    assert decode(written, Plan, "plan.json") == PLAN


def test_tasks_as_plans_write_them() -> None:
    written = as_written({stage: [[task.pieces, task.tar] for task in tasks] for stage, tasks in PLAN.tasks.items()})
    decoded = decode(written, Mapping[str, tuple[WrittenTask, ...]], "plan.json: tasks")
    assert {stage: tuple(Task(stage, *task) for task in tasks) for stage, tasks in decoded.items()} == PLAN.tasks


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"hash": 5}, "hash: 5 is not allowed; wanted: text"),
    ({"parent": "1"}, "parent: '1' is not allowed; wanted: a whole number or nothing"),
    ({"parent": True}, "parent: True is not allowed; wanted: a whole number or nothing"),
    ({"config": []}, "config: a mapping is wanted, not []"),
    ({"folders": "x"}, "folders: a list is wanted, not 'x'"),
    ({"folders": ["x", None]}, "folders[1]: None is not allowed; wanted: text"),
    ({"source_names": {"one": "x"}}, "source_names: key: 'one' is not allowed; wanted: a whole number"),
    ({"sources": {"mine": {"before": 1.5}}}, "sources.mine.before: 1.5 is not allowed; wanted: a whole number"),
    ({"claimed": [["clips"]]}, "claimed[0]: a list of 2 is wanted, not ['clips']"),
    ({"claimed": [["clips", 1]]}, "claimed[0][1]: 1 is not allowed; wanted: text"),
    ({"tasks": {"clips": [["clips", []]]}}, "tasks.clips[0]: [stage, pieces, tar] is wanted, not ['clips', []]"),
    ({"tasks": {"clips": [["clips", [["a", 0]], ""]]}}, "tasks.clips[0][1][0]: a list of 3 is wanted, not ['a', 0]"),
    ({"rows": [7]}, "rows[0]: a mapping with keys from path, bytes, sha256, rows is wanted, not 7"),
    ({"more": 1}, "more: unknown key; allowed here: hash, parent, config, "),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_what_is_wrong_in_a_file_of_the_bank_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BankDamaged) as error:
        decode(as_written(asdict(PLAN)) | change, Plan, "plan.json")
    assert str(error.value).startswith(f"plan.json.{message}") and str(error.value).endswith("; run verify")


@pytest.mark.parametrize("member", ["hash", "parent", "rows"])
def test_a_file_of_the_bank_has_all_its_members_those_with_a_default_too(member: str) -> None:
    written = as_written(asdict(PLAN))
    del written[member]
    with pytest.raises(BankDamaged, match=rf"plan\.json\.{member}: missing; run verify"):
        decode(written, Plan, "plan.json")


class Model(TypedDict, total=False):
    """What a snapshot may say of a model."""

    dtype: Literal["float16", "int8"]
    shape: list[int]
    call: Mapping[str, Any]


def test_objects_with_optional_members_name_those_that_are_missing_when_they_are_asked_for() -> None:
    written = {"dtype": "int8", "shape": [4, 2], "call": {"options": {"a": None}}, "unknown": 1}
    model = decode(written, Model, "snapshot.model")
    assert model == written
    for ask, name in ((lambda: model["vae"], "vae"), (lambda: model["call"]["options"]["b"], "call.options.b")):
        with pytest.raises(BankDamaged, match=rf"snapshot\.model\.{name}: missing; run verify"):
            ask()
    with pytest.raises(BankDamaged, match=r"model\.dtype: 'int4' is not allowed; wanted: one of float16, int8; run"):
        decode({"dtype": "int4"}, Model, "model")


def split(text: Any) -> tuple[str, ...]:
    """The words of a text."""
    if not isinstance(text, str):
        raise ValueError("words")
    return tuple(text.split())


@dataclass(frozen=True)
class Options:
    """Options with defaults and limits."""

    share: float = field(default=0.5, metadata={"help": "a share", "minimum": 0, "maximum": 1})
    sides: tuple[int, int] = field(default=(1, 1), metadata={"help": "two sides", "minimum": 1, "maximum": 9})
    words: tuple[str, ...] = field(default=(), metadata={"help": "words", "parse": split})
    made: list[int] = field(default_factory=list, metadata={"help": "what was made"})


WRITTEN_BY_HAND = Dialect(ConfigError, optional=True)


def test_a_dialect_says_what_is_raised_and_whether_defaults_may_be_missing() -> None:
    assert decode({}, Options, "", WRITTEN_BY_HAND) == Options()
    decoded = decode({"share": 1, "sides": [2, 3], "words": "a b"}, Options, "", WRITTEN_BY_HAND)
    assert decoded == Options(1.0, (2, 3), ("a", "b")) and isinstance(decoded.share, float)
    for document, message in (
        ({"share": 2}, "share: 2.0 is not allowed; at most 1"),
        ({"share": float("nan")}, "share: nan is not allowed; at least 0"),
        ({"share": 10**400}, "is not allowed; at most 1"),
        ({"sides": [1, 0]}, "sides: 0 is not allowed; at least 1"),
        ({"words": 5}, "words: 5 is not allowed; wanted: words"),
    ):
        with pytest.raises(ConfigError, match=message):
            decode(document, Options, "", WRITTEN_BY_HAND)
