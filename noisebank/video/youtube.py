"""Downloads from YouTube by yt-dlp (an optional dependency), only the wanted range."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from noisebank.errors import RowFailure
from noisebank.options import FetchOptions
from noisebank.video.http import DEADLINE_TIMEOUTS

MAX_HEIGHT = 720
_GONE = re.compile(
    r"unavailable|private|removed|terminated|copyright|confirm your age|not available|members-only|does not exist", re.I
)


def download(video: str, destination: Path, options: FetchOptions, start_ms: int | None, end_ms: int | None) -> None:
    """Writes the video's picture, of at most 720 lines and without sound, to ``destination``.

    Args:
        video: the 11 characters of its id.
        destination: file to write.
        options: time-out, retries and size limit.
        start_ms, end_ms: the range wanted, or None for all; the file then begins at ``start_ms`` (frames before it
            that decoding needs are hidden by an edit list). A range needs the ``ffmpeg`` program.

    Raises:
        RowFailure: ``youtube_missing`` (yt-dlp is not installed), ``youtube_unavailable`` (private, removed, ...),
            ``too_large``, ``timeout`` or ``youtube_error``; the first and the last two may heal.
    """
    try:
        import yt_dlp
    except ImportError as error:
        raise RowFailure(
            "youtube_missing", f"youtube:{video} needs yt-dlp: pip install 'noisebank[youtube]'", retryable=True
        ) from error
    settings = download_settings(destination, options)
    if start_ms is not None and end_ms is not None:
        settings["download_ranges"] = yt_dlp.utils.download_range_func(None, [(start_ms / 1000, end_ms / 1000)])
    settings["progress_hooks"] = [_guard(video, options, time.monotonic() + DEADLINE_TIMEOUTS * options.timeout)]
    try:
        with yt_dlp.YoutubeDL(settings) as client:
            client.extract_info(f"https://www.youtube.com/watch?v={video}")
    except yt_dlp.utils.YoutubeDLError as error:
        message = " ".join(str(error).split())[:300]
        gone = _GONE.search(message) is not None
        code = "youtube_unavailable" if gone else "youtube_error"
        raise RowFailure(code, f"youtube:{video}: {message}", retryable=not gone) from error
    if not destination.is_file():
        raise RowFailure("too_large", f"youtube:{video}: nothing within fetch.max_bytes = {options.max_bytes}")


def download_settings(destination: Path, options: FetchOptions) -> dict[str, Any]:
    """yt-dlp's settings: one file under exactly this name, nothing of the user's configuration, no cache."""
    picture = f"[height<={MAX_HEIGHT}]"
    return {
        "format": f"bestvideo{picture}[ext=mp4]/bestvideo{picture}/best{picture}/worst",
        "outtmpl": {"default": str(destination).replace("%", "%%")},
        "allowed_extractors": ["youtube"],
        "noplaylist": True,
        "max_filesize": options.max_bytes,
        "socket_timeout": options.timeout,
        "retries": options.retries,
        "fragment_retries": options.retries,
        "nopart": True,
        "overwrites": True,
        "cachedir": False,
        "fixup": "never",
        "updatetime": False,
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": _Silence(),
    }


class _Silence:
    """yt-dlp's logger: errors arrive as exceptions, nothing may reach stdout."""

    def debug(self, message: str) -> None: ...

    def warning(self, message: str) -> None: ...

    def error(self, message: str) -> None: ...


def _guard(video: str, options: FetchOptions, deadline: float) -> Any:
    """A progress hook that stops a download that is too large or takes too long."""

    def hook(progress: dict[str, Any]) -> None:
        if (progress.get("downloaded_bytes") or 0) > options.max_bytes:
            raise RowFailure("too_large", f"youtube:{video}: more than fetch.max_bytes = {options.max_bytes}")
        if time.monotonic() >= deadline:
            raise RowFailure("timeout", f"youtube:{video}: not done at the deadline", retryable=True)

    return hook
