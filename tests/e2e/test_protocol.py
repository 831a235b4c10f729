"""What may happen between the plan of a build and its commit, and what becomes of the build then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import transforms.publish
from noisebank.storage import open_store
from noisebank.upkeep.vacuum import vacuum
from tests.support.projects import CAPTIONS, Project, Ran
from tests.support.servers import VideoServer

LOOSE = ("--max_removed", 1, "--max_changed", 1)


@pytest.fixture
def before_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something done when the next build has finished all its work and is about to commit."""

    def interpose(deed: Callable[[], object]) -> None:
        original = transforms.publish.commit
        waiting = [deed]

        def commit(*arguments: Any) -> Any:
            if waiting:
                waiting.pop()()
            return original(*arguments)

        monkeypatch.setattr(transforms.publish, "commit", commit)

    return interpose


def snapshots(project: Project) -> list[dict[str, Any]]:
    """The snapshots of a bank as JSON, those that were vacuumed included."""
    return [json.loads(path.read_bytes()) for path in sorted(project.bank.glob("snapshots/*.json"))]


def assert_conflict(ran: Ran, says: str) -> None:
    """A build ended with exit code 3 and says why."""
    assert ran.exit_code == 3, ran.stderr
    assert ran.document["error"]["type"] == "SnapshotConflict"
    assert says in ran.document["error"]["message"]


def found(project: Project, count: int) -> set[str]:
    """The ids that search finds."""
    return {hit["id"] for hit in project.look("search", "anything", "-k", count)["hits"]}


def ids(*numbers: int) -> set[str]:
    return {f"mine-clip{i:02}" for i in numbers}


def test_an_outage_fails_everything_and_the_rerun_after_it_succeeds(project: Project, server: VideoServer) -> None:
    rows = project.rows(2)
    project.write_list(rows)
    project.build()
    project.write_list([*rows, *project.rows(4, start=2, address=f"{server.url}/broken")])
    for attempt in (1, 2):
        server.requests.clear()
        ran = project.run("build")
        assert ran.exit_code == 1
        assert "4 of 4 rows failed" in ran.document["error"]["message"]
        assert "http_500" in ran.document["error"]["message"]
        assert set(server.requests) == {f"/broken/v0{i}.mp4" for i in range(2, 6)}, f"attempt {attempt}"
        assert (len(snapshots(project)), found(project, 10)) == (1, ids(0, 1))
    server.healthy = True
    summary = project.build()
    assert (summary["snapshot"], summary["rows"]["in_bank"], summary["rows"]["failed"]) == (2, 6, 0)
    assert project.failures() == {}
    assert found(project, 10) == ids(*range(6))


def test_an_outage_that_looked_permanent_is_over_when_failures_are_retried(
    project: Project, server: VideoServer
) -> None:
    """Servers that said 404 to everything: nothing was published, so only the finished shards know of it."""
    project.write_list(project.rows(3, address=f"{server.url}/404"))
    assert project.run("build").exit_code == 1
    server.healthy = True
    ran = project.run("build")
    assert ran.exit_code == 1, "what is permanent is not tried again by itself"
    summary = project.build("--retry_failures", "http_404")
    assert (summary["rows"]["in_bank"], summary["rows"]["failed"]) == (3, 0)
    assert project.failures() == {}


@pytest.fixture
def overtaken(project: Project, before_commit: Callable[[Callable[[], object]], None]) -> Callable[..., None]:
    """A bank at its second snapshot, and a row to add; meanwhile another source is built, and the bank vacuumed."""

    def overtake(builds: int, **options: Any) -> None:
        project.write_list(project.rows(1))
        project.build()
        project.write_list(project.rows(2))
        project.build()
        project.write_list(project.rows(3))

        def deed() -> None:
            yours = yaml.safe_dump([project.source("yours", "yours.csv")])
            for i in range(builds):
                project.write_list(project.rows(3 - builds + i, start=4), "yours.csv")
                assert project.build("--sources", yours)["snapshot"] == 3 + i
            assert vacuum(open_store(project.bank), **options).snapshot.number == 3 + builds

        before_commit(deed)

    return overtake


def test_a_writer_rebases_over_another_build_and_a_vacuum(project: Project, overtaken: Callable[..., None]) -> None:
    overtaken(builds=1, keep=1)
    summary = project.build()
    assert (summary["snapshot"], summary["parent"], summary["rows"]["in_bank"]) == (5, 2, 5)
    assert found(project, 10) == ids(0, 1, 2) | {"yours-clip04", "yours-clip05"}
    assert project.look("verify")["ok"]
    assert [("expired_by" in document) for document in snapshots(project)] == [True, False, False, False, False]


def test_a_writer_stalled_across_a_vacuum_of_its_parent_is_told_to_run_again(
    project: Project, overtaken: Callable[..., None]
) -> None:
    overtaken(builds=2, keep=1, unpublished_seconds=-1)
    assert_conflict(project.run("build"), "run the build again")
    assert found(project, 10) == ids(0, 1) | {"yours-clip04", "yours-clip05"}
    assert project.look("verify")["ok"]
    summary = project.build()
    assert (summary["snapshot"], summary["rows"]["in_bank"]) == (6, 5)
    assert found(project, 10) == ids(0, 1, 2) | {"yours-clip04", "yours-clip05"}
    assert project.look("verify")["ok"]


def test_a_vacuum_between_the_adoption_of_a_finished_shard_and_its_commit(
    project: Project, before_commit: Callable[[Callable[[], object]], None]
) -> None:
    """A caption that goes back to what it was finds its old embedding, which a vacuum takes away meanwhile."""
    rows = project.rows(3)
    edited = [rows[0]._replace(caption="a robot paints a portrait"), *rows[1:]]
    project.write_list(rows)
    project.build()
    first = set(project.look("files", "--kind", "captions")["files"])
    project.write_list(edited)
    project.build(*LOOSE)
    project.write_list([edited[0], *(row._replace(caption=f"not {row.caption}") for row in rows[1:])])
    project.build(*LOOSE)
    assert not first & set(project.look("files", "--kind", "captions")["files"])

    project.write_list(rows)
    before_commit(lambda: vacuum(open_store(project.bank), keep=1, unpublished_seconds=-1))
    assert_conflict(project.run("build", *LOOSE), "run the build again")
    assert project.search("a robot paints a portrait")[1] == "a robot paints a portrait"
    assert project.look("verify")["ok"]
    summary = project.build(*LOOSE)
    assert summary["rows"]["changed"] == 3
    for row in rows:
        assert project.search(row.caption) == (f"mine-{row.id}", row.caption)
    assert project.look("verify")["ok"]
    assert not any(Path(path).exists() for path in first), "made again under another name"


def test_a_commit_step_that_runs_twice_finds_its_own_snapshot(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = transforms.publish.commit
    committed = []

    def counted(*arguments: Any) -> Any:
        snapshot = commit(*arguments)
        committed.append(snapshot.number)
        return snapshot

    monkeypatch.setattr(transforms.publish, "commit", counted)
    for count in (2, 3):
        project.write_list(project.rows(count))
        summary = project.build("--direct_runner_bundle_repeat=1")
        assert summary["committed"] and summary["rows"]["in_bank"] == count
    assert committed == [1, 1, 2, 2]
    assert len(snapshots(project)) == 2
    assert project.search(CAPTIONS[2]) == ("mine-clip02", CAPTIONS[2])
    assert project.look("verify")["ok"]
