"""Reads our own clips back, for the noise stage."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from ..errors import RowFailure


def decode_mp4(mp4: bytes) -> npt.NDArray[np.uint8]:
    """The frames of a clip made by :func:`.encode.encode_mp4`, decoded in this process by one thread.

    Args:
        mp4: the file.

    Returns:
        uint8 RGB ``[F, H, W, 3]``.

    Raises:
        RowFailure: ``decode_error``, when the bytes are no such file.
    """
    import av

    try:
        with av.open(io.BytesIO(mp4), format="mp4") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise RowFailure("decode_error", f"not a clip of ours: {error}") from error
