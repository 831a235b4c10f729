"""From a prompt to a clip: rewritten in the words of the captions, generated from the bank's noise, switched back."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from noisebank import NoiseBank, Rewrites
from noisebank.rewriting.template import Request, plain_text
from tests.support.projects import CAPTIONS, FRAMES, noisebank
from tests.support.small_language_model import make_language_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "generate.py"
PROMPT, ANSWER = "a puppy by the sea", "a dog runs by the sea in a warm light"


def test_a_rewritten_prompt_leads_the_first_steps(
    bank_folder: Path, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = NoiseBank.open(bank_folder).references(PROMPT, k=2)
    question = plain_text(Request(PROMPT, shown))
    model = make_language_model(tmp_path / "model", CAPTIONS, taught={question: ANSWER})
    (tmp_path / "prompts.txt").write_text(PROMPT)
    words = [bank_folder, tmp_path / "prompts.txt", "-o", tmp_path / "rewrites", "--model", model, "--k", 2]
    ran = noisebank("rewrite", *words)
    assert ran.exit_code == 0, ran.stderr
    rewritten = Rewrites.open(tmp_path / "rewrites")[PROMPT]
    assert rewritten == ANSWER

    def generated(name: str, prompt: str, *words: str) -> bytes:
        out = tmp_path / name
        fixed = [str(EXAMPLE), str(bank_folder), str(small_model), prompt, str(out), "--steps", "4", *words]
        monkeypatch.setattr(sys, "argv", fixed)
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        with Image.open(out) as clip:
            assert getattr(clip, "n_frames", 1) == FRAMES
        return out.read_bytes()

    plain = generated("plain.gif", PROMPT)
    led = generated("led.gif", PROMPT, "--rewrite", rewritten, "--gamma", "0.5")
    assert generated("none.gif", PROMPT, "--rewrite", rewritten, "--gamma", "0") == plain != led
