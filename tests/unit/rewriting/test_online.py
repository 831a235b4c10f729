"""``bank.rewrite``: prompts in the words of a bank's captions, at once; and what importing it all costs."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from noisebank import EndpointRewriter, NoiseBank
from noisebank.rewriting.template import Request
from noisebank.storage import open_store
from tests.support.bank import build
from tests.support.chat import ChatServer, good_answer
from tests.support.projects import CAPTIONS


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> NoiseBank:
    folder = tmp_path_factory.mktemp("online") / "bank"
    build(open_store(folder), {f"mine-{i}": caption for i, caption in enumerate(CAPTIONS[:6])})
    return NoiseBank.open(folder)


def test_a_prompt_is_shown_with_the_captions_nearest_to_it(bank: NoiseBank) -> None:
    seen: list[Request] = []

    def rewriter(requests: Sequence[Request]) -> list[str]:
        seen.extend(requests)
        return [f"{request.prompt} in the sun" for request in requests]

    assert bank.rewrite("a dog", rewriter, k=2, max_words=9) == "a dog in the sun"
    assert seen == [Request("a dog", bank.references("a dog", k=2), 9)]
    prompts = ["a cat", "a dog", "a cat"]
    assert bank.rewrite(prompts, rewriter) == ["a cat in the sun", "a dog in the sun", "a cat in the sun"]
    assert [(request.prompt, len(request.references)) for request in seen[1:]] == [("a cat", 5), ("a dog", 5)]


def test_prompts_are_searched_together_as_one_by_one(bank: NoiseBank) -> None:
    prompts = ["a dog", "cars at night", "someone cooks"]
    assert bank.nearest(prompts, k=3) == [bank.search(prompt, k=3) for prompt in prompts]
    with pytest.raises(ValueError, match="k 0 is not allowed"):
        bank.nearest(prompts, k=0)


def test_a_prompt_without_a_good_answer_stays_and_the_log_says_why(
    bank: NoiseBank, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert bank.rewrite("a dog\x1b", lambda requests: ["I cannot do that."] * len(requests)) == "a dog\x1b"
    assert "prompt 'a dog' stays as it is: refusal" in caplog.text
    strict = bank.rewrite("a dog", lambda requests: ["a brown dog sits"] * len(requests), min_similarity=0.999)
    assert strict == "a dog"


def test_an_endpoint_rewrites_at_once(bank: NoiseBank) -> None:
    with ChatServer() as server:
        rewriter = EndpointRewriter(server.url, "tiny")
        assert bank.rewrite(["a dog", "a cat"], rewriter) == [good_answer("a dog"), good_answer("a cat")]
        assert sorted(server.asked) == ["a cat", "a dog"]


def test_the_library_and_what_needs_no_model_are_light() -> None:
    code = (
        "import sys, noisebank; from noisebank import EndpointRewriter, Rewrites; "
        "heavy = {'torch', 'transformers', 'faiss', 'urllib3', 'apache_beam'} & {*sys.modules}; "
        "EndpointRewriter('http://localhost/v1', 'm'); print(sorted(heavy), 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert ran.stdout.strip() == "[] False", ran.stderr
