"""A list in which everything goes wrong: every row ends in one status of its own, and nothing is counted twice."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from noisebank.video import addresses
from tests.support import media
from tests.support.projects import CAPTIONS, Project, Row, noisebank
from tests.support.servers import VideoServer

DURATION = "PT00H00M05S"
GOOD = 5
EXPECTED = {
    "404": "http_404",
    "403": "http_403",
    "hang": "timeout",
    "short": "short_body",
    "html": "not_video",
    "page": "not_video",
    "zero": "not_video",
    "cut": "not_video",
    "audio": "no_video_stream",
    "single": "too_short",
    "private": "private_address",
    "secret": "private_address",
    "loop": "redirects",
    "large": "too_large",
    "endless": "too_large",
    "mute": "empty_caption",
    "undated": "bad_duration",
}
"""Code of each bad row by its video id."""
RETRYABLE = {"hang", "short"}


@pytest.fixture
def webvid(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose source is a WebVid csv; the loopback address plays the public internet."""
    public = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda text: text == "127.0.0.1" or public(text))
    project.configure(
        sources=[{"kind": "webvid", "path": str(project.folder / "list.csv")}],
        fetch={"timeout": 0.5, "retries": 1, "max_bytes": 200_000, "concurrency": 32},
    )
    return project


@pytest.fixture
def bad_videos(tmp_path: Path, videos: Path) -> Path:
    """The videos, and files that are none."""
    folder = tmp_path / "served"
    folder.mkdir()
    for video in videos.iterdir():
        (folder / video.name).symlink_to(video)
    media.audio_only(folder / "audio.mp4")
    media.one_frame(folder / "single.mp4")
    (folder / "large.mp4").write_bytes(bytes(200_001))
    return folder


def write_webvid(path: Path, server: VideoServer) -> None:
    """A csv of five good rows, one of which takes a second try, and one for everything that goes wrong."""
    at = {
        "404": "404/v00.mp4",
        "403": "403/v00.mp4",
        "hang": "hang/v00.mp4",
        "short": "short/v00.mp4",
        "html": "html/v00.mp4",
        "page": "page/v00.mp4",
        "zero": "empty/v00.mp4",
        "cut": "truncated/v00.mp4",
        "audio": "audio.mp4",
        "single": "single.mp4",
        "secret": "private/v00.mp4",
        "loop": "loop/v00.mp4",
        "large": "large.mp4",
        "endless": "endless/v00.mp4",
    }
    rows = [[f"good{i}", f"{server.url}/v{i:02}.mp4", DURATION, "page", CAPTIONS[i]] for i in range(GOOD - 1)]
    rows.append(["heals", f"{server.url}/flaky/1/v04.mp4", DURATION, "page", CAPTIONS[4]])
    rows += [[id, f"{server.url}/{where}", DURATION, "page", f"a bad one, {id}"] for id, where in at.items()]
    rows.append(["private", "http://10.0.0.1/v00.mp4", DURATION, "page", "in somebody's office"])
    rows.append(["mute", f"{server.url}/v05.mp4", DURATION, "page", " "])
    rows.append(["undated", f"{server.url}/v05.mp4", "soon", "page", "nobody knows how long"])
    rows.append(["good1", f"{server.url}/v06.mp4", DURATION, "page", "listed before"])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["videoid", "contentUrl", "duration", "page_dir", "name"], *rows])


def video_id(id: str) -> str:
    """The video id of a WebVid clip; a row without a duration has no range, hence no id but a hash of its values."""
    return "undated" if id.startswith("webvid-invalid-") else id.removeprefix("webvid-").removesuffix("-0-5000")


