"""Contact sheets: as large as their rows, and no larger than their most rows."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from noisebank.synthesis.sheet import ROWS, ContactSheet, draw_text_row


def sheet(count: int) -> np.ndarray:
    contacts = ContactSheet()
    for number in range(count):
        contacts.add(draw_text_row(f"prompt {number}"))
    return np.asarray(Image.open(io.BytesIO(contacts.to_png())))


def test_a_sheet_says_how_many_prompts_it_does_not_show() -> None:
    few, most, more, many = (sheet(count) for count in (2, ROWS, ROWS + 1, ROWS + 100))
    height = len(few) // 2
    assert len(most) == ROWS * height and len(more) == len(many) == (ROWS + 1) * height
    assert np.array_equal(more[: len(most)], most) and np.array_equal(many[: len(most)], most)
    for found, count in ((more, 1), (many, 100)):
        said = np.asarray(Image.open(io.BytesIO(draw_text_row(f"not shown: {count} more"))))
        assert np.array_equal(found[len(most) :], said)
