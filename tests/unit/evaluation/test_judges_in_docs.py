"""The judge in the documentation is a judge."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from noisebank import options
from noisebank.evaluation.judges import JUDGES, load_judge, read_attributes
from noisebank.evaluation.options import JudgeOptions
from noisebank.options import OPTION_CLASSES

DOCS = Path(__file__).parents[3] / "docs" / "modules.md"


def test_the_judge_in_the_docs_reads_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "@register_judge" in block)
    (tmp_path / "judge_of_the_docs.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for registry, key in (
        (JUDGES, "light"),
        (OPTION_CLASSES, ("judge", "light")),
        (options._REGISTERED_BY, ("judge", "light")),
    ):
        monkeypatch.setitem(registry, key, "judge_of_the_docs")  # type: ignore[attr-defined]
    importlib.import_module("judge_of_the_docs")
    monkeypatch.delitem(sys.modules, "judge_of_the_docs")
    judge = load_judge(JudgeOptions("light"))
    frames = np.zeros((8, 4, 4, 3), np.uint8)
    assert read_attributes(judge, frames, ("light",)) == {"light": "dark"}
    assert read_attributes(judge, frames + 200, ("light",)) == {"light": "bright"}