def test_every_row_ends_in_one_status_and_finished_work_is_kept(webvid: Project, bad_videos: Path) -> None:
    with VideoServer(bad_videos) as server:
        write_webvid(webvid.folder / "list.csv", server)

        refused = webvid.run("build")
        assert refused.exit_code == 1
        assert "max_failed 0.05" in refused.stderr and "nothing is published" in refused.stderr
        total, message = re.search(r"(\d+) of \d+ rows failed, (.*)", refused.stderr).groups()
        listed = message.partition(" Failed: ")[2].partition(". ")[0]
        assert sum(int(count) for count in re.findall(r"(\d+) \w+", listed)) == int(total), "all are accounted for"
        assert not list(webvid.bank.glob("noise")), "nothing is inverted of what cannot be published"
        assert f"'noisebank failures {webvid.bank} --unpublished' lists them all" in refused.stderr
        unpublished = webvid.look("failures", "--unpublished")["failures"]
        assert {video_id(failure["id"]): failure["code"] for failure in unpublished} == EXPECTED
        assert not list(webvid.bank.glob("snapshots/*"))
        good = [f"/v{i:02}.mp4" for i in range(GOOD - 1)]
        assert [server.requests[path] for path in good] == [1] * len(good)
        assert server.requests["/flaky/1/v04.mp4"] == 2
        assert server.requests["/404/v00.mp4"] == server.requests["/403/v00.mp4"] == 1
        assert server.requests["/hang/v00.mp4"] == server.requests["/short/v00.mp4"] == 2
        assert server.requests["/v05.mp4"] == server.requests["/v06.mp4"] == 0

        server.requests.clear()
        summary = webvid.build("--max_failed", 1)
        assert set(server.requests) == {"/hang/v00.mp4", "/short/v00.mp4"}

    rows = summary["rows"]
    invalid, failed = 2, len(EXPECTED) - 2
    assert rows == {
        "read": GOOD + len(EXPECTED) + 1,
        "new": GOOD + failed,
        "changed": 0,
        "unchanged": 0,
        "removed": 0,
        "duplicate": 1,
        "invalid": invalid,
        "filtered": 0,
        "retried": 0,
        "failed": failed,
        "in_bank": GOOD,
    }
    ends = ("new", "changed", "unchanged", "duplicate", "invalid", "filtered")
    assert rows["read"] == sum(rows[name] for name in ends)
    failures = webvid.look("failures")["failures"]
    assert {video_id(failure["id"]): failure["code"] for failure in failures} == EXPECTED
    assert webvid.look("failures", "--unpublished")["failures"] == []
    told = ("id", "source", "uri", "stage", "code", "message", "retryable")
    permanent = [[f[name] for name in told] for f in failures if not f["retryable"]]
    assert permanent == [[f[name] for name in told] for f in unpublished if not f["retryable"]]
    assert len(failures) == len(EXPECTED)
    assert {video_id(failure["id"]) for failure in failures if failure["retryable"]} == RETRYABLE
    stages = {video_id(failure["id"]): failure["stage"] for failure in failures}
    assert stages == {id: "plan" if id in ("mute", "undated") else "clips" for id in EXPECTED}
    assert webvid.look("show")["failures"] == {code: list(EXPECTED.values()).count(code) for code in EXPECTED.values()}
    for i, id in enumerate(["good0", "good1", "good2", "good3", "heals"]):
        assert webvid.search(CAPTIONS[i]) == (f"webvid-{id}-0-5000", CAPTIONS[i])


def test_messages_name_the_row_the_value_and_what_is_wanted(webvid: Project, bad_videos: Path) -> None:
    with VideoServer(bad_videos) as server:
        write_webvid(webvid.folder / "list.csv", server)
        webvid.build("--max_failed", 1)
        failures = {video_id(failure["id"]): failure for failure in webvid.look("failures")["failures"]}
        assert failures["404"]["message"] == f"{server.url}/404/v00.mp4: HTTP 404"
        assert failures["404"]["uri"] == f"{server.url}/404/v00.mp4"
    assert "no byte for 0.5 s (2 tries)" in failures["hang"]["message"]
    assert "10.0.0.1, which is not public" in failures["private"]["message"]
    assert "169.254.169.254" in failures["secret"]["message"]
    assert "fetch.max_bytes is 200000" in failures["large"]["message"]
    assert "'soon'" in failures["undated"]["message"]
    assert failures["undated"]["message"].endswith(f"{webvid.folder / 'list.csv'}, row 22)")
    assert failures["mute"]["message"].startswith("no caption for")


