"""Downloads from YouTube by yt-dlp (an optional dependency), only the wanted range."""

from __future__ import annotations

import logging
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
_PICTURE = f"[height<={MAX_HEIGHT}]"
_SETTINGS = {
    "format": f"bestvideo{_PICTURE}[ext=mp4]/bestvideo{_PICTURE}/best{_PICTURE}/worst",
    "allowed_extractors": ["youtube"],
    "noplaylist": True,
    "nopart": True,
    "overwrites": True,
    "cachedir": False,
    "fixup": "never",
    "updatetime": False,
    "quiet": True,
    "noprogress": True,
    "logger": logging.Logger("yt-dlp", logging.CRITICAL + 1),  # (errors arrive as exceptions)
}
"""One file under exactly the name given, nothing of the user's configuration, no cache, nothing on stdout."""


def download(video: str, destination: Path, options: FetchOptions, range_ms: tuple[int, int] | None) -> None:
    """Writes the video's picture, of at most 720 lines and without sound, to ``destination``.

    Args:
        video: the 11 characters of its id.
        destination: file to write.
        options: time-out, retries and size limit.
        range_ms: start and end wanted, or None for all; the file then begins at the start (frames before it that
            decoding needs are hidden by an edit list). A range needs the ``ffmpeg`` program.

    Raises:
        RowFailure: ``youtube_missing`` (yt-dlp is not installed), ``youtube_unavailable`` (private, removed, ...),
            ``too_large``, ``timeout`` or ``youtube_error``; the first and the last two may heal.
    """
    try:
        import yt_dlp
    except ImportError as error:
        message = f"youtube:{video} needs yt-dlp: pip install 'noisebank[youtube]'"
        raise RowFailure("youtube_missing", message, retryable=True) from error
    deadline = time.monotonic() + DEADLINE_TIMEOUTS * options.timeout

    def check(progress: dict[str, Any]) -> None:
        if (progress.get("downloaded_bytes") or 0) > options.max_bytes:
            raise RowFailure("too_large", f"youtube:{video}: more than fetch.max_bytes = {options.max_bytes}")
        if time.monotonic() >= deadline:
            raise RowFailure("timeout", f"youtube:{video}: not done at the deadline", retryable=True)

    settings = _SETTINGS | {
        "outtmpl": {"default": str(destination).replace("%", "%%")},
        "max_filesize": options.max_bytes,
        "socket_timeout": options.timeout,
        "retries": options.retries,
        "fragment_retries": options.retries,
        "progress_hooks": [check],
    }
    if range_ms is not None:
        seconds = [(range_ms[0] / 1000, range_ms[1] / 1000)]
        settings["download_ranges"] = yt_dlp.utils.download_range_func(None, seconds)
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
