"""A plan does exactly the missing work: every way in which a list, a bank and the options can differ."""

import io
import tarfile
from pathlib import Path
from time import time

import pyarrow.parquet as pq
import pytest

from noisebank.errors import BankDamaged, ConfigError
from noisebank.format.status import Status
from noisebank.format.tables import OverlayTable
from noisebank.planning.plan import read_task, removal_problems
from tests.support.bank import FINGERPRINTS, HEADER, Bank, webvid_row, write_csv
from tests.support.made_up import Broken


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank(tmp_path)


def listed(bank: Bank, rows: list[list[str]], name: str = "list.csv") -> Path:
    return write_csv(bank.folder / name, rows)


def first(bank: Bank, count: int = 10, broken: Broken | None = None) -> Path:
    """A bank of ``count`` clips."""
    path = listed(bank, [webvid_row(i) for i in range(count)])
    bank.build(path, broken)
    return path


def ids(*videos: int, seconds: int = 5) -> list[str]:
    return sorted(f"webvid-{video}-0-{seconds}000" for video in videos)


def counts(plan: object, *names: str) -> tuple[int, ...]:
    return tuple(plan.counts[name] for name in names)


def identity_holds(plan: object) -> bool:
    read, *parts = counts(plan, "read", "new", "changed", "unchanged", "duplicate", "invalid", "filtered")
    return read == sum(parts)


def test_an_empty_bank_gets_everything(bank: Bank) -> None:
    plan = bank.plan(listed(bank, [webvid_row(i) for i in range(10)]))
    assert bank.todo_ids(plan) == {"clips": ids(*range(10))}
    assert all(row["embed"] and row["attempt"] == 1 for row in bank.todo(plan, "clips"))
    assert counts(plan, "read", "new", "unchanged") == (10, 10, 0)
    assert plan.todo() == {stage: {"rows": 10, "shards": 1} for stage in ("clips", "captions", "noise/toy")}
    assert {row["status"] for row in bank.delta(plan)} == {Status.PENDING}


def test_an_unchanged_list_plans_nothing(bank: Bank) -> None:
    plan = bank.plan(first(bank))
    assert plan.is_empty
    assert counts(plan, "read", "unchanged", "new", "changed", "removed") == (10, 10, 0, 0, 0)


def test_new_rows(bank: Bank) -> None:
    first(bank)
    plan = bank.build(listed(bank, [webvid_row(i) for i in range(12)]))
    assert bank.todo_ids(plan) == {"clips": ids(10, 11)}
    assert counts(plan, "new", "unchanged") == (2, 10)
    assert len(bank.rows()) == 12


def test_a_changed_caption_is_embedded_again_and_never_inverted(bank: Bank) -> None:
    first(bank)
    path = listed(bank, [webvid_row(i, "edited" if i == 4 else "") for i in range(10)])
    plan = bank.plan(path, max_changed=1)
    assert bank.todo_ids(plan) == {"captions": ids(4)}
    assert counts(plan, "changed", "unchanged") == (1, 9)
    assert [row["caption"] for row in bank.todo(plan, "captions")] == ["edited"]
    bank.commit(plan, bank.make(plan))
    assert bank.plan(path).is_empty


def test_a_changed_video_is_made_again_and_its_caption_kept(bank: Bank) -> None:
    first(bank)
    path = listed(bank, [webvid_row(i, url="https://example.org/new.mp4" if i == 4 else "") for i in range(10)])
    plan = bank.build(path)
    assert bank.todo_ids(plan) == {"clips": ids(4)}
    assert [row["embed"] for row in bank.todo(plan, "clips")] == [False]
    assert counts(plan, "changed") == (1,)
    assert bank.plan(path).is_empty


def test_another_duration_is_another_row(bank: Bank) -> None:
    first(bank)
    plan = bank.plan(listed(bank, [webvid_row(i, seconds=9 if i == 4 else 5) for i in range(10)]))
    assert counts(plan, "new", "removed", "changed", "unchanged") == (1, 1, 0, 9)
    assert bank.todo_ids(plan) == {"clips": ids(4, seconds=9)}


