"""Videos for tests: exact ones whose frames say their number, and broken ones."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from noisebank.fixtures.videos import NEARLY_LOSSLESS, write_video

LEVEL = 4
"""Grey levels between one frame of :func:`numbered_video` and the next."""


def numbered_video(
    path: Path,
    frames: int = 50,
    *,
    codec: str = "libx264",
    width: int = 64,
    height: int = 48,
    fps: Fraction | int = 25,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Frame ``n`` (of at most 50) is plain grey 20 + 4 n; :func:`frame_numbers` reads it back.

    Args:
        times: time of each frame in units of 1 / fps, from 0 on by default; negative ones are hidden by an edit list.
    """
    pictures = [np.full((height, width, 3), 20 + LEVEL * number, np.uint8) for number in range(frames)]
    options = NEARLY_LOSSLESS.get(codec, {}) | (options or {})
    return write_video(path, pictures, codec=codec, fps=fps, times=times, options=options)


def av1_video(path: Path) -> Path:
    """A numbered video in AV1, encoded by a process of its own.

    SVT-AV1 run by root gives the thread that calls it the real-time scheduling policy for good: the rest of the tests
    would take turns with nothing else on the machine.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        return other.submit(
            numbered_video, path, codec="libsvtav1", height=64, options={"preset": "12", "crf": "10"}
        ).result()


def frame_numbers(frames: Sequence[Any]) -> list[int]:
    """Which frames of a :func:`numbered_video` these ``av.VideoFrame`` are."""
    return [round((float(f.to_ndarray(format="rgb24").mean()) - 20) / LEVEL) for f in frames]


def audio_only(path: Path) -> Path:
    """A second of a tone in mp4."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.codec_context.layout = "mono"
        wave = np.sin(np.arange(16000, dtype=np.float32) * 0.2)[None]
        for start in range(0, 16000, 1024):
            frame = av.AudioFrame.from_ndarray(wave[:, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def one_frame(path: Path) -> Path:
    """A video of a single frame."""
    return numbered_video(path, 1)


def too_short(path: Path) -> Path:
    """A video of ten frames."""
    return numbered_video(path, 10)


def no_video(path: Path) -> Path:
    """Bytes that are no video."""
    path.write_bytes(b"<!DOCTYPE html><html><body>not found</body></html>" * 40)
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def truncated(path: Path) -> Path:
    """An mp4 cut in half; its index, which stands at the end, is lost."""
    numbered_video(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def truncated_after_index(path: Path) -> Path:
    """An mp4 with its index in front, cut in half: it opens, and decoding fails on the way."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (96, 128, 3), np.uint8) for _ in range(40)]
    write_video(path, pictures)
    _index_first(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def damaged(path: Path) -> Path:
    """A video in the middle of whose data 4 kB were overwritten."""
    rng = np.random.default_rng(1)
    write_video(path, [rng.integers(0, 255, (96, 128, 3), np.uint8) for _ in range(40)])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4096] = rng.integers(0, 255, 4096, np.uint8).tobytes()
    path.write_bytes(data)
    return path


def huge_dimensions(path: Path) -> Path:
    """A video 8208 pixels wide."""
    return numbered_video(path, 3, width=8208, height=32)


def long_duration(path: Path) -> Path:
    """A video of 20 frames in 28 hours."""
    return numbered_video(path, 20, fps=Fraction(1, 1000), times=range(0, 100, 5))


def _index_first(path: Path) -> None:
    """Moves an mp4's index (moov) in front of its data, without encoding again."""
    with av.open(str(path)) as source:
        copy = path.with_suffix(".front.mp4")
        with av.open(str(copy), "w", options={"movflags": "faststart"}) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    copy.replace(path)
