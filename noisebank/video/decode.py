"""Decodes the frames of a clip: every n-th frame, or by time, rotated upright, scaled and centre-cropped.

Decoded by PyAV (FFmpeg) in the order of presentation after one seek. decord 0.6 was measured too: no faster, and it
silently gives other frames than those asked for with open GOPs, edit lists and AVI, and cannot read AV1.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from noisebank.errors import RowFailure
from noisebank.options import ClipOptions
from noisebank.video.encode import SCALER

MAX_SIDE = 8192
MIN_SIDE = 16
MAX_DURATION_S = 24 * 3600
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,ogg,mpeg,mpegts,mpegvideo,h264,hevc,ivf,mxf,nut,rm,gif"
"""Formats that are read. Playlists (hls, concat, dash) are not among them: they name other files and addresses."""
_UPRIGHT: dict[int, list[tuple[str, str | None]]] = {
    90: [("transpose", "cclock")],
    180: [("hflip", None), ("vflip", None)],
    270: [("transpose", "clock")],
}
"""Filters by counter-clockwise degrees, as the display matrix of a file states them."""
_Frames = Iterator[tuple[float, Any]]
"""``av.VideoFrame`` after its time in ms, counted from the video's first frame."""


@dataclass(frozen=True)
class Decoded:
    """The frames of a clip with what is known of their video."""

    frames: list[Any]
    """``av.VideoFrame`` of the clip's size and pixel format, BT.601, limited range."""
    fps: Fraction
    """Of the clip."""
    source_fps: Fraction
    source_width: int
    source_height: int
    upscaled: bool = False
    """Whether the picture was smaller than the clip."""


def decode(path: Path, clips: ClipOptions, start_ms: int = 0, end_ms: int | None = None) -> Decoded:
    """Decodes exactly ``clips.frames`` frames.

    Args:
        path: of the video.
        clips: which frames, and how they come out; ``fps`` beats ``frame_stride``.
        start_ms, end_ms: the range ``[start_ms, end_ms)`` that they lie in, counted from the video's first frame.

    Raises:
        RowFailure: ``not_video``, ``no_video_stream``, ``bad_dimensions`` (a side outside 16..8192), ``bad_duration``
            (negative or more than a day), ``too_short`` (too few frames in the range), ``too_small`` (a picture that
            does not cover the clip's size, which ``clips.upscale`` does not allow) or ``decode_error`` (the stream is
            damaged).
    """
    with _open(path) as video:
        graph_of = functools.lru_cache(maxsize=1)(functools.partial(_graph, clips, video.aspect))
        selected = itertools.islice(_select(video, clips, start_ms, end_ms), clips.frames)
        shaped, upscaled = [], False
        for _, frame in selected:
            upscaled |= _is_too_small(frame, clips, video.aspect)
            shaped.append(_shape(frame, graph_of))
        if len(shaped) < clips.frames:
            found = f"{len(shaped)} of {clips.frames} frames"
            rhythm = f"at {clips.fps:g} fps" if clips.fps else f"with frame_stride {clips.frame_stride}"
            span = f"[{start_ms}, {'end' if end_ms is None else end_ms}) ms"
            whole = "unknown" if video.duration_ms is None else f"{video.duration_ms} ms"
            raise RowFailure("too_short", f"{found} {rhythm} in {span} of a video of {whole}")
        return Decoded(
            frames=shaped,
            fps=Fraction(clips.fps).limit_denominator(1000) if clips.fps else video.fps / (clips.frame_stride or 1),
            source_fps=video.fps,
            source_width=video.width,
            source_height=video.height,
            upscaled=upscaled,
        )


class _Video:
    """The first video stream of an open file; the decoder uses one thread, so that the outcome is one."""

    def __init__(self, path: Path, container: Any) -> None:
        pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not pictures:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "none"
            raise RowFailure("no_video_stream", f"streams in the file: {kinds}")
        stream = pictures[0]
        context = stream.codec_context
        if context is None:
            raise RowFailure("decode_error", "the codec of the video is unknown")
        context.thread_count = 1
        _check_dimensions(context.width, context.height)
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate
        aspect = stream.sample_aspect_ratio or context.sample_aspect_ratio
        self.path, self.container, self.stream = path, container, stream
        self.width, self.height = context.width, context.height
        self.fps = Fraction(rate) if rate and 0 < rate <= 1000 else Fraction(25)
        self.aspect = Fraction(aspect) if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)  # of a pixel
        self.duration_ms = self._duration_ms()

    def _duration_ms(self) -> int | None:
        """As the file states it; some do not."""
        if self.stream.duration is not None and self.stream.time_base is not None:
            seconds = float(self.stream.duration * self.stream.time_base)
        elif self.container.duration is not None:
            seconds = self.container.duration / av.time_base
        else:
            return None
        if not 0 <= seconds <= MAX_DURATION_S:
            raise RowFailure("bad_duration", f"{seconds:g} s; 0 to {MAX_DURATION_S} are read")
        return round(seconds * 1000)

    def frames(self, origin: int | None = None) -> _Frames:
        """The frames from here to the end; time 0 is the frame at ``origin``, by default the first decoded."""
        step_ms = float(1000 / self.fps)
        at_ms = -step_ms
        try:
            for frame in self.container.decode(self.stream):
                _check_dimensions(frame.width, frame.height)
                if frame.pts is None:
                    at_ms += step_ms
                else:
                    origin = frame.pts if origin is None else origin
                    at_ms = float((frame.pts - origin) * frame.time_base * 1000)
                yield at_ms, frame
        except av.FFmpegError as error:
            reason = _reason(error)
            raise RowFailure("decode_error", f"decoding stopped after {at_ms / 1000:.3f} s: {reason}") from error

    def frames_from(self, start_ms: int) -> _Frames:
        """The frames from a key frame at or before ``start_ms`` on, or from the first where the file has no index."""
        if start_ms <= 0:
            yield from self.frames()
            return
        _, first = next(self.frames(), (0.0, None))
        if first is not None and first.pts is not None and self._seek(first.pts, start_ms):
            frames = self.frames(first.pts)
            reached = next(frames, None)
            if reached is not None and round(reached[0]) <= start_ms:
                yield from itertools.chain([reached], frames)
                return
        with _open(self.path) as again:
            yield from again.frames()

    def _seek(self, origin: int, start_ms: int) -> bool:
        """Goes to the last key frame before a time; False where the file has no index for that."""
        try:
            pts = origin + round(start_ms / 1000 / self.stream.time_base)
            self.container.seek(pts, stream=self.stream, backward=True)
        except (av.FFmpegError, OverflowError):
            return False
        return True