def test_a_changed_range_of_an_explicit_id_is_a_change(bank: Bank) -> None:
    columns = {"id": "clip", "uri": "uri", "caption": "text", "start": "t0", "end": "t1"}
    path = bank.folder / "table.csv"
    source = [{"kind": "table", "path": str(path), **columns}]
    header = ["clip", "uri", "text", "t0", "t1"]
    write_csv(path, [["a", "v.mp4", "one", "0", "2"], ["b", "v.mp4", "two", "2", "4"]], header)
    bank.build(source)
    write_csv(path, [["a", "v.mp4", "one", "0", "3"], ["b", "v.mp4", "two", "2", "4"]], header)
    plan = bank.plan(source)
    assert counts(plan, "changed", "unchanged", "new", "removed") == (1, 1, 0, 0)
    assert bank.todo_ids(plan) == {"clips": ["table-a"]}


def test_a_removed_row_gets_tombstones(bank: Bank) -> None:
    first(bank)
    path = listed(bank, [webvid_row(i) for i in range(10) if i != 3])
    plan = bank.plan(path)
    assert bank.todo_ids(plan) == {}
    assert [row["status"] for row in bank.delta(plan)] == [Status.REMOVED]
    assert [row["status"] for row in bank.delta(plan, "records/toy")] == [Status.REMOVED]
    assert counts(plan, "removed") == (1,)
    bank.commit(plan, [])
    assert bank.plan(path).is_empty
    back = bank.plan(listed(bank, [webvid_row(i) for i in range(10)]))
    assert counts(back, "new", "unchanged") == (1, 9)


def test_sources_left_out_keep_their_rows_unless_pruned(bank: Bank) -> None:
    one = {"kind": "webvid", "path": str(listed(bank, [webvid_row(1)], "one.csv")), "name": "one"}
    two = {"kind": "webvid", "path": str(listed(bank, [webvid_row(2)], "two.csv")), "name": "two"}
    bank.build([one, two])
    assert bank.plan([one]).is_empty
    plan = bank.plan([one], prune=True)
    assert counts(plan, "removed", "unchanged") == (1, 1)
    assert plan.sources == {"one": {"before": 1, "changed": 0, "removed": 0, "filtered": 0, "rows": 1}}


def test_of_duplicate_ids_the_first_listed_wins(bank: Bank) -> None:
    rows = [webvid_row(1, "first"), webvid_row(2), webvid_row(1, "second"), webvid_row(1, "first")]
    plan = bank.plan(listed(bank, rows))
    assert counts(plan, "read", "new", "duplicate") == (4, 2, 2)
    assert [row["caption"] for row in bank.todo(plan, "clips") if row["id"] == ids(1)[0]] == ["first"]
    turned = bank.plan(listed(bank, rows[::-1]))
    assert [row["caption"] for row in bank.todo(turned, "clips") if row["id"] == ids(1)[0]] == ["first"]
    swapped = bank.plan(listed(bank, [rows[2], rows[0]]))
    assert [row["caption"] for row in bank.todo(swapped, "clips")] == ["second"]


def test_invalid_rows_are_failures_of_the_plan_with_file_and_row(bank: Bank) -> None:
    rows = [webvid_row(1), [*webvid_row(2)[:4], " "], webvid_row(1), [*webvid_row(3)[:2], "soon", "d", "c"]]
    path = listed(bank, rows)
    plan = bank.build(path)
    assert counts(plan, "read", "new", "duplicate", "invalid", "newly_invalid") == (4, 1, 1, 2, 2)
    assert identity_holds(plan)
    failures = bank.failures()
    assert failures[ids(2)[0], "plan"]["code"] == "empty_caption"
    (bad,) = [row for row in failures.values() if row["code"] == "bad_duration"]
    assert "'soon'" in bad["message"] and bad["uri"] == "https://example.org/3.mp4"
    places = [row for entry in plan.locations for row in pq.read_table(bank.folder / "bank" / entry.path).to_pylist()]
    assert sorted((Path(row["file"]).name, row["row"], row["status"]) for row in places) == [
        ("list.csv", 2, "invalid"),
        ("list.csv", 3, "duplicate"),
        ("list.csv", 4, "invalid"),
    ]
    again = bank.plan(path)
    assert again.is_empty
    assert counts(again, "invalid", "newly_invalid", "unchanged") == (2, 0, 1)


