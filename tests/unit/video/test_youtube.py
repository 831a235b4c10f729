"""YouTube: what yt-dlp is asked for, and what becomes of its errors. No network: its extractor is stood in for."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noisebank.errors import RowFailure
from noisebank.options import ClipOptions, FetchOptions
from noisebank.video.decode import decode
from noisebank.video.fetch import fetch
from tests.support.media import frame_numbers, numbered_video
from tests.support.servers import VideoServer

yt_dlp = pytest.importorskip("yt_dlp")
VIDEO = "dQw4w9WgXcQ"
Extract = Callable[[Any, str], dict[str, Any]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VideoServer]:
    (tmp_path / "served").mkdir()
    numbered_video(tmp_path / "served" / "a.mp4")
    with VideoServer(tmp_path / "served") as running:
        yield running


def extractor(monkeypatch: pytest.MonkeyPatch, extract: Extract) -> None:
    """Replaces what asks YouTube; choosing a format, downloading and writing stay yt-dlp's."""
    monkeypatch.setattr("yt_dlp.extractor.youtube.YoutubeIE._real_extract", extract)


def video(url: str) -> dict[str, Any]:
    picture = {"vcodec": "avc1", "acodec": "none", "ext": "mp4"}
    formats = [picture | {"format_id": str(h), "height": h, "url": url if h == 720 else url + "x"} for h in (720, 1080)]
    return {"id": VIDEO, "title": "a video", "formats": formats}


def test_the_picture_of_at_most_720_lines_is_downloaded(
    server: VideoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor(monkeypatch, lambda self, url: video(f"{server.url}/a.mp4"))
    fetched = fetch(f"youtube:{VIDEO}", tmp_path / "5", FetchOptions())
    assert fetched == (tmp_path / "5", 0)
    decoded = decode(fetched.path, ClipOptions(frames=4, frame_stride=2, size=32))
    assert frame_numbers(decoded.frames) == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("message", "code", "retryable"),
    [
        ("Video unavailable. This video has been removed by the uploader", "youtube_unavailable", False),
        ("Private video. Sign in if you've been granted access", "youtube_unavailable", False),
        ("HTTP Error 503: Service Temporarily Overloaded", "youtube_error", True),
    ],
)
def test_what_yt_dlp_says_becomes_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, code: str, retryable: bool
) -> None:
    def extract(self: Any, url: str) -> dict[str, Any]:
        raise yt_dlp.utils.ExtractorError(message, expected=True)

    extractor(monkeypatch, extract)
    with pytest.raises(RowFailure) as caught:
        fetch(f"https://youtu.be/{VIDEO}", tmp_path / "out", FetchOptions())
    assert (caught.value.code, caught.value.retryable) == (code, retryable)


def test_a_video_over_the_limit(server: VideoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor(monkeypatch, lambda self, url: video(f"{server.url}/a.mp4"))
    with pytest.raises(RowFailure) as caught:
        fetch(f"youtube:{VIDEO}", tmp_path / "out", FetchOptions(max_bytes=100))
    assert caught.value.code == "too_large"


def test_a_range_is_all_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def extract_info(self: Any, url: str) -> None:
        asked.extend([url, [*self.params["download_ranges"]({}, self)]])
        numbered_video(tmp_path / "out.mp4").rename(tmp_path / "out")

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", extract_info)
    fetched = fetch(f"youtube:{VIDEO}", tmp_path / "out", FetchOptions(), (61_500, 65_000))
    assert fetched == (tmp_path / "out", 61_500)
    assert asked[0] == f"https://www.youtube.com/watch?v={VIDEO}"
    assert [(part["start_time"], part["end_time"]) for part in asked[1]] == [(61.5, 65.0)]


def test_without_yt_dlp_the_row_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "yt_dlp":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(RowFailure, match=r"noisebank\[youtube\]") as caught:
        fetch(f"youtube:{VIDEO}", tmp_path / "out", FetchOptions())
    assert (caught.value.code, caught.value.retryable) == ("youtube_missing", True)
