"""A row is taken down and a caption replaced in a real bank: after a purge no file says what they were."""

from __future__ import annotations

import hashlib
import tarfile

import numpy as np

from noisebank.search.embed import load_embedder
from noisebank.storage import open_store
from tests.support.bank import decoded_files
from tests.support.minilm import MINILM
from tests.support.projects import Project, noisebank

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


def members(project: Project) -> list[tuple[str, bytes]]:
    """Names and contents of all members of the bank's tars."""
    found = []
    for path in project.look("files", "--kind", "clips")["files"]:
        with tarfile.open(path) as tar:
            found += [(member.name, tar.extractfile(member).read()) for member in tar.getmembers()]
    return found
