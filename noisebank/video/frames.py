"""Reads our own clips back, for the noise stage."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from noisebank.errors import RowFailure


def decode_mp4(mp4: bytes) -> npt.NDArray[np.uint8]:
    """The frames of a clip made by :func:`.encode.encode_mp4`, decoded by decord in this process by one thread.

    Args:
        mp4: the file; its sides are multiples of 16 (decord 0.6 miscounts the bytes of some other rows).

    Returns:
        uint8 RGB ``[F, H, W, 3]``.

    Raises:
        RowFailure: ``decode_error``, when the bytes are no such file.
    """
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(io.BytesIO(mp4), ctx=decord.cpu(0), num_threads=1)
        frames: npt.NDArray[np.uint8] = reader.get_batch(range(len(reader))).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise RowFailure("decode_error", f"not a clip of ours: {str(error).splitlines()[0]}") from error
    return frames
