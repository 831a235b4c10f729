"""The picture that the demo ends with."""

from __future__ import annotations

import numpy as np

from pipelines.comparison import LABEL, SHOWN, SIDE, TEXT, Shown, draw_comparison


def test_each_clip_stands_in_its_row_and_column_from_first_frame_to_last() -> None:
    shades = {(column, row): 20 + 100 * column + 40 * row for column in range(2) for row in range(2)}
    clips = {
        place: np.stack([np.full((8, 8, 3), shade + frame, np.uint8) for frame in range(8)])
        for place, shade in shades.items()
    }
    columns = {f"prompt {c}": [Shown(clips[c, r], "note", r == 0) for r in range(2)] for c in range(2)}
    picture = np.asarray(draw_comparison(["first", "second"], columns))
    gap = (picture.shape[1] - LABEL) // 2 - SHOWN * SIDE
    for (column, row), shade in shades.items():
        left, top = LABEL + column * (SHOWN * SIDE + gap), 2 * TEXT + row * (SIDE + 2 * TEXT)
        strip = picture[top : top + SIDE, left : left + SHOWN * SIDE]
        first, last = strip[:, : SIDE - 2], strip[:, -SIDE:-2]
        assert (first == shade).all() and (last == shade + 7).all()
