"""What the two pixel formats of a stored clip keep: in their own planes, in RGB, and in the latents. Prints markdown.

    python -m benchmarks.pixel_formats

Every clip is compared with its frames before encoding, resized in ``yuv444p``. The VAE is the small models' own
AutoencoderKL. Its four latents are a thumbnail (luma, two chroma differences, the luma's horizontal gradient), each of
unit variance: with 8 x 8 pixels a latent, as in Stable Diffusion, and with 2 x 2, which keeps finer detail. A trained
VAE was not measured.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch

from noisebank.evaluation.measures import psnr
from noisebank.fixtures.small_models import make_small_model
from noisebank.fixtures.videos import make_sample_videos, write_video
from noisebank.inversion import relative_error
from noisebank.models import ModelAdapter, load_model
from noisebank.options import PIXEL_FORMATS, ClipOptions
from noisebank.video.decode import decode
from noisebank.video.encode import encode_mp4
from noisebank.video.frames import decode_mp4

SIZE, FRAMES = 128, 16
SPATIAL_RATIOS = (8, 2)
VIDEOS = 6


def run(videos: int = VIDEOS) -> list[dict[str, Any]]:
    """What each pixel format does to captioned sample videos and to a clip of hard-edged pure colours.

    Args:
        videos: how many samples; six have all the codecs.

    Returns:
        For every kind of clip and pixel format, means over the clips: ``planes_db`` and ``rgb_db`` (PSNR),
        ``latents_8`` and ``latents_2`` (relative error of the latents, by pixels a latent), ``kilobytes`` of the mp4.
    """
    with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as folder:
        models = {
            ratio: load_model(str(make_small_model("modelscope", Path(folder, f"model-{ratio}"), spatial_ratio=ratio)))
            for ratio in SPATIAL_RATIOS
        }
        kinds = {
            "sample videos": [sample.path for sample in make_sample_videos(Path(folder, "samples"), videos)],
            "hard-edged pure colours": [_pure_colours(Path(folder, "colours.mp4"))],
        }
        return [
            {
                "clips": kind,
                "pixel_format": pixel_format,
                **_mean(_measured(path, pixel_format, models) for path in paths),
            }
            for kind, paths in kinds.items()
            for pixel_format in PIXEL_FORMATS
        ]


def _measured(path: Path, pixel_format: str, models: dict[int, ModelAdapter]) -> dict[str, float]:
    """The measures of one video."""
    unencoded = np.stack([frame.to_ndarray(format="rgb24") for frame in decode(path, _clips("yuv444p")).frames])
    decoded = decode(path, _clips(pixel_format))
    planes = _planes(decoded.frames)
    mp4 = encode_mp4(decoded.frames, decoded.fps, pixel_format)
    with av.open(io.BytesIO(mp4)) as container:
        kept = _planes(container.decode(video=0))
    rgb = decode_mp4(mp4)
    measures = {"planes_db": psnr(planes, kept), "rgb_db": psnr(unencoded, rgb), "kilobytes": len(mp4) / 1000}
    for ratio, model in models.items():
        latents, expected = (model.encode(torch.from_numpy(frames)[None]) for frames in (rgb, unencoded))
        measures[f"latents_{ratio}"] = relative_error(latents, expected).item()
    return measures


def _clips(pixel_format: str) -> ClipOptions:
    return ClipOptions(frames=FRAMES, frame_stride=4, size=SIZE, pixel_format=pixel_format)


def _planes(frames: Any) -> npt.NDArray[np.uint8]:
    """All samples of all planes of ``av.VideoFrame``."""
    return np.stack([frame.to_ndarray() for frame in frames])


def _pure_colours(path: Path) -> Path:
    """Squares of fully saturated colours that move by odd numbers of pixels: the worst case of subsampled chroma."""
    corners = np.random.default_rng(0).integers(0, 2, (32, 32, 3), np.uint8) * 255
    picture = corners.repeat(8, 0).repeat(8, 1)
    pictures = [np.roll(picture, (number, 3 * number), (0, 1)) for number in range(4 * FRAMES)]
    return write_video(path, pictures, options={"qp": "0", "preset": "ultrafast"}, pixel_format="yuv444p")


def _mean(measures: Iterator[dict[str, float]]) -> dict[str, float]:
    rows = list(measures)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def main() -> None:
    """Print the table of docs/clips.md."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    print("| clips | pixel format | planes, dB | RGB, dB | latents, 8 x 8 | latents, 2 x 2 | kB a clip |")
    print("|---" * 7 + "|")
    for row in run():
        print(
            f"| {row['clips']} | {row['pixel_format']} | {row['planes_db']:.1f} | {row['rgb_db']:.1f} "
            f"| {row['latents_8']:.1e} | {row['latents_2']:.1e} | {row['kilobytes']:.0f} |"
        )


if __name__ == "__main__":
    main()
