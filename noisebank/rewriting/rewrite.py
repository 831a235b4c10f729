"""From requests to rewrites: the rewriter is asked, its answers are checked, and what failed is asked once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from noisebank.errors import RowFailure
from noisebank.rewriting.answers import ADVICE, check_answer
from noisebank.rewriting.template import Request, Rewriter

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Embeddings ``[N, D]`` of texts, each of length one."""
MIN_SIMILARITY = 0.4
TRIES = 2


@dataclass(frozen=True)
class Rewritten:
    """What became of a prompt.

    Args:
        text: the rewrite; the prompt itself where there is none.
        failure: why there is none.
        similarity: cosine of the embeddings of the prompt and of the answer, as far as one was looked at.
    """

    text: str
    failure: RowFailure | None = None
    similarity: float | None = None


def rewrite(
    requests: Sequence[Request], rewriter: Rewriter, embed: Embed, min_similarity: float = MIN_SIMILARITY
) -> list[Rewritten]:
    """Asks for a rewrite of every prompt; an answer that cannot be used is asked for once more.

    Args:
        requests: one a prompt.
        rewriter: answers them.
        embed: the bank's captions model.
        min_similarity: an answer whose cosine to its prompt is less has ``drifted``.

    Raises:
        ValueError: the rewriter gave another number of answers than it got requests.
    """
    results: dict[int, Rewritten] = {}
    asked = dict(enumerate(requests))
    for _ in range(TRIES):
        if not asked:
            break
        results |= zip(asked, _try(list(asked.values()), rewriter, embed, min_similarity), strict=True)
        asked = {
            i: request.again(ADVICE.get(failure.code, "it could not be used"))
            for i, request in asked.items()
            if (failure := results[i].failure) and not failure.retryable
        }
    return [results[i] for i in range(len(requests))]


def _try(requests: Sequence[Request], rewriter: Rewriter, embed: Embed, min_similarity: float) -> list[Rewritten]:
    """One try. A failure that is retryable is none of the answer's: asking for another would not mend it."""
    results: list[Rewritten] = []
    for request, answer in zip(requests, _ask(requests, rewriter), strict=True):
        try:
            if isinstance(answer, RowFailure):
                raise answer
            results.append(Rewritten(check_answer(answer, request)))
        except RowFailure as failure:
            results.append(Rewritten(request.prompt, failure))
    good = [i for i, result in enumerate(results) if result.failure is None]
    vectors = embed([requests[i].prompt for i in good] + [results[i].text for i in good]) if good else np.empty((0, 1))
    for i, before, after in zip(good, vectors[: len(good)], vectors[len(good) :], strict=True):
        similarity = float(before @ after)
        results[i] = replace(results[i], similarity=similarity)
        if not similarity >= min_similarity:
            drifted = RowFailure("drifted", f"it was about something else (cosine {similarity:.2f} to the prompt)")
            results[i] = Rewritten(requests[i].prompt, drifted, similarity)
    return results


def _ask(requests: Sequence[Request], rewriter: Rewriter) -> Sequence[str | RowFailure]:
    try:
        answers = rewriter(requests)
    except RowFailure as failure:
        return [failure] * len(requests)
    if len(answers) != len(requests) or not all(isinstance(answer, str | RowFailure) for answer in answers):
        raise ValueError(f"the rewriter gave {answers!r:.200} to {len(requests)} requests; one text each is wanted")
    return answers