def test_an_invalid_row_that_is_mended_leaves_the_failures(bank: Bank) -> None:
    bank.build(listed(bank, [webvid_row(1), [*webvid_row(2)[:4], ""]]))
    assert list(bank.failures()) == [(ids(2)[0], "plan")]
    plan = bank.build(listed(bank, [webvid_row(1), webvid_row(2)]))
    assert counts(plan, "new", "unchanged") == (1, 1)
    assert bank.failures() == {}


def test_an_invalid_listing_does_not_remove_what_is_in_the_bank(bank: Bank) -> None:
    first(bank, 3)
    path = listed(bank, [webvid_row(0), [*webvid_row(1)[:4], ""], webvid_row(2)])
    plan = bank.build(path)
    assert counts(plan, "removed", "unchanged", "invalid", "newly_invalid") == (0, 2, 1, 1)
    assert bank.todo_ids(plan) == {}
    assert [row["status"] for row in bank.rows().values()] == [Status.OK] * 3
    assert list(bank.failures()) == [(ids(1)[0], "plan")]


def test_a_valid_row_beats_an_invalid_one_of_its_id(bank: Bank) -> None:
    plan = bank.plan(listed(bank, [[*webvid_row(1)[:4], ""], webvid_row(1)]))
    assert counts(plan, "new", "invalid", "newly_invalid", "duplicate") == (1, 1, 0, 0)
    assert bank.delta(plan, "failures") == []


def test_permanent_failures_are_not_tried_again_unless_asked_or_changed(bank: Bank) -> None:
    gone = {"clips": {ids(1)[0]: ("http_404", False), ids(2)[0]: ("not_video", False)}}
    path = first(bank, 4, gone)
    assert {key: row["code"] for key, row in bank.failures().items()} == {
        (ids(1)[0], "clips"): "http_404",
        (ids(2)[0], "clips"): "not_video",
    }
    quiet = bank.plan(path)
    assert quiet.is_empty and counts(quiet, "unchanged") == (4,)
    asked = bank.plan(path, retry_failures=["http_404"])
    assert bank.todo_ids(asked) == {"clips": ids(1)}
    assert [row["attempt"] for row in bank.todo(asked, "clips")] == [2]
    assert counts(asked, "retried", "unchanged") == (1, 4)
    assert bank.todo_ids(bank.plan(path, retry_failures=["all"])) == {"clips": ids(1, 2)}
    edited = listed(bank, [webvid_row(i, url="https://example.org/other.mp4" if i == 1 else "") for i in range(4)])
    changed = bank.build(edited)
    assert bank.todo_ids(changed) == {"clips": ids(1)}
    assert [row["attempt"] for row in bank.todo(changed, "clips")] == [1]
    assert list(bank.failures()) == [(ids(2)[0], "clips")]


def test_retryable_failures_are_tried_again_with_growing_pauses_and_a_cap(bank: Bank) -> None:
    down = {"clips": {ids(1)[0]: ("timeout", True)}}
    path = first(bank, 3, down)
    for attempt, hours in enumerate([0, 1, 2, 4, 8, 16, 32], start=2):
        failed_at = time()
        if hours:
            bank.now = failed_at + 3600 * hours - 60
            assert bank.plan(path).is_empty
        bank.now = failed_at + 3600 * hours
        plan = bank.plan(path)
        assert bank.todo_ids(plan) == {"clips": ids(1)}
        assert [row["attempt"] for row in bank.todo(plan, "clips")] == [attempt]
        assert counts(plan, "retried", "unchanged") == (1, 3)
        bank.commit(plan, bank.make(plan, down))
        assert bank.failures()[ids(1)[0], "clips"]["attempts"] == attempt
    bank.now = failed_at + 1e9
    assert bank.plan(path).is_empty
    assert bank.todo_ids(bank.plan(path, retry_failures=["timeout"])) == {"clips": ids(1)}


