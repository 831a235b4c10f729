"""A small causal language model in transformers' format that needs no hub: made, and if wanted taught, by the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }} : {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
_MOST_STEPS, _LEARNT = 500, 0.02


def make_language_model(
    folder: Path, texts: Sequence[str], *, chat: bool = False, taught: Mapping[str, str] | None = None
) -> Path:
    """Saves a model of words with random weights, the same each time.

    Args:
        folder: to save it in.
        texts: whose words it knows.
        chat: whether its tokenizer has a chat template.
        taught: answers by the text before them that it learns by heart; one may take a few seconds.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    taught = taught or {}
    tokenizer = _tokenizer([*texts, *taught.keys(), *taught.values()])
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    sizes = {"n_embd": 48, "n_layer": 1, "n_head": 4, "n_positions": 1024}
    spread = 0.05 if taught else 1.0  # (so that what nobody taught varies)
    dropout = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=len(tokenizer), initializer_range=spread, **sizes, **dropout, **ids)
        )
        if taught:
            _teach(model, tokenizer, taught)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(texts: Sequence[str]) -> Any:
    """Words and marks, each a token, the end of a text one too."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["[UNK]", "[BOS]", "[EOS]"]))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]")


def _teach(model: Any, tokenizer: Any, taught: Mapping[str, str]) -> None:
    """Until it says each answer after its text; only the answers are learnt."""
    rows = [
        (tokenizer(text)["input_ids"], tokenizer(f"{answer} [EOS]")["input_ids"]) for text, answer in taught.items()
    ]
    longest = max(len(before) + len(after) for before, after in rows)
    inputs, labels = (torch.full((len(rows), longest), fill) for fill in (0, -100))
    for i, (before, after) in enumerate(rows):
        inputs[i, : len(before) + len(after)] = torch.tensor(before + after)
        labels[i, len(before) : len(before) + len(after)] = torch.tensor(after)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(_MOST_STEPS):
        loss = model(input_ids=inputs, labels=labels).loss
        if loss < _LEARNT:
            return
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError(f"the model did not learn its answers (loss {loss:.3f})")
