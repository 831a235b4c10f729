"""The sample videos are what their captions and names say, and always the same."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from noisebank.samples import COLOURS, MOTIONS, make_sample_videos, set_rotation
from noisebank.video.decode import ClipSpec, decode


def test_they_vary_and_can_all_be_decoded(tmp_path: Path) -> None:
    samples = make_sample_videos(tmp_path, 6, frames=16)
    codecs, rates, sizes = set(), set(), set()
    for sample in samples:
        decoded = decode(sample.path, ClipSpec(16, 1, None, 64, 64, "yuv420p"))
        assert decoded.duration_ms == pytest.approx(sample.duration_ms, abs=2)
        with av.open(str(sample.path)) as container:
            codecs.add(container.streams.video[0].codec_context.name)
        rates.add(decoded.source_fps)
        sizes.add((decoded.source_height, decoded.source_width))
    assert codecs == {"h264", "mpeg4", "vp9"}
    assert len(rates) >= 4
    assert len(sizes) >= 5
    assert len({sample.caption for sample in samples}) == 6


def test_the_same_arguments_give_the_same_files(tmp_path: Path) -> None:
    first = make_sample_videos(tmp_path / "a", 6, frames=8)
    second = make_sample_videos(tmp_path / "b", 6, frames=8)
    other = make_sample_videos(tmp_path / "c", 1, seed=1, frames=8)
    assert [s.path.read_bytes() for s in first] == [s.path.read_bytes() for s in second]
    assert first[0].caption != other[0].caption


def test_the_thing_has_the_colour_and_the_motion_of_its_caption(tmp_path: Path) -> None:
    checked = 0
    for sample in make_sample_videos(tmp_path, 18, frames=12):
        colour = COLOURS[sample.caption.split()[1]]
        motion = next(direction for words, direction in MOTIONS.items() if f" {words} over " in sample.caption)
        decoded = decode(sample.path, ClipSpec(12, 1, None, 96, 96, "yuv420p"))
        places = [place(frame.to_ndarray(format="rgb24"), colour) for frame in (decoded.frames[4], decoded.frames[8])]
        if motion == (0.0, 0.0) or None in places:  # it circles, or the backdrop has its colour
            continue
        (x0, y0), (x1, y1) = places  # type: ignore[misc]
        assert (x1 - x0) * motion[0] + (y1 - y0) * motion[1] > 5, sample
        checked += 1
    assert checked >= 5


def place(picture: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> tuple[float, float] | None:
    """The middle, x and y in pixels, of what has about this hue; None where that is next to nothing or a lot."""
    direction = picture - picture.mean(2, keepdims=True)
    wanted = np.asarray(colour) - np.mean(colour)
    length = np.linalg.norm(direction, axis=2) * np.linalg.norm(wanted)
    rows, columns = np.nonzero((direction @ wanted > 0.97 * length) & (length > 500))
    return (columns.mean(), rows.mean()) if 100 < len(rows) < 3000 else None


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_written_where_ffmpeg_reads_it(tmp_path: Path, degrees: int) -> None:
    (sample,) = make_sample_videos(tmp_path, 1, frames=3)
    set_rotation(sample.path, degrees)
    with av.open(str(sample.path)) as container:
        frame = next(container.decode(video=0))
    assert frame.rotation % 360 == (-degrees) % 360  # FFmpeg counts counter-clockwise