def test_a_retryable_failure_that_heals_leaves_the_failures(bank: Bank) -> None:
    path = first(bank, 3, {"clips": {ids(1)[0]: ("timeout", True)}})
    bank.now = 1e12
    bank.build(path)
    assert bank.failures() == {}
    assert bank.plan(path).is_empty


def test_a_changed_row_whose_video_cannot_be_had_keeps_its_record(bank: Bank) -> None:
    first(bank, 3)
    before = bank.rows()
    rows = [
        webvid_row(i, "edited" if i == 1 else "", url="https://example.org/gone.mp4" if i == 1 else "")
        for i in range(3)
    ]
    path = listed(bank, rows)
    plan = bank.plan(path)
    bank.commit(plan, bank.make(plan, {"clips": {ids(1)[0]: ("http_404", False)}}))
    after = bank.rows()
    (changed,) = [num for num in after if after[num] != before[num]]
    kept = ("video", "caption", "clip_file", "clip_row", "caption_file", "caption_row")
    assert [after[changed][name] for name in kept] == [before[changed][name] for name in kept]
    assert after[changed]["status"] == Status.FAILED
    assert bank.plan(path).is_empty
    back = bank.plan(listed(bank, [webvid_row(i) for i in range(3)]))
    assert bank.todo_ids(back) == {}
    assert counts(back, "changed") == (1,)
    bank.commit(back, [])
    assert bank.failures() == {}
    assert {row["status"] for row in bank.rows().values()} == {Status.OK}


def test_other_caption_options_embed_everything_and_nothing_else(bank: Bank) -> None:
    path = first(bank)
    bank.fingerprints = FINGERPRINTS | {"captions": "t2"}
    plan = bank.build(path)
    assert bank.todo_ids(plan) == {"captions": ids(*range(10))}
    assert counts(plan, "unchanged", "changed", "retried") == (10, 0, 0)
    assert bank.plan(path).is_empty


def test_other_clip_options_make_clips_and_records_again(bank: Bank) -> None:
    gone = {"clips": {ids(1)[0]: ("too_short", False)}}
    path = first(bank, broken=gone)
    bank.fingerprints = FINGERPRINTS | {"clips": "c2"}
    plan = bank.plan(path)
    assert bank.todo_ids(plan) == {"clips": ids(*range(10))}
    assert plan.todo()["captions"] == {"rows": 1, "shards": 1}
    todo = {row["id"]: (row["attempt"], row["embed"]) for row in bank.todo(plan, "clips")}
    assert todo.pop(ids(1)[0]) == (1, True)
    assert set(todo.values()) == {(1, False)}
    assert {row["clip_file"] for row in bank.delta(plan)} == {0}
    assert {row["status"] for row in bank.delta(plan, "records/toy")} == {Status.REMOVED}
    bank.commit(plan, bank.make(plan))
    assert bank.plan(path).is_empty
    assert bank.failures() == {}


def test_a_new_noise_set_inverts_the_tars_that_exist(bank: Bank) -> None:
    path = first(bank)
    bank.fingerprints = FINGERPRINTS | {"noise/other": "x1"}
    plan = bank.plan(path)
    assert bank.todo_ids(plan) == {"noise/other": ids(*range(10))}
    (task,) = plan.tasks["noise/other"]
    assert (bank.folder / "bank" / task.tar).suffix == ".tar"
    rows = read_task(bank.store, task).to_pylist()
    assert [row["clip_row"] for row in rows] == list(range(10))
    bank.commit(plan, bank.make(plan))
    assert bank.plan(path).is_empty