@contextmanager
def _open(path: Path) -> Iterator[_Video]:
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        container = av.open(str(path), options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise RowFailure("not_video", f"no video file: {_reason(error)}") from error
    with container:
        yield _Video(path, container)


def _check_dimensions(width: int, height: int) -> None:
    """Raises ``bad_dimensions`` for a picture that no real video has."""
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise RowFailure("bad_dimensions", f"{width} x {height} pixels; {MIN_SIDE} to {MAX_SIDE} a side are read")


def _reason(error: Exception) -> str:
    """FFmpeg's words for an error, without the file's name."""
    return str(getattr(error, "strerror", None) or error)


def _select(video: _Video, clips: ClipOptions, start_ms: int, end_ms: int | None) -> _Frames:
    """The frames that a clip wants, in order; by time, those on screen then."""
    frames = _in_range(video, start_ms, end_ms)
    if clips.fps is None:
        yield from itertools.islice(frames, 0, None, clips.frame_stride)
        return
    shown, wanted = next(frames, None), 0
    while shown is not None:
        following = next(frames, None)
        until_ms = following[0] if following is not None else shown[0] + 1000 / video.fps
        while start_ms + wanted * 1000 / clips.fps < until_ms - 0.5:
            yield shown
            wanted += 1
        shown = following


def _in_range(video: _Video, start_ms: int, end_ms: int | None) -> _Frames:
    """The frames of a range. Times count whole milliseconds, as lists state them."""
    for at_ms, frame in video.frames_from(start_ms):
        if end_ms is not None and round(at_ms) >= end_ms:
            return
        if round(at_ms) < start_ms:
            continue
        if frame.is_corrupt:
            raise RowFailure("decode_error", f"the frame at {at_ms / 1000:.3f} s is damaged")
        yield at_ms, frame


def _shape(frame: Any, graph_of: Callable[..., Any]) -> Any:
    """A frame upright, scaled to cover the clip's size, centre-cropped, square pixels, in the clip's pixel format."""
    colours = int(frame.colorspace), int(frame.color_range)
    try:
        graph = graph_of(frame.width, frame.height, frame.format.name, frame.rotation % 360, *colours)
        graph.push(frame)
        shaped = graph.pull()
    except (av.FFmpegError, ValueError) as error:
        raise RowFailure("decode_error", f"a {frame.format.name} picture: {_reason(error)}") from error
    shaped.pict_type = av.video.frame.PictureType.NONE
    return shaped


def _is_too_small(frame: Any, clips: ClipOptions, aspect: Fraction) -> bool:
    """Whether a frame must be scaled up; RowFailure if that is not allowed."""
    _, _, scale = _cover(clips, aspect, frame.width, frame.height, frame.rotation % 360 in (90, 270))
    if scale > 1 and not clips.upscale:
        height, width = clips.height_width
        raise RowFailure(
            "too_small",
            f"a picture of {frame.width} x {frame.height} would be scaled up {float(scale):.2f} times to cover "
            f"{width} x {height}; clips.upscale allows it",
        )
    return scale > 1


def _cover(
    clips: ClipOptions, aspect: Fraction, width: int, height: int, turned: bool
) -> tuple[Fraction, Fraction, Fraction]:
    """Of one pixel, upright, the width and the height, and by what a picture is scaled so that it covers a clip."""
    wide, high = (Fraction(1), aspect) if turned else (aspect, Fraction(1))
    across, down = (height, width) if turned else (width, height)
    out_height, out_width = clips.height_width
    return wide, high, max(out_height / (down * high), out_width / (across * wide))


def _graph(
    clips: ClipOptions, aspect: Fraction, width: int, height: int, format: str, rotation: int, matrix: int, limits: int
) -> Any:
    """FFmpeg filters for frames of one format; the crop comes first, so that only what is kept is scaled."""
    wide, high, scale = _cover(clips, aspect, width, height, rotation in (90, 270))
    out_height, out_width = clips.height_width
    crop_width, crop_height = round(out_width / scale / wide), round(out_height / scale / high)
    source = f"video_size={width}x{height}:pix_fmt={format}:time_base=1/1000:colorspace={matrix}:range={limits}"
    filters: list[tuple[str, str | None]] = [
        ("buffer", source),
        *_UPRIGHT.get(rotation, []),
        ("crop", f"{crop_width}:{crop_height}"),
        ("scale", f"{out_width}:{out_height}:flags={SCALER}:out_color_matrix=bt601:out_range=tv"),
        ("format", clips.pixel_format),
        ("setsar", "1"),
        ("buffersink", None),
    ]
    graph = av.filter.Graph()
    graph.threads = 1
    graph.link_nodes(*(graph.add(name, arguments) for name, arguments in filters)).configure()
    return graph
