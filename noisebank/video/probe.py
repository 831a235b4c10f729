"""Opens a video file and says what it is, before a frame is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from noisebank.errors import RowFailure

MAX_SIDE = 8192
MIN_SIDE = 16
MAX_DURATION_S = 24 * 3600
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,ogg,mpeg,mpegts,mpegvideo,h264,hevc,ivf,mxf,nut,rm,gif"
"""Formats that are read. Playlists (hls, concat, dash) are not among them: they name other files and addresses."""


@dataclass(frozen=True)
class Probe:
    """A video stream, opened for decoding."""

    path: Path
    container: Any
    stream: Any
    width: int
    height: int
    fps: Fraction
    aspect: Fraction
    """Width of a pixel over its height."""
    duration_ms: int | None
    """As the file states it; some do not."""


@contextmanager
def open_video(path: Path) -> Iterator[Probe]:
    """The first video stream of a file; the decoder uses one thread, so that the outcome is one.

    Raises:
        RowFailure: ``not_video``, ``no_video_stream``, ``bad_dimensions`` (a side outside 16..8192) or
            ``bad_duration`` (negative or more than a day).
    """
    try:
        container = av.open(
            str(path), options={"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}, metadata_errors="replace"
        )
    except (av.FFmpegError, ValueError) as error:
        raise RowFailure("not_video", f"no video file: {reason(error)}") from error
    with container:
        pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not pictures:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "none"
            raise RowFailure("no_video_stream", f"streams in the file: {kinds}")
        stream = pictures[0]
        if stream.codec_context is None:
            raise RowFailure("decode_error", "the codec of the video is unknown")
        stream.codec_context.thread_count = 1
        width, height = stream.codec_context.width, stream.codec_context.height
        check_dimensions(width, height)
        yield Probe(
            path, container, stream, width, height, _rate(stream), _aspect(stream), _duration_ms(container, stream)
        )


def check_dimensions(width: int, height: int) -> None:
    """Raises ``bad_dimensions`` for a picture that no real video has."""
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise RowFailure("bad_dimensions", f"{width} x {height} pixels; {MIN_SIDE} to {MAX_SIDE} a side are read")


def reason(error: Exception) -> str:
    """FFmpeg's words for an error, without the file's name."""
    return str(getattr(error, "strerror", None) or error)


def _rate(stream: Any) -> Fraction:
    """Average frames a second; 25 where the file does not say."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return Fraction(rate) if rate and 0 < rate <= 1000 else Fraction(25)


def _aspect(stream: Any) -> Fraction:
    """Pixel aspect ratio; 1 where the file does not say or says nonsense."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return Fraction(aspect) if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)


def _duration_ms(container: Any, stream: Any) -> int | None:
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        seconds = container.duration / av.time_base
    else:
        return None
    if not 0 <= seconds <= MAX_DURATION_S:
        raise RowFailure("bad_duration", f"{seconds:g} s; 0 to {MAX_DURATION_S} are read")
    return round(seconds * 1000)