def test_other_noise_options_invert_again_and_drop_the_old_records(bank: Bank) -> None:
    path = first(bank)
    bank.fingerprints = FINGERPRINTS | {"noise/toy": "n2"}
    plan = bank.plan(path)
    assert bank.todo_ids(plan) == {"noise/toy": ids(*range(10))}
    assert {row["status"] for row in bank.delta(plan, "records/toy")} == {Status.REMOVED}
    bank.commit(plan, bank.make(plan))
    assert bank.plan(path).is_empty


def test_what_is_listed_wrongly_goes_when_other_options_ask_for_it_anew(bank: Bank) -> None:
    first(bank, 3)
    path = listed(bank, [webvid_row(0), [*webvid_row(1)[:4], ""], webvid_row(2)])
    bank.build(path)
    assert list(bank.failures()) == [("webvid-1-0-5000", "plan")] and len(bank.rows()) == 3
    bank.fingerprints = FINGERPRINTS | {"captions": "t2"}
    plan = bank.build(path)
    assert counts(plan, "removed", "invalid") == (1, 1)
    assert [row["status"] for row in bank.delta(plan) if row["status"] == Status.REMOVED] == [Status.REMOVED]
    assert list(bank.failures()) == [("webvid-1-0-5000", "plan")], "it is listed, so it has a status"
    assert bank.plan(path).is_empty


def test_other_options_with_a_source_left_out_are_refused(bank: Bank) -> None:
    one = {"kind": "webvid", "path": str(listed(bank, [webvid_row(1)], "one.csv")), "name": "one"}
    two = {"kind": "webvid", "path": str(listed(bank, [webvid_row(2)], "two.csv")), "name": "two"}
    bank.build([one, two])
    bank.fingerprints = FINGERPRINTS | {"noise/other": "x1"}
    assert bank.todo_ids(bank.plan([one])) == {"noise/other": ["one-1-0-5000"]}
    bank.fingerprints = FINGERPRINTS | {"captions": "t2"}
    with pytest.raises(ConfigError, match=r"sources: two of the bank are left out, but .* captions changed"):
        bank.plan([one])
    assert counts(bank.plan([one], prune=True), "removed") == (1,)


def test_a_record_of_a_set_that_is_not_configured_goes_with_its_clip(bank: Bank) -> None:
    bank.fingerprints = FINGERPRINTS | {"noise/other": "x1"}
    first(bank, 3)
    bank.fingerprints = FINGERPRINTS
    edited = listed(bank, [webvid_row(i, url="https://example.org/new.mp4" if i == 1 else "") for i in range(3)])
    plan = bank.build(edited)
    assert [row["status"] for row in bank.delta(plan, "records/other")] == [Status.REMOVED]
    bank.fingerprints = FINGERPRINTS | {"noise/other": "x1"}
    assert bank.todo_ids(bank.plan(edited)) == {"noise/other": ids(1)}


def test_noise_failures_are_by_set(bank: Bank) -> None:
    bank.fingerprints = FINGERPRINTS | {"noise/other": "x1"}
    broken = {"noise": {ids(1)[0]: ("nan", False), ids(2)[0]: ("out_of_memory", True)}}
    path = first(bank, 4, broken)
    assert sorted(stage for _, stage in bank.failures()) == ["noise/other"] * 2 + ["noise/toy"] * 2
    bank.now = 1e12
    plan = bank.plan(path)
    assert bank.todo_ids(plan) == {"noise/toy": ids(2), "noise/other": ids(2)}
    assert [row["attempt"] for row in bank.todo(plan, "noise/toy")] == [2]
    assert counts(plan, "retried", "unchanged") == (1, 4)
    bank.commit(plan, bank.make(plan))
    assert sorted(bank.failures()) == [(ids(1)[0], "noise/other"), (ids(1)[0], "noise/toy")]
    assert bank.plan(path).is_empty


def test_noise_tasks_are_one_a_tar(bank: Bank) -> None:
    path = listed(bank, [webvid_row(i) for i in range(40)])
    bank.build(path, clips={"maxcount": 16})
    bank.fingerprints = FINGERPRINTS | {"noise/toy": "n2"}
    plan = bank.plan(path, bits=2)
    tars = [task.tar for task in plan.tasks["noise/toy"]]
    assert len(tars) == 3 == len(set(tars))
    assert sum(task.rows for task in plan.tasks["noise/toy"]) == 40
    for task in plan.tasks["noise/toy"]:
        nums = read_task(bank.store, task).column("num").to_pylist()
        assert nums == sorted(nums)


