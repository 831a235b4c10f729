"""Writes a trained pipeline as a folder in diffusers' format that is small enough to be shipped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from noisebank.world.captions import vocabulary

MOST_BYTES = 12_000_000


def save_pipeline(pipe: Any, folder: Path) -> None:
    """Saves with float16 weights of the UNet and the autoencoder, in place of what the folder held.

    Pieces of words that no caption has get the embedding of the unknown word, which training left as it was.
    """
    part, old = folder.with_suffix(".part"), folder.with_suffix(".old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    _level_pieces(pipe.text_encoder, pipe.tokenizer)
    pipe.save_pretrained(part)
    for name in ("unet", "vae"):
        _halve(part / name / "diffusion_pytorch_model.safetensors")
    size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        raise ValueError(f"the pipeline takes {size} bytes, more than {MOST_BYTES}")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@torch.no_grad()
def _level_pieces(text_encoder: Any, tokenizer: Any) -> None:
    words = {f"{word}</w>" for word in vocabulary()} | {tokenizer.bos_token, tokenizer.eos_token}
    pieces = [number for token, number in tokenizer.get_vocab().items() if token not in words]
    embeddings = text_encoder.get_input_embeddings().weight
    embeddings[pieces] = embeddings[tokenizer.unk_token_id].clone()


def _halve(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
