"""Anchor images that a list gives: fetched as videos are, and cut to the clip's size."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from noisebank.errors import RowFailure
from noisebank.options import FetchOptions
from noisebank.video.fetch import fetch
from noisebank.video.uris import shown

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MIN_SIDE, MAX_SIDE = 16, 8192


def load_anchor(uri: str, size: tuple[int, int], options: FetchOptions) -> torch.Tensor:
    """The image at an address, upright, scaled to cover the size and centre-cropped.

    Args:
        uri: a path, ``http(s)://``, ``gs://``, ``s3://``, ``az://``, or a member of a tar.
        size: height and width in pixels.
        options: how it is fetched.

    Returns:
        ``[H, W, 3]`` uint8 RGB.

    Raises:
        RowFailure: ``no_image`` where there is none, or ``wrong_shape`` for one that is too small or too large.
    """
    height, width = size
    with tempfile.TemporaryDirectory(prefix="noisebank-anchor-") as scratch:
        try:
            path = fetch(uri, Path(scratch, "image"), options).path
            with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
                image = Image.open(path, formats=FORMATS)
            with image:
                sides = image.size
                if not all(MIN_SIDE <= side <= MAX_SIDE for side in sides):
                    wanted = f"{MIN_SIDE} to {MAX_SIDE} a side are read"
                    raise RowFailure("wrong_shape", f"{shown(uri)}: {sides[0]} x {sides[1]} pixels; {wanted}")
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except RowFailure as failure:
            if failure.code == "wrong_shape":
                raise
            raise RowFailure("no_image", f"{failure.code}: {failure.message}", retryable=failure.retryable) from failure
        except (
            OSError,
            SyntaxError,
            ValueError,
            UnidentifiedImageError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:  # (what Pillow raises for what is no image, or a damaged one)
            raise RowFailure("no_image", f"{shown(uri)}: no image: {error}") from error
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted))