def test_lists_that_lost_or_changed_too_much_are_refused(bank: Bank) -> None:
    first(bank, 20)
    cut = listed(bank, [webvid_row(i) for i in range(17)])
    plan = bank.plan(cut)
    (problem,) = removal_problems(plan, bank.config(cut))
    assert problem.startswith("source webvid: 3 of 20 rows removed, more than max_removed 0.1")
    assert removal_problems(plan, bank.config(cut, max_removed=0.15)) == []
    edited = listed(bank, [webvid_row(i, "x" if i < 3 else "") for i in range(20)])
    (problem,) = removal_problems(bank.plan(edited), bank.config(edited))
    assert "3 of 20 rows changed" in problem
    fine = listed(bank, [webvid_row(i, "x" if i < 2 else "") for i in range(2, 20)])
    assert removal_problems(bank.plan(fine), bank.config(fine)) == []


def test_relative_uris_start_from_the_folder_of_their_list(bank: Bank) -> None:
    for name in ("b", "a"):
        (bank.folder / name).mkdir()
        write_csv(bank.folder / name / "list.csv", [webvid_row(ord(name), url=f"videos/{name}.mp4")])
    paths = [str(bank.folder / name / "list.csv") for name in ("b", "a")]
    plan = bank.plan([{"kind": "webvid", "path": paths}])
    assert plan.folders == (str(bank.folder / "a"), str(bank.folder / "b"))
    found = {plan.resolve(row["uri"], row["base"]) for row in bank.todo(plan, "clips")}
    assert found == {str(bank.folder / name / "videos" / f"{name}.mp4") for name in "ab"}
    for absolute in ("https://example.org/a.mp4", "/data/a.mp4", "youtube:abc", "gs://b/a.mp4"):
        assert plan.resolve(absolute, 0) == absolute


def test_both_layouts_of_one_list_are_the_same_rows(bank: Bank) -> None:
    path = first(bank, 5)
    other = ["name", "videoid", "duration", "contentUrl"]
    places = [HEADER.index(name) for name in other]
    write_csv(path, [[webvid_row(i)[place] for place in places] for i in range(5)], other)
    assert bank.plan(path).is_empty


def test_damage_of_a_plan_says_to_build_again(bank: Bank) -> None:
    plan = bank.plan(listed(bank, [webvid_row(0)]))
    for entry in plan.changes["rows"]:
        bank.store.delete(entry.path)
        with pytest.raises(BankDamaged, match="missing; run the build again, which plans anew"):
            OverlayTable(bank.store, [entry]).read()


def scored(bank: Bank, scores: dict[int, float], **options: object) -> list[dict[str, object]]:
    """A source of a list with a column ``score``."""
    rows = [[str(i), f"{i}.mp4", f"caption of {i}", str(score)] for i, score in scores.items()]
    path = write_csv(bank.folder / "scored.csv", rows, ["id", "uri", "text", "score"])
    return [{"kind": "table", "path": str(path), "id": "id", "uri": "uri", "caption": "text", **options}]


def test_rows_that_a_source_does_not_take_are_counted_and_said(bank: Bank) -> None:
    plan = bank.plan(scored(bank, {i: i for i in range(10)}, where={"score": "> 6"}))
    assert counts(plan, "read", "new", "filtered", "invalid", "newly_invalid") == (10, 3, 7, 0, 0)
    assert identity_holds(plan)
    (entry,) = plan.locations
    rows = [row for row in pq.read_table(bank.folder / "bank" / entry.path).to_pylist() if row["row"] == 7]
    assert [(row["id"], row["status"], row["reason"]) for row in rows] == [
        ("table-6", "filtered", "score is 6, wanted: > 6")
    ]
    assert bank.delta(plan, "failures") == []


