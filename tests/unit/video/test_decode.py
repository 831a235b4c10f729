"""Decoding gives exactly the frames asked for, upright, in the right colours; the mp4 loses next to nothing."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from noisebank.errors import RowFailure
from noisebank.fixtures.videos import make_sample_videos, set_rotation
from noisebank.options import ClipOptions, Size
from noisebank.video.decode import Decoded, decode
from noisebank.video.encode import encode_mp4
from noisebank.video.frames import decode_mp4
from tests.support import media
from tests.support.servers import VideoServer

CLIPS = ClipOptions(frames=6, frame_stride=3, size=32)


def decoded_by(path: Path, start_ms: int = 0, end_ms: int | None = None, **changes: Any) -> Decoded:
    return decode(path, dataclasses.replace(CLIPS, **changes), start_ms, end_ms)


def numbers(path: Path, **changes: Any) -> list[int]:
    return media.frame_numbers(decoded_by(path, **changes).frames)


def psnr(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


KINDS: dict[str, Callable[[Path], Path]] = {
    "h264 mp4": lambda d: media.numbered_video(d / "a.mp4"),
    "h264 with open GOPs": lambda d: media.numbered_video(
        d / "a.mp4", options={"g": "12", "bf": "3", "x264-params": "open-gop=1"}
    ),
    "h264 mkv": lambda d: media.numbered_video(d / "a.mkv"),
    "h264 that begins at 1.5 s": lambda d: media.numbered_video(d / "a.mp4", times=range(38, 88)),
    "mpeg4 mp4": lambda d: media.numbered_video(d / "a.mp4", codec="mpeg4"),
    "mpeg4 avi with B frames": lambda d: media.numbered_video(d / "a.avi", codec="mpeg4", options={"bf": "2"}),
    "vp9 webm": lambda d: media.numbered_video(
        d / "a.webm", codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "crf": "4", "b": "0"}
    ),
    "hevc mp4": lambda d: media.numbered_video(
        d / "a.mp4", codec="libx265", height=64, options={"crf": "4", "x265-params": "log-level=0"}
    ),
    "av1 mp4": lambda d: media.av1_video(d / "a.mp4"),
    "mpeg2 ts": lambda d: media.numbered_video(d / "a.ts", codec="mpeg2video", options={"qmin": "1", "qmax": "2"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_nth_frame_from_the_start_of_the_range(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path)
    assert numbers(path) == [0, 3, 6, 9, 12, 15]
    assert numbers(path, start_ms=920, frame_stride=4) == [23, 27, 31, 35, 39, 43]
    assert numbers(path, start_ms=1600, end_ms=2000, frames=10, frame_stride=1) == [*range(40, 50)]


@pytest.mark.parametrize(
    ("aspect", "rotation", "size", "factor"),
    [
        (1, 0, Size(48, 64), None),
        (1, 0, 48, None),
        (1, 0, 64, "1.33"),
        (1, 90, Size(64, 48), None),
        (1, 90, Size(48, 64), "1.33"),
        (2, 0, Size(48, 128), None),
        (Fraction(1, 2), 0, Size(48, 64), "2.00"),
    ],
)
def test_a_picture_that_is_smaller_than_the_clip_is_scaled_up_only_where_that_is_allowed(
    tmp_path: Path, aspect: Fraction | int, rotation: int, size: Size | int, factor: str | None
) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    path = media.write_video(tmp_path / "a.mp4", [picture] * 16, aspect=Fraction(aspect))
    set_rotation(path, rotation)
    assert decoded_by(path, size=size).upscaled == (factor is not None)
    if factor is None:
        assert not decoded_by(path, size=size, upscale=False).upscaled
        return
    with pytest.raises(RowFailure, match=f"a picture of 64 x 48 would be scaled up {factor} times to cover") as found:
        decoded_by(path, size=size, upscale=False)
    assert (found.value.code, found.value.retryable) == ("too_small", False)


def test_frames_hidden_by_an_edit_list_are_not_there(tmp_path: Path) -> None:
    path = media.numbered_video(tmp_path / "a.mp4", times=range(-17, 33), options={"g": "100"})
    assert numbers(path) == [17, 20, 23, 26, 29, 32]
    assert numbers(path, start_ms=400, frame_stride=4) == [27, 31, 35, 39, 43, 47]


def test_the_clip_ends_before_the_range_does(tmp_path: Path) -> None:
    path = media.numbered_video(tmp_path / "a.mp4")
    assert numbers(path, start_ms=200, end_ms=801) == [5, 8, 11, 14, 17, 20]
    with pytest.raises(RowFailure, match=r"too_short: 5 of 6 frames with frame_stride 3 in \[200, 800\) ms"):
        decoded_by(path, start_ms=200, end_ms=800)


def test_times_rounded_to_milliseconds_mean_their_frame(tmp_path: Path) -> None:
    path = media.numbered_video(tmp_path / "a.mp4", fps=Fraction(30000, 1001))
    for first in (1, 2, 10, 29):  # (frame 1 is at 33.37 ms, frame 2 at 66.73)
        start_ms = round(first * 1001 / 30)
        assert numbers(path, start_ms=start_ms, frames=3)[0] == first


def test_fps_takes_the_frame_on_screen(tmp_path: Path) -> None:
    path = media.numbered_video(tmp_path / "a.mp4")
    assert numbers(path, fps=10.0) == [0, 2, 5, 7, 10, 12]
    assert numbers(path, fps=50.0) == [0, 0, 1, 1, 2, 2]
    assert numbers(path, fps=10.0, start_ms=400) == [10, 12, 15, 17, 20, 22]
    assert numbers(path, fps=25.0, frames=50) == [*range(50)]
    with pytest.raises(RowFailure, match="too_short: 20 of 21 frames at 10 fps"):
        decoded_by(path, fps=10.0, frames=21)


def test_fps_follows_the_timestamps_of_a_variable_rate(tmp_path: Path) -> None:
    path = media.numbered_video(tmp_path / "a.mp4", 6, times=[0, 1, 10, 11, 12, 30])
    assert numbers(path, fps=5.0) == [0, 1, 2, 4, 4, 4]  # frames at 0, 200, ... 1000 ms; frame 5 comes at 1200


def test_what_is_told_of_the_video(tmp_path: Path) -> None:
    path = media.numbered_video(tmp_path / "a.mp4", width=80, height=60, fps=Fraction(30000, 1001))
    decoded = decode(path, CLIPS)
    assert (decoded.source_width, decoded.source_height) == (80, 60)
    assert (decoded.source_fps, decoded.fps) == (Fraction(30000, 1001), Fraction(10000, 1001))


def quadrants(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Dark red at the top left, green at the top right, blue at the bottom left, grey at the bottom right."""
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[: height // 2, : width // 2] = 160, 60, 60
    picture[: height // 2, width // 2 :] = 60, 150, 60
    picture[height // 2 :, : width // 2] = 60, 60, 160
    return picture


def corners(frame: npt.NDArray[np.uint8]) -> list[tuple[int, ...]]:
    height, width, _ = frame.shape
    at = [(height // 4, width // 4), (height // 4, 3 * width // 4), (3 * height // 4, width // 4)]
    return [tuple(int(v) for v in frame[y, x]) for y, x in [*at, (3 * height // 4, 3 * width // 4)]]


def clip_of(path: Path, pixel_format: str = "yuv420p", **changes: Any) -> npt.NDArray[np.uint8]:
    decoded = decoded_by(path, pixel_format=pixel_format, **changes)
    return decode_mp4(encode_mp4(decoded.frames, decoded.fps, pixel_format))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_in_the_metadata_is_honoured(tmp_path: Path, degrees: int) -> None:
    upright = quadrants(96, 64)
    stored = np.rot90(upright, degrees // 90)  # counter-clockwise; the metadata say: turn it back clockwise
    path = media.write_video(tmp_path / "a.mp4", [stored] * 10)
    set_rotation(path, degrees)
    frames = clip_of(path, frames=3, size=(96, 64))
    assert frames.shape == (3, 96, 64, 3)
    np.testing.assert_allclose(corners(frames[1]), corners(upright), atol=4)


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (32, 96)])
def test_the_picture_covers_the_clip_and_is_cropped_at_its_centre(tmp_path: Path, size: tuple[int, int]) -> None:
    path = media.write_video(tmp_path / "a.mp4", [quadrants(96, 160)] * 4)
    frames = clip_of(path, frames=2, frame_stride=1, size=size)
    assert frames.shape == (2, *size, 3)
    np.testing.assert_allclose(corners(frames[0]), corners(quadrants(*size)), atol=4)
    edges = np.abs(np.diff(frames[0].astype(int), axis=1)).sum((0, 2)), np.abs(np.diff(frames[0].astype(int), axis=0))
    assert int(edges[0].argmax()) in (size[1] // 2 - 1, size[1] // 2)
    assert int(edges[1].sum((1, 2)).argmax()) in (size[0] // 2 - 1, size[0] // 2)


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    picture = np.full((64, 64, 3), 90, np.uint8)
    picture[:, 24:40] = 200  # a bar of a quarter of the width; shown twice as wide, cropped to a square: half of it
    path = media.write_video(tmp_path / "a.mp4", [picture] * 4, aspect=Fraction(2))
    frames = clip_of(path, frames=2, frame_stride=1, size=64)
    assert int((frames[0, 32, :, 0] > 145).sum()) == pytest.approx(32, abs=2)


def test_shrinking_does_not_alias(tmp_path: Path) -> None:
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    path = media.write_video(tmp_path / "a.mkv", [stripes] * 4, options={"qp": "0"}, pixel_format="yuv444p")
    frames = clip_of(path, frames=2, frame_stride=1, size=32)
    inner = frames[:, :, 4:-4].astype(int)
    assert inner.max() - inner.min() <= 6
    assert inner.mean() == pytest.approx(127, abs=6)


@pytest.mark.parametrize("matrix", [1, 6])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p"])
def test_colours_of_sources_in_bt709_and_bt601_come_back(tmp_path: Path, matrix: int, pixel_format: str) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "4"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 1
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(quadrants(64, 64), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=matrix)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = clip_of(path, frames=2, frame_stride=2, size=64, pixel_format=pixel_format)
    np.testing.assert_allclose(corners(frames[0]), corners(quadrants(64, 64)), atol=4)


def texture(path: Path) -> Path:
    """A moving picture with detail at every scale, like a photograph's, and colours all over."""
    rng = np.random.default_rng(3)
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None])
    frequency[0, 0] = 1
    fields = [np.fft.irfft2(np.fft.rfft2(rng.standard_normal((256, 256))) / frequency, s=(256, 256)) for _ in range(3)]
    base = np.stack([128 + 45 * field / field.std() for field in fields], -1).clip(0, 255).astype(np.uint8)
    options = {"qp": "2", "preset": "ultrafast"}
    pictures = [np.roll(base, (number, 2 * number), (0, 1)) for number in range(24)]
    return media.write_video(path, pictures, options=options, pixel_format="yuv444p")


def planes(frames: list[object]) -> npt.NDArray[np.uint8]:
    return np.stack([frame.to_ndarray() for frame in frames])  # type: ignore[attr-defined]


def encoded(path: Path, pixel_format: str, size: int) -> tuple[Decoded, bytes]:
    decoded = decoded_by(path, size=size, pixel_format=pixel_format)
    return decoded, encode_mp4(decoded.frames, decoded.fps, pixel_format)


def test_quality_in_the_planes_of_yuv420p_and_in_rgb_of_yuv444p(tmp_path: Path) -> None:
    for path in (texture(tmp_path / "a.mp4"), *(s.path for s in make_sample_videos(tmp_path / "s", 3, frames=24))):
        decoded, mp4 = encoded(path, "yuv420p", 128)
        with av.open(io.BytesIO(mp4)) as container:
            back = planes([*container.decode(video=0)])
        assert psnr(planes(decoded.frames), back) >= 42
        decoded, mp4 = encoded(path, "yuv444p", 128)
        source = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded.frames])
        assert psnr(source, decode_mp4(mp4)) >= 40


def test_the_mp4_is_the_same_each_time_and_says_what_it_is(tmp_path: Path) -> None:
    path = texture(tmp_path / "a.mp4")
    _, first = encoded(path, "yuv420p", 64)
    _, second = encoded(path, "yuv420p", 64)
    assert first == second
    with av.open(io.BytesIO(first)) as container:
        stream = container.streams.video[0]
        frames = [*container.decode(stream)]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == Fraction(25, 3)
        assert (frames[0].colorspace, frames[0].color_range) == (6, 1)
        assert len(frames) == 6
        assert "creation_time" not in {**container.metadata, **stream.metadata}


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (media.audio_only, "no_video_stream"),
        (media.one_frame, "too_short"),
        (media.too_short, "too_short"),
        (media.no_video, "not_video"),
        (media.empty, "not_video"),
        (media.truncated, "not_video"),
        (media.truncated_after_index, "decode_error"),
        (media.damaged, "decode_error"),
        (media.huge_dimensions, "bad_dimensions"),
        (media.long_duration, "bad_duration"),
    ],
)
def test_broken_videos(tmp_path: Path, make: Callable[[Path], Path], code: str) -> None:
    path = make(tmp_path / "a.mp4")
    with pytest.raises(RowFailure) as caught:
        decoded_by(path, frames=16)
    assert (caught.value.code, caught.value.retryable) == (code, False)
    assert str(tmp_path) not in caught.value.message


def test_a_playlist_called_mp4_reads_nothing_else(tmp_path: Path) -> None:
    with VideoServer(tmp_path) as server:
        media.numbered_video(tmp_path / "secret.mp4")
        lists = {
            "hls.mp4": f"#EXTM3U\n#EXTINF:2,\n{server.url}/secret.mp4\n#EXT-X-ENDLIST\n",
            "concat.mp4": f"ffconcat version 1.0\nfile '{tmp_path}/secret.mp4'\n",
        }
        for name, text in lists.items():
            (tmp_path / name).write_text(text)
            with pytest.raises(RowFailure, match="not_video"):
                decode(tmp_path / name, CLIPS)
        assert not server.requests


def test_what_is_no_clip_of_ours_is_a_decode_error() -> None:
    with pytest.raises(RowFailure, match="decode_error"):
        decode_mp4(b"no mp4")


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p"])
def test_decord_and_pyav_read_our_clips_alike(tmp_path: Path, pixel_format: str, size: int) -> None:
    _, mp4 = encoded(texture(tmp_path / "a.mp4"), pixel_format, size)
    with av.open(io.BytesIO(mp4)) as container:
        by_pyav = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert by_pyav.shape == (6, size, size, 3)
    np.testing.assert_array_equal(decode_mp4(mp4), by_pyav)
