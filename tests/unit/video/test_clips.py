"""The clips of a shard: in order, one download a video, nothing left behind, the same however it is scheduled."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from noisebank.errors import RowFailure
from noisebank.fixtures.videos import make_sample_videos
from noisebank.format.shards import read_foreign_shard
from noisebank.options import ClipOptions, FetchOptions
from noisebank.video import clips as clips_module
from noisebank.video import http
from noisebank.video.clips import Clip, ClipRequest, make_clips
from noisebank.video.frames import decode_mp4
from noisebank.video.sandbox import Sandbox
from noisebank.video.uris import member_uri
from tests.support import media
from tests.support.servers import VideoServer

CLIPS = ClipOptions(frames=4, frame_stride=2, size=32)
FETCH = FetchOptions(timeout=2, retries=1, allow_private_hosts=True)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VideoServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    for name in "abc":
        media.numbered_video(folder / f"{name}.mp4", 50)
    with VideoServer(folder) as running:
        yield running


def outcomes(requests: list[ClipRequest], **changes: object) -> list[Clip | RowFailure]:
    arguments: dict[str, object] = {"clips": CLIPS, "options": FETCH} | changes
    made = [*make_clips(requests, **arguments)]  # type: ignore[arg-type]
    assert [request for request, _ in made] == requests
    return [outcome for _, outcome in made]


def frame_numbers(clip: Clip | RowFailure) -> list[int]:
    assert isinstance(clip, Clip), clip
    return [round((float(frame.mean()) - 20) / media.LEVEL) for frame in decode_mp4(clip.mp4)]


def test_a_clip_and_what_is_told_of_it(server: VideoServer) -> None:
    (clip,) = outcomes([ClipRequest("x-1", f"{server.url}/a.mp4")])
    assert isinstance(clip, Clip)
    assert clip == Clip(
        id="x-1",
        mp4=clip.mp4,
        sha256=hashlib.sha256(clip.mp4).hexdigest(),
        frames=4,
        height=32,
        width=32,
        fps=12.5,
        source_fps=25.0,
        source_width=64,
        source_height=48,
    )
    assert frame_numbers(clip) == [0, 2, 4, 6]


def test_one_download_serves_all_clips_of_a_video_wherever_they_stand(server: VideoServer) -> None:
    a, b = f"{server.url}/a.mp4", f"{server.url}/b.mp4"
    requests = [
        ClipRequest("x-a-0-400", a, 0, 400),
        ClipRequest("x-b-0-400", b, 0, 400),
        ClipRequest("x-a-800-1200", a, 800, 1200),
        ClipRequest("x-a-1900-2000", a, 1900, 2000),
        ClipRequest("x-b-400-800", b, 400, 800),
    ]
    made = outcomes(requests)
    assert [frame_numbers(made[i]) for i in (0, 1, 2, 4)] == [
        [0, 2, 4, 6],
        [0, 2, 4, 6],
        [20, 22, 24, 26],
        [10, 12, 14, 16],
    ]
    assert isinstance(made[3], RowFailure)
    assert made[3].code == "too_short"
    assert server.requests == {"/a.mp4": 1, "/b.mp4": 1}


def test_every_row_has_its_own_outcome(server: VideoServer, tmp_path: Path) -> None:
    for make in (media.audio_only, media.one_frame, media.no_video, media.truncated):
        make(server.folder / f"{make.__name__}.mp4")
    expected = {
        "a.mp4": None,
        "404/a.mp4": "http_404",
        "403/a.mp4": "http_403",
        "flaky/1/b.mp4": None,
        "broken/a.mp4": "http_500",
        "short/a.mp4": "short_body",
        "html/a.mp4": "not_video",
        "empty/a.mp4": "not_video",
        "truncated/a.mp4": "not_video",
        "loop/a.mp4": "redirects",
        "audio_only.mp4": "no_video_stream",
        "one_frame.mp4": "too_short",
        "no_video.mp4": "not_video",
        "truncated.mp4": "not_video",
        "c.mp4": None,
    }
    made = outcomes([ClipRequest(f"x-{n}", f"{server.url}/{path}") for n, path in enumerate(expected)])
    assert [m.code if isinstance(m, RowFailure) else None for m in made] == [*expected.values()]


def test_the_result_depends_on_nothing_but_the_request(server: VideoServer, tmp_path: Path) -> None:
    samples = make_sample_videos(tmp_path / "samples", 6, frames=20)
    requests = [ClipRequest(f"x-{n}", str(s.path)) for n, s in enumerate(samples)]
    requests += [ClipRequest("x-a", f"{server.url}/a.mp4", 200, 1000), ClipRequest("x-404", f"{server.url}/404/a.mp4")]
    alone = Sandbox(1)
    one = outcomes(requests, options=dataclasses.replace(FETCH, concurrency=1), sandbox=alone)
    alone.close()
    many = outcomes(requests[::-1])[::-1]
    assert [*map(str, one)] == [*map(str, many)]
    assert sum(isinstance(clip, Clip) for clip in one) == 7


def test_nothing_is_left_behind_and_files_of_the_user_stay(server: VideoServer, tmp_path: Path) -> None:
    mine = media.numbered_video(tmp_path / "mine.mp4")
    work = tmp_path / "work"
    work.mkdir()
    requests = [ClipRequest("x-1", f"{server.url}/a.mp4"), ClipRequest("x-2", str(mine))]
    requests += [ClipRequest("x-3", f"{server.url}/404/a.mp4"), ClipRequest("x-4", f"{server.url}/short/a.mp4")]
    assert len(outcomes(requests, workdir=work)) == 4
    stopped = make_clips(requests, CLIPS, FETCH, workdir=work)
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]
    assert [*work.iterdir()] == []
    assert mine.is_file()


def test_a_download_that_failed_leaves_nothing_while_others_go_on(server: VideoServer, tmp_path: Path) -> None:
    paths = {
        "endless/a.mp4": "too_large",
        "short/a.mp4": "short_body",
        "loop/a.mp4": "redirects",
        "truncated/a.mp4": "not_video",
        "short/a.tar#a.mp4@512+9000": "http_200",
        "chunked/a.mp4": None,
    }
    options = dataclasses.replace(FETCH, max_bytes=300_000)
    requests = [ClipRequest(f"x-{n}", f"{server.url}/{path}") for n, path in enumerate(paths)]
    (server.folder / "a.tar").write_bytes(bytes(20_000))
    codes = []
    for _, outcome in make_clips(requests, CLIPS, options, workdir=tmp_path):
        codes.append(outcome.code if isinstance(outcome, RowFailure) else None)
        if len(codes) == len(requests):
            (scratch,) = tmp_path.glob("noisebank-*")
            assert [*scratch.iterdir()] == []
    assert codes == [*paths.values()]


def test_the_backlog_bounds_what_waits_and_never_blocks(
    server: VideoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips_module, "MAX_BACKLOG_BYTES", 1)
    uris = [f"{server.url}/{name}.mp4" for name in "abcacb"]
    options = dataclasses.replace(FETCH, concurrency=3)
    requests = [ClipRequest(f"x-{n}", uri, 0, 1000 + n) for n, uri in enumerate(uris)]
    made = make_clips(requests, CLIPS, options, workdir=tmp_path)
    assert [frame_numbers(clip)[0] for _, clip in made] == [0] * 6
    assert server.requests == {"/a.mp4": 1, "/b.mp4": 1, "/c.mp4": 1}


def test_a_full_disk_stops_the_shard(server: VideoServer, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    made = make_clips([ClipRequest("x-1", f"{server.url}/a.mp4")], CLIPS, FETCH, workdir=work)

    def no_space(*args: object, **kwargs: object) -> None:
        raise OSError(28, os.strerror(28))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(clips_module, "fetch", no_space)
        next(made)
    assert [*work.iterdir()] == []


def test_members_of_tars_are_fetched_alone(server: VideoServer, tmp_path: Path) -> None:
    import tarfile

    tar = server.folder / "000.tar"
    long = "folder/" + "n" * 120
    with tarfile.open(tar, "w") as writing:
        for name in ("a", "b"):
            writing.add(server.folder / f"{name}.mp4", f"{name}.mp4")
        writing.add(server.folder / "c.mp4", f"{long}.mp4")
    with tar.open("rb") as file:
        members = [*read_foreign_shard(file)]
    assert [member.key for member in members] == ["a", "b", long]
    uris = [
        member_uri(where, m.name, m.offset, m.size) for where in (str(tar), f"{server.url}/000.tar") for m in members
    ]
    made = outcomes([ClipRequest(f"x-{n}", uri) for n, uri in enumerate(uris)])
    assert [frame_numbers(clip) for clip in made] == [[0, 2, 4, 6]] * 6
    shifted = member_uri(str(tar), "b.mp4", members[1].offset + 512, members[1].size)
    other = member_uri(f"{server.url}/000.tar", "z.mp4", members[1].offset, members[1].size)
    for failed in outcomes([ClipRequest("x-1", shifted), ClipRequest("x-2", other)]):
        assert isinstance(failed, RowFailure)
        assert failed.code == "missing_file"