def test_a_tightened_filter_counts_under_max_removed_and_is_named(bank: Bank) -> None:
    scores = {i: float(i) for i in range(10)}
    bank.build(scored(bank, scores, where={"score": ">= 1"}))
    plan = bank.plan(scored(bank, scores, where={"score": ">= 4"}))
    assert counts(plan, "unchanged", "removed", "filtered") == (6, 3, 4)
    (problem,) = removal_problems(plan, bank.config(scored(bank, scores, where={"score": ">= 4"})))
    assert "3 of 9 rows removed (3 of them by its filter: where score >= 4), more than max_removed 0.1" in problem
    assert bank.plan(scored(bank, scores, where={"score": ">= 1"})).is_empty


@pytest.mark.parametrize("bits", [0, 3])
def test_the_clips_of_a_limit_are_among_those_of_a_larger_one(bank: Bank, bits: int) -> None:
    scores = {i: float(i) for i in range(100)}
    everything = sorted(row["num"] for row in bank.todo(bank.plan(scored(bank, scores), bits=bits), "clips"))
    few = bank.plan(scored(bank, scores, limit=10), bits=bits, range_bytes=256)
    assert counts(few, "read", "new", "filtered") == (100, 10, 90)
    assert sorted(row["num"] for row in bank.todo(few, "clips")) == everything[:10]
    bank.commit(few, bank.make(few))
    more = bank.plan(scored(bank, scores, limit=30), bits=bits)
    assert counts(more, "new", "unchanged", "removed", "filtered") == (20, 10, 0, 70)
    plan = bank.plan(scored(bank, scores), bits=bits)
    assert counts(plan, "new", "unchanged", "removed", "filtered") == (90, 10, 0, 0)


def test_a_smaller_limit_is_a_tightened_filter(bank: Bank) -> None:
    scores = {i: float(i) for i in range(20)}
    bank.build(scored(bank, scores))
    source = scored(bank, scores, limit=5)
    (problem,) = removal_problems(bank.plan(source), bank.config(source))
    assert "15 of 20 rows removed (15 of them by its filter: limit 5)" in problem


def test_videos_that_moved_to_another_folder_change_no_row(bank: Bank) -> None:
    (bank.folder / "here").mkdir()
    (bank.folder / "there").mkdir()
    rows = [webvid_row(i, url=f"{i}.mp4") for i in range(5)]
    path = str(listed(bank, rows))
    first = bank.build([{"kind": "webvid", "path": path, "root": str(bank.folder / "here")}])
    (task,) = bank.todo(first, "clips")[:1]
    assert first.resolve(task["uri"], task["base"]) == str(bank.folder / "here" / task["uri"])
    moved = bank.plan([{"kind": "webvid", "path": path, "root": str(bank.folder / "there")}])
    assert moved.is_empty and counts(moved, "unchanged", "changed") == (5, 0)


def test_one_key_in_two_tars_is_named_and_one_tar_listed_twice_is_a_duplicate(bank: Bank) -> None:
    for name in ("00.tar", "01.tar"):
        with tarfile.open(bank.folder / name, "w") as tar:
            for member in ("a.mp4", "a.txt"):
                info = tarfile.TarInfo(member)
                info.size = 4
                tar.addfile(info, io.BytesIO(b"text"))
    paths = [str(bank.folder / name) for name in ("00.tar", "01.tar", "00.tar")]
    plan = bank.plan([{"kind": "webdataset", "path": paths}])
    assert counts(plan, "new", "duplicate", "invalid") == (1, 1, 1)
    (failure,) = bank.delta(plan, "failures")
    assert (failure["id"], failure["code"]) == ("webdataset-a", "same_key")
    assert failure["message"].startswith("01.tar#a.mp4 has the key of 00.tar#a.mp4; tell them apart")
    told = bank.plan([{"kind": "webdataset", "path": paths, "id": "{tar}_{key}"}])
    assert counts(told, "new", "duplicate", "invalid") == (2, 1, 0)
