"""Cutting rows into shards, and plans that do not depend on how their lists were split, ordered or partitioned."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisebank.planning.cut import cut_tasks, even_stops, records_a_file
from noisebank.planning.plan import Plan, read_task
from tests.support.bank import Bank, webvid_row, write_csv


@given(st.lists(st.integers(1, 9), max_size=60), st.integers(1, 20))
def test_shards_are_even_small_enough_and_end_between_videos(sizes: list[int], maxcount: int) -> None:
    videos = np.repeat(np.arange(len(sizes)), sizes)
    stops = even_stops(videos, maxcount)
    assert stops == sorted(set(stops)) and (stops[-1:] or [0]) == [len(videos)]
    shards = np.diff([0, *stops])
    assert (shards <= maxcount).all()
    assert len(shards) <= 2 * -(-len(videos) // maxcount) + 1
    if maxcount >= 9:
        edges = set(np.cumsum(sizes).tolist())
        assert set(stops) <= edges


def test_a_video_with_more_clips_than_a_shard_is_split() -> None:
    assert even_stops(np.zeros(10, np.int64), 4) == [4, 7, 10]


@settings(max_examples=50)
@given(st.integers(0, 3000), st.integers(1, 6), st.integers(1, 10), st.integers(0, 2**32))
def test_the_cut_does_not_depend_on_the_files(rows: int, files: int, maxcount: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    nums = np.sort(generator.integers(0, 1 << 63, rows, np.int64))
    bounds = np.sort(generator.integers(0, rows + 1, files - 1))
    parts = np.split(nums, bounds)

    def cut(parts: list[Any]) -> list[list[int]]:
        named = {f"f{i}": part for i, part in enumerate(parts)}
        tasks = cut_tasks("clips", named.items(), sum(map(len, parts)), maxcount)
        assert all(task.rows == sum(stop - start for _, start, stop in task.pieces) for task in tasks)
        return [
            [num for path, start, stop in task.pieces for num in named[path][start:stop].tolist()] for task in tasks
        ]

    found = cut(parts)
    assert [num for task in found for num in task] == nums.tolist()
    assert found == cut([nums])
    assert all(len(task) <= maxcount for task in found)


ROWS = [webvid_row(video, seconds=5 + video % 3) for video in range(300)]


def files_of(bank: Bank, plan: Plan) -> dict[str, list[bytes]]:
    """The content of every hashed file of a plan."""
    content = {name: [bank.store.read(entry.path) for entry in group] for name, group in plan.changes.items()}
    for stage, tasks in plan.tasks.items():
        paths = dict.fromkeys(path for task in tasks for path, _, _ in task.pieces)
        content[stage] = [bank.store.read(path) for path in paths]
        content[f"{stage} pieces"] = [str([piece[1:] for piece in task.pieces]).encode() for task in tasks]
    return content


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    bank = Bank(tmp_path_factory.mktemp("whole"))
    bad = [*ROWS[0][:4], ""]
    path = write_csv(bank.folder / "list.csv", [*ROWS, bad])
    return files_of(bank, bank.plan(path, bits=2, clips={"maxcount": 16}))


def test_other_order_split_and_ranges_give_the_same_bytes(tmp_path: Path, whole: dict[str, list[bytes]]) -> None:
    bank = Bank(tmp_path)
    rows = [*ROWS, [*ROWS[0][:4], ""]]
    random.Random(1).shuffle(rows)
    paths = [str(write_csv(tmp_path / f"{i}.csv", rows[i::3])) for i in range(3)]
    plan = bank.plan([{"kind": "webvid", "path": paths}], range_bytes=500, bits=2, clips={"maxcount": 16})
    assert files_of(bank, plan) == whole
    assert len(whole["clips"]) == 4 and len(whole["clips pieces"]) >= 300 / 16


def test_shards_do_not_depend_on_the_partitions(tmp_path: Path) -> None:
    bank = Bank(tmp_path)
    path = write_csv(tmp_path / "list.csv", ROWS)

    def shards(bits: int) -> list[list[str]]:
        plan = bank.plan(path, bits=bits, clips={"maxcount": 16})
        return [read_task(bank.store, task).column("id").to_pylist() for task in plan.tasks["clips"]]

    assert shards(0) == shards(3) == shards(5)


def test_a_small_update_makes_few_shards(tmp_path: Path) -> None:
    bank = Bank(tmp_path)
    path = write_csv(tmp_path / "list.csv", ROWS[:20])
    assert [task.rows for task in bank.plan(path, bits=6).tasks["clips"]] == [10, 10]


def test_records_of_no_known_shape_are_in_one_file_a_tar() -> None:
    rows = np.array([0, 511, 2**31 - 2], np.int32)
    assert (rows // records_a_file({})).tolist() == [0, 0, 0]
