"""Clips as pictures in a page: decoded by FFmpeg, kept small, written as WebP, which every browser plays without a
codec of the system's."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from noisebank.errors import BankDamaged

LARGEST_SIDE = 256
"""Pixels; a larger picture is scaled down."""
MOST_FRAMES = 48
_QUALITY = 70


@dataclass(frozen=True)
class Film:
    """Frames uint8 RGB ``[F, H, W, 3]``, shown so many a second."""

    frames: npt.NDArray[np.uint8]
    fps: float

    def animation(self) -> Markup:
        """All frames as the data URI of an animated WebP."""
        from PIL import Image

        first, *rest = map(Image.fromarray, self.frames)
        buffer = io.BytesIO()
        duration = round(1000 / self.fps)
        first.save(
            buffer, "WEBP", save_all=True, append_images=rest, duration=duration, loop=0, quality=_QUALITY, method=4
        )
        return _data_uri(buffer)

    def still(self) -> Markup:
        """The frame in the middle, for those who want no motion."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(self.frames[len(self.frames) // 2]).save(buffer, "WEBP", quality=_QUALITY, method=4)
        return _data_uri(buffer)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.frames.shape[2], self.frames.shape[1]


def decode_film(data: bytes, name: str) -> Film:
    """The frames of a video or GIF, at most :data:`MOST_FRAMES`, no side longer than :data:`LARGEST_SIDE`.

    Args:
        data: the file.
        name: of it, for messages.

    Raises:
        BankDamaged: it is no video.
    """
    import av

    frames = []
    try:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            rate = stream.average_rate or stream.guessed_rate
            for frame in container.decode(stream):
                scale = min(1, LARGEST_SIDE / max(frame.width, frame.height))
                width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
                frames.append(frame.to_ndarray(format="rgb24", width=width, height=height))
                if len(frames) == MOST_FRAMES:
                    break
        if not frames:
            raise BankDamaged(f"{name}: a video without frames; run verify")
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise BankDamaged(f"{name}: cannot be decoded ({error}); run verify") from error
    return Film(np.stack(frames), float(min(max(rate or 8, 1), 30)))


def side_by_side(left: Film, right: Film) -> Film:
    """Both in one picture, so that they run in step; the right one gets the height of the left and as many frames."""
    from PIL import Image

    count, (_, height) = len(left.frames), left.size
    width = round(right.size[0] * height / right.size[1])
    gap = np.full((height, max(1, height // 64), 3), 128, np.uint8)
    pictures = []
    for number in range(count):
        other = Image.fromarray(right.frames[number * len(right.frames) // count]).resize((width, height))
        pictures.append(np.concatenate([left.frames[number], gap, np.asarray(other)], axis=1))
    return Film(np.stack(pictures), left.fps)


def _data_uri(buffer: io.BytesIO) -> Markup:
    return Markup("data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode())
