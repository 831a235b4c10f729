"""Encodes a clip to H.264 in mp4, the same bytes for the same frames.

Constant quantiser, no B frames, one thread (x264's bytes depend on their number), one GOP, no dates or versions in the
container. A constant quantiser bounds the error of every frame whatever it shows; psychovisual tuning and adaptive
quantisation, which move the error to where eyes do not look, are off: a network is to see the clip.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

QUANTISER = {"yuv420p": 14, "yuv444p": 12}
"""x264's qp: about 46 dB in the clip's own planes, and for yuv444p more than 40 dB in RGB."""
X264 = "bframes=0:scenecut=0:keyint=infinite:aq-mode=0:psy=0:mbtree=0:weightp=0:ipratio=1.0"
"""Without look-ahead: with mbtree, x264's bytes depend on what its memory held before (seen with core 165)."""
SCALER = "bicubic+accurate_rnd+full_chroma_int+bitexact"
"""swscale's flags: bicubic filters widen as they shrink (antialiasing); exact whatever the CPU's instructions."""
MPEG_RANGE = 1
BT601 = 6  # AVCOL_SPC_SMPTE170M, what readers that ignore the flag assume for a picture of this size too


def encode_mp4(frames: Sequence[Any], fps: Fraction, pixel_format: str) -> bytes:
    """The mp4 file of a clip.

    Args:
        frames: ``av.VideoFrame`` of one even-sided shape in ``pixel_format``, BT.601, limited range.
        fps: frames a second.
        pixel_format: ``yuv420p`` or ``yuv444p``.
    """
    rate = fps.limit_denominator(10**4)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.options = {"preset": "veryfast", "qp": str(QUANTISER[pixel_format]), "x264-params": X264}
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pixel_format
        context = stream.codec_context
        context.thread_count = 1
        context.colorspace, context.color_range = BT601, MPEG_RANGE
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def encode_pictures(pictures: Iterable[npt.NDArray[np.uint8]], fps: Fraction, pixel_format: str) -> bytes:
    """:func:`encode_mp4` of pictures, uint8 RGB ``[H, W, 3]`` with even sides, all of one size."""
    frames: list[Any] = []
    graph = None
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 1000)
        graph = graph or _to_clip_colours(frame.width, frame.height, pixel_format)
        graph.push(frame)
        frames.append(graph.pull())
    return encode_mp4(frames, fps, pixel_format)


def _to_clip_colours(width: int, height: int, pixel_format: str) -> Any:
    """FFmpeg filters from RGB to BT.601 in limited range, exact whatever the CPU's instructions."""
    filters: list[tuple[str, str | None]] = [
        ("buffer", f"video_size={width}x{height}:pix_fmt=rgb24:time_base=1/1000"),
        ("scale", f"flags={SCALER}:out_color_matrix=bt601:out_range=tv"),
        ("format", pixel_format),
        ("buffersink", None),
    ]
    graph = av.filter.Graph()
    graph.threads = 1
    graph.link_nodes(*(graph.add(name, arguments) for name, arguments in filters)).configure()
    return graph