def test_a_rerun_tries_again_only_what_may_heal(webvid: Project, bad_videos: Path) -> None:
    with VideoServer(bad_videos) as server:
        write_webvid(webvid.folder / "list.csv", server)
        webvid.build("--max_failed", 1)
        server.requests.clear()
        server.healthy = True
        again = webvid.build()
        assert set(server.requests) == {"/hang/v00.mp4", "/short/v00.mp4"}
    assert again["rows"]["retried"] == len(RETRYABLE)
    assert again["rows"]["failed"] == 0
    assert again["rows"]["in_bank"] == GOOD + len(RETRYABLE)
    assert again["rows"]["unchanged"] == GOOD + len(EXPECTED) - 2
    left = {video_id(failure["id"]): failure["code"] for failure in webvid.look("failures")["failures"]}
    assert left == {id: code for id, code in EXPECTED.items() if id not in RETRYABLE}


def test_running_the_same_command_again_does_not_get_past_the_gate(project: Project, server: VideoServer) -> None:
    rows = project.rows(4, address=server.url)
    bad = [Row(f"bad{i}", f"{server.url}/404/{i}.mp4", f"missing number {i}") for i in range(2)]
    project.write_list([*rows, *bad])
    for _ in range(2):
        server.requests.clear()
        refused = project.run("build")
        assert refused.exit_code == 1
        message = refused.document["error"]["message"]
        assert "2 of 6 rows failed" in message
        assert "run 'build', or 'clips' and the stages after it, again with --retry-failures http_404, which" in message
        unpublished = project.look("failures", "--unpublished")["failures"]
        assert [failure["id"] for failure in unpublished] == ["mine-bad0", "mine-bad1"]
    assert not server.requests
    assert not list(project.bank.glob("snapshots/*"))
    summary = project.build("--max_failed", 0.4)
    assert not server.requests
    assert summary["rows"]["failed"] == 2 and summary["rows"]["in_bank"] == 4
    assert summary["failed_by_code"] == {"http_404": 2}
    assert project.search(CAPTIONS[3]) == ("mine-clip03", CAPTIONS[3])
    assert project.look("sample", CAPTIONS[3], "-o", project.folder / "x.safetensors")["shape"] == [1, 4, 4, 8, 8]


def test_an_address_without_a_bank_has_no_unpublished_failures_either(tmp_path: Path) -> None:
    ran = noisebank("failures", tmp_path, "--unpublished")
    assert ran.exit_code == 1 and ran.document["error"]["type"] == "BankNotFound"


def test_a_noise_set_that_fails_its_quality_gate_is_not_published_on_the_second_try_either(project: Project) -> None:
    project.write_list(project.rows(4))
    project.build()
    strict = {**project.config["noise"][0], "name": "strict", "measured": 1, "max_reconstruction_error": 1e-6}
    project.configure(noise=[*project.config["noise"], strict])
    for _ in range(2):
        refused = project.run("build")
        assert refused.exit_code == 1
        assert "4 of 4 clips of noise/strict failed" in refused.document["error"]["message"]
        unpublished = project.look("failures", "--unpublished")["failures"]
        assert [(failure["stage"], failure["code"]) for failure in unpublished] == [
            ("noise/strict", "reconstruction_error")
        ] * 4
    assert project.look("show")["snapshot"] == 1
    summary = project.build("--max_failed", 1)
    assert summary["failed_by_code"] == {"reconstruction_error": 4}
    failures = project.look("failures")["failures"]
    assert {(failure["stage"], failure["retryable"]) for failure in failures} == {("noise/strict", False)}
    for failure in failures:
        assert re.fullmatch(
            r"the record gives its clip back with relative error 0\.\d+, above 1e-06", failure["message"]
        )
    assert summary["rows"]["in_bank"] == 0
    assert list(project.look("show")["noise"]) == ["small", "strict"]


def test_moving_the_quality_gate_inverts_nothing_again_and_what_it_failed_can_be_retried(project: Project) -> None:
    project.write_list(project.rows(3))
    noise = project.config["noise"][0]
    project.configure(noise=[{**noise, "measured": 1, "max_reconstruction_error": 1e-6}])
    project.build("--max_failed", 1)
    project.configure(noise=[noise])
    assert not project.build()["committed"]
    retried = project.build("--retry-failures", "reconstruction_error")
    assert (retried["rows"]["retried"], retried["rows"]["in_bank"], project.failures()) == (3, 3, {})
    project.configure(noise=[{**noise, "measured": 1, "max_reconstruction_error": 1e-6}])
    assert not project.build()["committed"]
    assert project.look("show")["noise"]["small"]["records"] == 3
