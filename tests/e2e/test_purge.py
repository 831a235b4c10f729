"""A row is taken down and a caption replaced in a real bank: after a purge no file says what they were."""

from __future__ import annotations

import hashlib
import tarfile
from typing import Any

import numpy as np
import pytest

from noisebank.planning.plan import removal_problems
from noisebank.search.embed import load_embedder
from noisebank.stages import clips
from noisebank.storage import open_store
from noisebank.upkeep.compact import compact
from tests.support.bank import decoded_files
from tests.support.minilm import MINILM
from tests.support.projects import Project, noisebank
from transforms import publish

LOOSE = ("--max_failed", 1, "--max_removed", 1, "--max_changed", 1)


def test_a_purged_bank_does_not_know_what_was_taken_down(project: Project) -> None:
    rows = project.rows(6)
    down = rows[0]._replace(id="takendown")
    lost = rows[1]._replace(id="lostvideo", uri="nowhere.mp4", caption="nobody ever saw this")
    project.write_list([down, *rows[1:], lost])
    project.build(*LOOSE)
    vectors = load_embedder(MINILM).embed([down.caption, rows[2].caption])
    mp4 = hashlib.sha256(next(data for key, data in members(project) if key == "mine-takendown.mp4")).hexdigest()
    traces = {
        "id": b"takendown",
        "caption": down.caption.encode(),
        "embedding": np.float32(vectors[0]).tobytes(),
        "digest": mp4.encode(),
        "id of the failed row": b"lostvideo",
        "caption of the failed row": lost.caption.encode(),
        "replaced caption": rows[2].caption.encode(),
        "replaced embedding": np.float32(vectors[1]).tobytes(),
    }
    project.write_list([rows[1], rows[2]._replace(caption="a robot paints a portrait"), *rows[3:]])
    project.build(*LOOSE)
    store = open_store(project.bank)
    before = decoded_files(store)
    assert [what for what, trace in traces.items() if not any(trace in data for data in before.values())] == []
    assert noisebank("compact", project.bank, "--purge").exit_code == 0
    newest = project.look("show")["snapshot"]
    assert noisebank("compact", project.bank, "--purge").exit_code == 0
    assert noisebank("vacuum", project.bank, "--keep", 1).exit_code == 0
    assert project.look("show")["snapshot"] == newest, "a second purge has nothing to do"
    purged = project.look("show", "--snapshot", newest - 1)
    assert purged["rows"] == project.look("show")["rows"], "the purge's own snapshot stays readable beside its vacuum's"
    after = decoded_files(store)
    found = {key: [what for what, trace in traces.items() if trace in data] for key, data in after.items()}
    assert {key: what for key, what in found.items() if what} == {}
    assert project.look("verify")["ok"]
    assert project.search("a robot paints a portrait") == ("mine-clip02", "a robot paints a portrait")
    again = project.build()
    assert not again["committed"] and again["rows"]["in_bank"] == 5


def test_a_build_goes_on_when_a_purge_takes_away_what_it_started_from(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_list(project.rows(4))
    project.build()
    project.write_list(project.rows(7, start=1))
    make_clips, purges = clips.make_clips, []

    def purged_meanwhile(*arguments: Any) -> Any:
        if not purges:
            purges.append(compact(open_store(project.bank), purge=True))
        return make_clips(*arguments)

    monkeypatch.setattr(clips, "make_clips", purged_meanwhile)
    summary = project.build(*LOOSE)
    assert purges and summary["committed"] and summary["rows"]["in_bank"] == 7
    assert project.look("verify")["ok"]


def test_a_build_that_is_refused_is_not_planned_again_after_a_purge(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write_list(project.rows(2))
    project.build()
    project.write_list(project.rows(1))

    purges: list[Any] = []

    def purge_and_find_problems(*arguments: Any) -> Any:
        if not purges:
            purges.append(compact(open_store(project.bank), purge=True))
        return removal_problems(*arguments)

    monkeypatch.setattr(publish, "removal_problems", purge_and_find_problems)
    ran = project.run("build")
    assert purges and ran.exit_code == 1 and "1 of 2 rows removed" in ran.document["error"]["message"]
    assert "planning again" not in ran.stderr


def members(project: Project) -> list[tuple[str, bytes]]:
    """Names and contents of all members of the bank's tars."""
    found = []
    for path in project.look("files", "--kind", "clips")["files"]:
        with tarfile.open(path) as tar:
            found += [(member.name, tar.extractfile(member).read()) for member in tar.getmembers()]
    return found
