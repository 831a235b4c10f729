"""Decodes the frames of a clip: every n-th frame, or by time, rotated upright, scaled and centre-cropped.

Decoded by PyAV (FFmpeg) in the order of presentation after one seek. decord 0.6 was measured too: no faster, and it
silently gives other frames than those asked for with open GOPs, edit lists and AVI, and cannot read AV1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from noisebank.errors import RowFailure
from noisebank.video.probe import Probe, check_dimensions, open_video, reason

SCALER = "bicubic+accurate_rnd+full_chroma_int+bitexact"
"""swscale's flags: bicubic filters widen as they shrink (antialiasing); exact whatever the CPU's instructions."""
_UPRIGHT: dict[int, list[tuple[str, str | None]]] = {
    90: [("transpose", "cclock")],
    180: [("hflip", None), ("vflip", None)],
    270: [("transpose", "clock")],
}
"""Filters by counter-clockwise degrees, as the display matrix of a file states them."""


@dataclass(frozen=True)
class ClipSpec:
    """Which frames of a video, and how they come out.

    ``fps`` beats ``frame_stride``; the clip lies inside ``[start_ms, end_ms)``, counted from the video's first frame.
    """

    frames: int
    frame_stride: int
    fps: float | None
    height: int
    width: int
    pixel_format: str
    start_ms: int = 0
    end_ms: int | None = None


@dataclass(frozen=True)
class Decoded:
    """The frames of a clip with what is known of their video."""

    frames: list[Any]
    """``av.VideoFrame`` of the spec's size and pixel format, BT.601, limited range."""
    fps: Fraction
    """Of the clip."""
    source_fps: Fraction
    source_width: int
    source_height: int
    duration_ms: int
    """Of the video; where the file does not state it, up to the last frame read."""


def decode(path: Path, spec: ClipSpec) -> Decoded:
    """Decodes exactly ``spec.frames`` frames.

    Raises:
        RowFailure: a code of :func:`.probe.open_video`, ``too_short`` (too few frames in the range) or
            ``decode_error`` (the stream is damaged).
    """
    with open_video(path) as probe:
        shaper = _Shaper(spec, probe.aspect)
        frames: list[Any] = []
        last_ms = 0.0
        for at_ms, frame in _selected(probe, spec):
            frames.append(shaper.shape(frame))
            last_ms = at_ms
            if len(frames) == spec.frames:
                break
        else:
            raise RowFailure("too_short", _too_short(probe, spec, len(frames)))
        source_fps = probe.fps
        return Decoded(
            frames=frames,
            fps=Fraction(spec.fps).limit_denominator(1000) if spec.fps else source_fps / spec.frame_stride,
            source_fps=source_fps,
            source_width=probe.width,
            source_height=probe.height,
            duration_ms=probe.duration_ms if probe.duration_ms is not None else round(last_ms + 1000 / source_fps),
        )


def _too_short(probe: Probe, spec: ClipSpec, found: int) -> str:
    rhythm = f"at {spec.fps:g} fps" if spec.fps else f"with frame_stride {spec.frame_stride}"
    span = f"[{spec.start_ms}, {'end' if spec.end_ms is None else spec.end_ms}) ms"
    whole = "unknown" if probe.duration_ms is None else f"{probe.duration_ms} ms"
    return f"{found} of {spec.frames} frames {rhythm} in {span} of a video of {whole}"


def _selected(probe: Probe, spec: ClipSpec) -> Iterator[tuple[float, Any]]:
    """Time in ms and frame, for every frame that the spec wants, in order."""
    if spec.fps is None:
        for number, (at_ms, frame) in enumerate(_in_range(probe, spec)):
            if number % spec.frame_stride == 0:
                yield at_ms, frame
        return
    shown: tuple[float, Any] | None = None  # the frame on screen until the next one
    wanted = 0
    for at_ms, frame in _in_range(probe, spec):
        while shown is not None and spec.start_ms + wanted * 1000 / spec.fps < at_ms - 0.5:
            yield shown
            wanted += 1
        shown = at_ms, frame
    while shown is not None and spec.start_ms + wanted * 1000 / spec.fps < shown[0] + 1000 / probe.fps - 0.5:
        yield shown
        wanted += 1


