"""Rewriting a few prompts at once, with nothing stored: what ``NoiseBank.rewrite`` does."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from noisebank.rewriting.rewrite import MIN_SIMILARITY, Embed, rewrite
from noisebank.rewriting.template import Request, Rewriter, one_line

_SHOWN = 100
_log = logging.getLogger(__name__)


def rewrite_online(
    prompts: Sequence[str],
    references: Sequence[Sequence[str]],
    rewriter: Rewriter,
    embed: Embed,
    *,
    max_words: int = 20,
    min_similarity: float = MIN_SIMILARITY,
) -> list[str]:
    """The rewrite of each prompt, or the prompt itself, with a warning, where there is none.

    Args:
        prompts: to rewrite; each is asked about once, however often it is there.
        references: the captions to show, a list a prompt.
        rewriter: answers requests.
        embed: the bank's captions model.
        max_words: most words of a rewrite.
        min_similarity: smallest cosine of a rewrite to its prompt.
    """
    requests = {prompt: Request(prompt, shown, max_words) for prompt, shown in zip(prompts, references, strict=True)}
    results = dict(zip(requests, rewrite([*requests.values()], rewriter, embed, min_similarity), strict=True))
    for prompt, result in results.items():
        if result.failure:
            _log.warning("prompt %r stays as it is: %s", one_line(prompt, _SHOWN), result.failure)
    return [results[prompt].text for prompt in prompts]
