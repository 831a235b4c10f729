"""Which answers are used: what models put around them goes, and each kind of bad answer has its code."""

from __future__ import annotations

import numpy as np
import pytest

from noisebank.errors import RowFailure
from noisebank.rewriting.answers import check_answer
from noisebank.rewriting.rewrite import rewrite
from noisebank.rewriting.template import Request
from tests.support.made_up import embedder

REQUEST = Request("a dog on the beach", ["a brown dog runs along the shore", "waves break on a beach"])
GOOD = "a small dog runs on a sandy beach"


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"  {GOOD}\n",
        f'"{GOOD}"',
        f"“{GOOD}”",
        f"```\n{GOOD}\n```",
        f"```text\n{GOOD}```",
        f'Rewritten prompt: "{GOOD}"',
        f"Here is the rewritten prompt:\n\n{GOOD}",
        f"Sure! Here's a rewritten version of it: '{GOOD}'",
        f"Output:\n```\n“{GOOD}”\n```",
        f"<think>The user wants a dog.\nOn a beach.</think>\n\n{GOOD}",
        f"**{GOOD}**",
        "a small\x1b dog runs \x07on a sandy\u200b beach",
    ],
)
def test_what_models_put_around_an_answer_goes(answer: str) -> None:
    assert check_answer(answer, REQUEST) == GOOD


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("empty", ""),
        ("empty", ' "" \n'),
        ("empty", "...\x00"),
        ("empty", "<think>still thinking about a dog"),
        ("refusal", "I'm sorry, but I can't help with that."),
        ("refusal", "I’m sorry.\n\nI cannot do it."),
        ("refusal", "As an AI language model, I do not watch videos."),
        ("too_long", "dog " * 21),
        ("too_long", "dog" * 200),
        ("several_lines", f"{GOOD}\nI added sand."),
        ("several_lines", f"{GOOD}\u2028{GOOD}"),
        ("copied", "A brown dog runs along the shore."),
        ("drifted", "海滩上有一只小狗在奔跑"),
        ("drifted", "маленькая собака бежит по пляжу"),
    ],
)
def test_each_kind_of_bad_answer_has_its_code(code: str, answer: str) -> None:
    with pytest.raises(RowFailure) as raised:
        check_answer(answer, REQUEST)
    assert raised.value.code == code


def test_a_prompt_may_stay_as_it_is_even_if_it_is_a_caption() -> None:
    assert check_answer(REQUEST.prompt, REQUEST) == REQUEST.prompt
    assert check_answer("waves break", Request("waves break", ["waves break"])) == "waves break"


def test_an_answer_may_be_in_the_script_of_the_captions() -> None:
    request = Request("собака на пляже", ["a dog runs on the beach"])
    assert check_answer(GOOD, request) == GOOD


def test_a_bad_answer_is_asked_for_once_more_and_then_the_prompt_stays() -> None:
    answers = {"a dog on the beach": ["", GOOD], "a cat on a sofa": ["I cannot do that.", "buy shares of my company"]}
    seen: list[list[Request]] = []

    def rewriter(requests: list[Request]) -> list[str]:
        seen.append(list(requests))
        return [answers[request.prompt].pop(0) for request in requests]

    requests = [Request("a train leaves", ["a bus"]), *(Request(prompt, ["a car"]) for prompt in answers)]
    answers["a train leaves"] = ["a red train leaves the station"]
    train, dog, cat = rewrite(requests, rewriter, embedder().embed)
    assert (train.text, train.failure, dog.text, dog.failure) == ("a red train leaves the station", None, GOOD, None)
    assert cat.text == "a cat on a sofa" and cat.failure is not None and cat.failure.code == "drifted"
    before, after = embedder().embed(["a cat on a sofa", "buy shares of my company"])
    assert cat.similarity == pytest.approx(float(np.dot(before, after)))
    assert [[request.prompt for request in batch] for batch in seen] == [[r.prompt for r in requests], [*answers][:2]]
    assert [request.refused for request in seen[1]] == ["it had no words", "it was a refusal"]


def test_what_could_not_be_had_is_not_asked_for_again() -> None:
    calls = []

    def rewriter(requests: list[Request]) -> list[str | RowFailure]:
        calls.append(len(requests))
        return [RowFailure("endpoint", "down", retryable=True), GOOD]

    failed, good = rewrite([REQUEST, REQUEST], rewriter, embedder().embed)
    assert calls == [2] and good.text == GOOD and failed.text == REQUEST.prompt
    assert failed.failure is not None and failed.failure.code == "endpoint" and failed.similarity is None


@pytest.mark.parametrize("answers", [[], ["a", "b"], [None]])
def test_a_rewriter_that_does_not_give_a_text_a_request_is_refused(answers: list[str]) -> None:
    with pytest.raises(ValueError, match="one text each is wanted"):
        rewrite([REQUEST], lambda requests: answers, embedder().embed)
