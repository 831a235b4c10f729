"""The judge in the documentation is a judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from noisebank.evaluation.judges import JUDGES, load_judge, read_attributes
from noisebank.evaluation.options import JudgeOptions
from tests.support.docs import import_block


def test_the_judge_in_the_docs_reads_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_block("modules.md", "@register_judge", JUDGES, ("judge", "light"), monkeypatch, tmp_path)
    judge = load_judge(JudgeOptions("light"))
    frames = np.zeros((8, 4, 4, 3), np.uint8)
    assert read_attributes(judge, frames, ("light",)) == {"light": "dark"}
    assert read_attributes(judge, frames + 200, ("light",)) == {"light": "bright"}
