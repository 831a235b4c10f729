"""Encodes a clip to H.264 in mp4, the same bytes for the same frames.

Constant quantiser, no B frames, one thread (x264's bytes depend on their number), one GOP, no dates or versions in the
container. A constant quantiser bounds the error of every frame whatever it shows; psychovisual tuning and adaptive
quantisation, which move the error to where eyes do not look, are off: a network is to see the clip.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av

QUANTISER = {"yuv420p": 14, "yuv444p": 12}
"""x264's qp: about 46 dB in the clip's own planes, and for yuv444p more than 40 dB in RGB."""
X264 = "bframes=0:scenecut=0:keyint=infinite:aq-mode=0:psy=0:mbtree=0:weightp=0:ipratio=1.0"
"""Without look-ahead: with mbtree, x264's bytes depend on what its memory held before (seen with core 165)."""
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
