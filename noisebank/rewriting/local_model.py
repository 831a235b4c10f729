"""A language model on this machine as a rewriter: transformers' text generation, greedy, from safetensors alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from noisebank.errors import ConfigError, RowFailure
from noisebank.hub import content_lines, digest_lines, split_reference
from noisebank.loading import loading_a_model
from noisebank.models.config import absolute_path
from noisebank.rewriting.template import Request, messages, one_line, plain_text

_DIGESTED = (".json", ".safetensors", ".txt", ".model", ".jinja")
_TOKENS_A_WORD = 6
_SHOWN = 200
_log = logging.getLogger(__name__)


def language_model_digest(model: str) -> str:
    """Which language model this is by its contents, whatever its path: 32 hexadecimal digits.

    Raises:
        ConfigError: there is no such model, or it is not in transformers' format.
    """
    return digest_lines(content_lines(model, "config.json", "transformers", _DIGESTED))


class TransformersRewriter:
    """Rewrites prompts by a causal language model, always with its most probable words (greedily).

    A model whose tokenizer has a chat template gets chat messages, another one plain text to go on with. Batches are
    padded on the left: on the right, padding would stand between a request and its answer and change it.

    >>> rewriter = TransformersRewriter("Qwen/Qwen2.5-1.5B-Instruct")                    # doctest: +SKIP
    >>> bank.rewrite("a dog on the beach", rewriter)                                     # doctest: +SKIP

    Args:
        model: hub id, ``id@revision``, or folder in transformers' format with weights in safetensors.
        batch_size: requests answered at once.
        device: such as ``cuda`` or ``cpu``; by default the first GPU if there is one.
        dtype: of the weights, such as ``bfloat16``; by default what the model says on a GPU, float32 on the CPU.
        digest: what its files must be (:func:`language_model_digest`), or None for whatever they are.

    Raises:
        ConfigError: the model cannot be had or loaded, needs code of its own or has pickled weights only, or it is
            another than ``digest``.
    """

    def __init__(
        self,
        model: str,
        *,
        batch_size: int = 8,
        device: str | None = None,
        dtype: str | None = None,
        digest: str | None = None,
    ) -> None:
        self.name = absolute_path(model)
        self.digest = language_model_digest(model)
        if digest not in (None, self.digest):
            raise ConfigError(f"language model {model!r} has digest {self.digest}, {digest} is wanted; give its folder")
        self._batch_size = batch_size
        with loading_a_model:
            self._generate = _load(model, device, dtype)
        self._is_chat = bool(self._generate.tokenizer.chat_template)

    def __call__(self, requests: Sequence[Request]) -> list[str | RowFailure]:
        """The answers, in the order of the requests; ``too_long`` for a request that does not fit the model."""
        answers: dict[int, str | RowFailure] = {}
        texts: dict[int, str] = {}
        tokenizer, longest = self._generate.tokenizer, self._longest
        for i, request in enumerate(requests):
            text = self._text(request)
            length = len(tokenizer(text, add_special_tokens=not self._is_chat)["input_ids"])
            room = longest - _TOKENS_A_WORD * request.max_words
            if length <= room:
                texts[i] = text
            else:
                said = f"the request has {length} tokens, the model takes {room}; show fewer captions (k)"
                answers[i] = RowFailure("too_long", said)
        if texts:
            most = _TOKENS_A_WORD * max(requests[i].max_words for i in texts)
            generated = self._generate(
                list(texts.values()),
                batch_size=self._batch_size,
                max_new_tokens=most,
                return_full_text=False,
                add_special_tokens=not self._is_chat,
            )
            answers |= {i: found[0]["generated_text"] for i, found in zip(texts, generated, strict=True)}
        return [answers[i] for i in range(len(requests))]

    @property
    def _longest(self) -> int:
        """Tokens of request and answer that the model takes."""
        known = (self._generate.tokenizer.model_max_length, self._generate.model.config.get_text_config())
        return int(min(known[0], getattr(known[1], "max_position_embeddings", None) or known[0]))

    def _text(self, request: Request) -> str:
        if not self._is_chat:
            return plain_text(request)
        chat = messages(request)
        try:
            return self._fill(chat)
        except ConfigError as error:  # (so templates refuse a system line)
            _log.debug("%s", error)
        return self._fill([{"role": "user", "content": "\n\n".join(message["content"] for message in chat)}])

    def _fill(self, chat: list[dict[str, str]]) -> str:
        """The chat template, which is a program of the model's, filled with messages."""
        try:
            return str(self._generate.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        except Exception as error:
            cause = one_line(f"{type(error).__name__}: {error}", _SHOWN)
            raise ConfigError(
                f"language model {self.name!r}: its chat template fails ({cause}); mend it, or name another model"
            ) from error


def _load(model: str, device: str | None, dtype: str | None) -> Any:
    """The pipeline of a model, with its own generation settings replaced by greedy ones."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else "auto")
    try:
        id, revision = split_reference(model)
        tokenizer = AutoTokenizer.from_pretrained(id, revision=revision, trust_remote_code=False, padding_side="left")
        loaded = AutoModelForCausalLM.from_pretrained(
            id, revision=revision, trust_remote_code=False, use_safetensors=True, dtype=dtype
        )
    except Exception as error:  # (so do the libraries behind, of their own kinds)
        cause = " ".join(str(error).split())[:500]
        raise ConfigError(
            f"language model {model!r} cannot be loaded from safetensors, without code of its own: {cause}"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    own = loaded.generation_config
    stops = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    loaded.generation_config = GenerationConfig(
        do_sample=False, num_beams=1, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
    )
    return pipeline("text-generation", model=loaded.eval(), tokenizer=tokenizer, device=device)
