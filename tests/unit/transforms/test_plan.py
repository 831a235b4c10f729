"""MakePlan on the local runner, in one process and in several, with every bundle repeated: one and the same plan."""

import json
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from noisebank.errors import BankDamaged
from noisebank.format.sealed import seal, unseal
from noisebank.options import Config, SourceOptions
from noisebank.planning.plan import Plan, find_refused_plan, open_plans, read_plan, refuse
from noisebank.storage import open_store
from tests.support.bank import FINGERPRINTS, MODELS, Bank, webvid_row, write_csv
from transforms.plan import MakePlan

ROWS = [webvid_row(video, f'a "caption", of\n{video}') for video in range(200)]
ROWS += [webvid_row(3), [*webvid_row(500)[:4], ""], [*webvid_row(501)[:2], "soon", "d", "c"]]


def make_plan(bank: str, paths: list[Path], *flags: str, out: str | None = None) -> Plan:
    config = Config(bank=bank, sources=(SourceOptions("webvid", tuple(str(path) for path in paths)),))
    options = PipelineOptions(["--runner=FnApiRunner", *flags])
    pipeline = beam.Pipeline(options=options)
    planned = pipeline | MakePlan(config, FINGERPRINTS, MODELS, out=out, now=0.0)
    assert_that(planned | beam.combiners.Count.Globally(), equal_to([1]))
    result = pipeline.run()
    result.wait_until_finish()
    plan = open_plans(open_store(out or bank), "")[0]
    if not flags:
        counters = {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
        assert counters.get("rows_read", 0) == plan.counts["read"]
        assert counters.get("rows_invalid", 0) == plan.counts["invalid"]
    return plan


def content(bank: Path, plan: Plan) -> dict[str, object]:
    """The plan without its time, and the bytes of its files."""
    document = json.loads(plan.to_bytes())
    files = {path.name: path.read_bytes() for path in (bank / "plans" / plan.hash).iterdir() if path.suffix != ".json"}
    return {name: document[name] for name in document if name not in ("created", "digest", "config")} | files


@pytest.fixture
def lists(tmp_path: Path) -> list[Path]:
    return [write_csv(tmp_path / f"{i}.csv", ROWS[i * 70 : (i + 1) * 70]) for i in range(3)]


@pytest.fixture
def plain(tmp_path: Path, lists: list[Path]) -> dict[str, object]:
    bank = tmp_path / "plain"
    return content(bank, make_plan(str(bank), lists))


def test_the_counts_and_what_is_left_behind(tmp_path: Path, lists: list[Path]) -> None:
    plan = make_plan(str(tmp_path / "bank"), lists)
    assert plan.counts == {
        "read": 203, "new": 200, "changed": 0, "unchanged": 0, "removed": 0, "duplicate": 1, "invalid": 2,
        "filtered": 0, "newly_invalid": 2, "retried": 0, "to_embed": 200,
    }  # fmt: skip
    assert plan.models == MODELS
    assert read_plan(open_store(tmp_path / "bank"), plan.path) == plan
    assert [path.name for path in (tmp_path / "bank" / "plans").iterdir() if any(path.iterdir())] == [plan.hash]


@pytest.mark.parametrize(
    "flags",
    [("--direct_runner_bundle_repeat=2",), ("--direct_running_mode=multi_processing", "--direct_num_workers=2")],
    ids=["bundle_repeat", "multi_processing"],
)
def test_the_same_plan_whatever_the_runner_does(
    tmp_path: Path, lists: list[Path], plain: dict[str, object], flags: tuple[str, ...]
) -> None:
    bank = tmp_path / "other"
    assert content(bank, make_plan(str(bank), lists, *flags)) == plain


def test_the_plan_of_a_killed_build_is_found_and_left_alone(tmp_path: Path, lists: list[Path]) -> None:
    bank = str(tmp_path / "bank")
    plan = make_plan(bank, lists)
    config = Config(bank=bank, sources=(SourceOptions("webvid", tuple(str(path) for path in lists)),))
    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        planned = pipeline | MakePlan(config, FINGERPRINTS, {}, now=0.0)
        assert_that(planned, equal_to([plan.path]))
    assert open_plans(open_store(bank), "") == [plan]


@pytest.mark.parametrize("name", ["plan.json", "*.arrow", "*.parquet"])
@pytest.mark.parametrize("damage", ["truncated", "one bit", "deleted"])
def test_a_damaged_plan_is_made_again(
    tmp_path: Path, lists: list[Path], plain: dict[str, object], name: str, damage: str
) -> None:
    bank = tmp_path / "bank"
    plan = make_plan(str(bank), lists)
    for path in sorted((bank / "plans" / plan.hash).glob(name)):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data if damage == "one bit" else data[: len(data) // 2])
        if damage == "deleted":
            path.unlink()
    again = make_plan(str(bank), lists)
    assert again.hash == plan.hash
    assert content(bank, again) == plain


def test_a_sealed_plan_that_lacks_a_member_is_made_again(tmp_path: Path, lists: list[Path]) -> None:
    bank = str(tmp_path / "bank")
    plan = make_plan(bank, lists)
    store = open_store(bank)
    path = f"plans/{plan.hash}/plan.json"
    document = unseal(store.read(path), path)
    for member in document:
        store.put(path, seal({name: value for name, value in document.items() if name != member}))
        assert open_plans(store, "") == [], member
        says = "a plan of another version of noisebank" if member == "format" else member
        with pytest.raises(BankDamaged, match=f"{path}.*{says}"):
            read_plan(store, plan.path)
    assert replace(make_plan(bank, lists), created=plan.created) == plan


def test_a_plan_that_is_another_is_made_again(tmp_path: Path, lists: list[Path]) -> None:
    bank = str(tmp_path / "bank")
    plan, other = make_plan(bank, lists), make_plan(bank, lists[:1])
    store = open_store(bank)
    path = f"plans/{plan.hash}/plan.json"
    store.put(path, other.to_bytes())
    with pytest.raises(BankDamaged, match=f"{path}: says that it is {other.hash}; files were swapped"):
        read_plan(store, plan.path)
    assert replace(make_plan(bank, lists), created=plan.created) == plan


@pytest.mark.parametrize("damage", [{"reason": "x"}, {"reason": "x", "failures": [{"path": "/etc/passwd"}]}])
def test_a_damaged_refusal_is_named(tmp_path: Path, lists: list[Path], damage: dict[str, object]) -> None:
    bank = str(tmp_path / "bank")
    plan, store = make_plan(bank, lists), open_store(bank)
    refuse(store, plan.hash, "too many failed", plan.changes["failures"])
    assert find_refused_plan(store, "") == (plan, plan.changes["failures"])
    path = f"plans/{plan.hash}/refused.json"
    store.put(path, seal(damage))
    with pytest.raises(BankDamaged, match=path):
        find_refused_plan(store, "")


def test_a_plan_to_look_at_writes_nothing_into_the_bank(tmp_path: Path, lists: list[Path]) -> None:
    plan = make_plan(str(tmp_path / "bank"), lists, out=str(tmp_path / "scratch"))
    assert plan.counts["new"] == 200
    assert not (tmp_path / "bank").exists()


def test_finished_shards_are_claimed(tmp_path: Path) -> None:
    bank = Bank(tmp_path)
    path = write_csv(tmp_path / "list.csv", ROWS[:50])
    url = str(tmp_path / "bank")
    plan = make_plan(url, [path])
    bank.make(plan, {"clips": {"webvid-7-0-5000": ("timeout", True)}})
    refuse(bank.store, plan.hash, "too many failed")
    write_csv(path, ROWS[:51])
    again = make_plan(url, [path])
    assert bank.todo_ids(again) == {"clips": ["webvid-50-0-5000", "webvid-7-0-5000"]}
    assert {stage for stage, _ in again.claimed} == {"clips", "captions", "noise/toy"}


@pytest.mark.parametrize(
    ("stage", "suffix"), [("clips", ".tar"), ("clips", ".parquet"), ("captions", ".parquet"), ("noise/toy", ".arrow")]
)
def test_finished_work_that_is_damaged_counts_as_not_made_and_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stage: str, suffix: str
) -> None:
    bank, url = Bank(tmp_path), str(tmp_path / "bank")
    path = write_csv(tmp_path / "list.csv", ROWS[:16])
    plan = make_plan(url, [path])
    (receipt,) = (receipt for receipt in bank.make(plan) if receipt.stage == stage)
    refuse(bank.store, plan.hash, "too many failed")
    (key,) = (entry.path for entry in receipt.files if entry.path.endswith(suffix))
    whole = bank.store.read(key)
    bank.store.put(key, whole[:-40] + b"\xff" * 40)
    again = make_plan(url, [path])
    assert f"{receipt.path}: {key} is gone or damaged; its shard counts as not made" in caplog.text
    everyone = sorted(f"webvid-{video}-0-5000" for video in range(16))
    assert bank.todo_ids(again) == {stage: everyone}
    remade = bank.make(again)
    assert remade[0] == receipt and bank.store.read(key) == whole
    refuse(bank.store, again.hash, "too many failed")
    assert bank.todo_ids(make_plan(url, [path])) == {}


def test_a_bank_in_an_object_store_gets_the_same_plan(lists: list[Path], plain: dict[str, object]) -> None:
    plan = make_plan("memory://planned", lists)
    store = open_store("memory://planned")
    keys = [key for key in store.list("plans") if not key.endswith(".json")]
    assert {key.split("/")[1] for key in keys} == {plan.hash}
    assert all(store.read(key) == plain[key.split("/")[2]] for key in keys)