def _in_range(probe: Probe, spec: ClipSpec) -> Iterator[tuple[float, Any]]:
    """Time in ms and frame, for every frame of the range. Times count whole milliseconds, as lists state them."""
    for at_ms, frame in _from(probe, spec.start_ms):
        if spec.end_ms is not None and round(at_ms) >= spec.end_ms:
            return
        if round(at_ms) < spec.start_ms:
            continue
        if frame.is_corrupt:
            raise RowFailure("decode_error", f"the frame at {at_ms / 1000:.3f} s is damaged")
        yield at_ms, frame


def _from(probe: Probe, start_ms: int) -> Iterator[tuple[float, Any]]:
    """Time in ms and frame, from a key frame at or before ``start_ms`` on."""
    if start_ms <= 0:
        yield from _decoded(probe)
        return
    first = next(_decoded(probe), None)
    origin = first[1].pts if first is not None else None
    if origin is not None and _seek(probe, origin + round(start_ms / 1000 / probe.stream.time_base)):
        frames = _decoded(probe, origin)
        first = next(frames, None)
        if first is not None and round(first[0]) <= start_ms:
            yield first
            yield from frames
            return
    with open_video(probe.path) as again:
        yield from _decoded(again)


def _seek(probe: Probe, pts: int) -> bool:
    """Goes to the last key frame before ``pts``; False where the file has no index for that."""
    try:
        probe.container.seek(pts, stream=probe.stream, backward=True)
    except (av.FFmpegError, OverflowError):
        return False
    return True


def _decoded(probe: Probe, origin: int | None = None) -> Iterator[tuple[float, Any]]:
    """Time in ms since the frame at ``origin`` (by default the first decoded) and frame, from here to the end."""
    step_ms = float(1000 / probe.fps)
    at_ms = -step_ms
    try:
        for frame in probe.container.decode(probe.stream):
            check_dimensions(frame.width, frame.height)
            if frame.pts is None:
                at_ms += step_ms
            else:
                origin = frame.pts if origin is None else origin
                at_ms = float((frame.pts - origin) * frame.time_base * 1000)
            yield at_ms, frame
    except av.FFmpegError as error:
        raise RowFailure("decode_error", f"decoding stopped after {at_ms / 1000:.3f} s: {reason(error)}") from error


class _Shaper:
    """One filter graph from decoded frames to those of the clip, made anew where the video changes its format."""

    def __init__(self, spec: ClipSpec, aspect: Fraction) -> None:
        self._spec, self._aspect = spec, aspect
        self._key: tuple[Any, ...] = ()
        self._graph: Any = None

    def shape(self, frame: Any) -> Any:
        """Upright, scaled to cover the clip's size, centre-cropped, square pixels, in the clip's pixel format."""
        key = (frame.width, frame.height, frame.format.name, frame.rotation, frame.colorspace, frame.color_range)
        try:
            if key != self._key:
                self._graph = _graph(frame, self._aspect, self._spec)
                self._key = key
            self._graph.push(frame)
            shaped = self._graph.pull()
        except (av.FFmpegError, ValueError) as error:
            raise RowFailure("decode_error", f"a {frame.format.name} picture: {reason(error)}") from error
        shaped.pict_type = av.video.frame.PictureType.NONE
        return shaped


def _graph(frame: Any, aspect: Fraction, spec: ClipSpec) -> Any:
    """FFmpeg filters: the crop comes before the scaling, which then touches only what is kept."""
    rotation = frame.rotation % 360
    wide, high = Fraction(aspect), Fraction(1)  # of one pixel
    width, height = frame.width, frame.height
    if rotation in (90, 270):
        wide, high, width, height = high, wide, height, width
    scale = max(spec.height / (height * high), spec.width / (width * wide))
    crop_width, crop_height = round(spec.width / scale / wide), round(spec.height / scale / high)
    filters: list[tuple[str, str | None]] = [
        *_UPRIGHT.get(rotation, []),
        ("crop", f"{crop_width}:{crop_height}"),
        ("scale", f"{spec.width}:{spec.height}:flags={SCALER}:out_color_matrix=bt601:out_range=tv"),
        ("format", spec.pixel_format),
        ("setsar", "1"),
    ]
    graph = av.filter.Graph()
    graph.threads = 1
    last = graph.add(
        "buffer",
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000"
        f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
    )
    for name, arguments in [*filters, ("buffersink", None)]:
        following = graph.add(name, arguments)
        last.link_to(following)
        last = following
    graph.configure()
    return graph
