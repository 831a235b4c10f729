"""The options of a job that rewrites prompts, defined once: flags, limits, help and fingerprint come from here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from noisebank.options import fingerprint, option
from noisebank.rewriting.rewrite import MIN_SIMILARITY
from noisebank.rewriting.template import Request, messages, plain_text


@dataclass(frozen=True)
class LanguageModel:
    """Which language model rewrites, and where it is.

    Args:
        model: hub id or folder; of an endpoint, what that calls it.
        endpoint: address of an OpenAI-compatible API; empty: the model runs here.
        api_key_env: environment variable with the endpoint's key; None: it wants none.
        digest: of a model that runs here.
    """

    model: str
    endpoint: str = ""
    api_key_env: str | None = None
    digest: str = ""

    @property
    def identity(self) -> str:
        """What tells it apart: an endpoint may move, so its model counts by name alone."""
        return f"endpoint {self.model}" if self.endpoint else self.digest

    @property
    def shown(self) -> str:
        """What rows say of it."""
        from noisebank.models.config import absolute_path  # (torch comes with it)

        return self.model if self.endpoint else absolute_path(self.model)


@dataclass(frozen=True)
class RewriteOptions:
    """How prompts are rewritten."""

    k: int = option(5, "captions that the language model is shown with a prompt", minimum=1, maximum=100)
    max_words: int = option(20, "most words of a rewrite", minimum=1, maximum=1000)
    min_similarity: float = option(
        MIN_SIMILARITY, "smallest cosine of a rewrite to its prompt; one below has drifted", minimum=-1, maximum=1
    )
    batch_size: int = option(8, "prompts that a local model answers at once", hashed=False, minimum=1, maximum=65_536)
    concurrency: int = option(8, "requests to an endpoint at once", hashed=False, minimum=1, maximum=1000)
    timeout: float = option(60.0, "seconds for one answer of an endpoint", hashed=False, minimum=0.01, maximum=86_400)
    retries: int = option(
        4, "tries after the first where an endpoint is busy or down (429, 5xx)", hashed=False, minimum=0, maximum=1000
    )
    maxcount: int = option(64, "prompts in a shard", hashed=False, minimum=1, maximum=1_000_000)
    max_failed: float = option(
        0.05, "largest share of the prompts that may be left without a rewrite", hashed=False, minimum=0, maximum=1
    )

    def fingerprint(self, model: str) -> str:
        """Hash of all that rewrites follow from beside prompt and captions.

        Args:
            model: which language model it is: its digest, or what an endpoint calls it.
        """
        request = Request("prompt", ["caption"], self.max_words)
        template = [messages(request), plain_text(request), messages(request.again("why"))]
        digest = hashlib.sha256(json.dumps(template).encode()).hexdigest()
        return fingerprint(self, model_digest=model, template=digest)
