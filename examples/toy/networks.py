"""The networks of the small model: a tokenizer of the captions' words, text encoder, autoencoder, UNet, scheduler.

All are diffusers' and transformers' own classes, in the arrangement of ModelScope's pipeline.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from tokenizers import Tokenizer, models, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from noisebank.world.captions import vocabulary

LATENT_SIDE = 8
LATENT_CHANNELS = 4
WIDTH = 64
"""Of the text encoder, and so of the UNet's cross-attention."""
TOKENS = 40
START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"


def make_tokenizer() -> Any:
    """A CLIP tokenizer in which every word of the captions is one token."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    words = vocabulary()
    trainer = trainers.BpeTrainer(end_of_word_suffix="</w>", vocab_size=10_000, show_progress=False)
    bpe.train_from_iterator(words, trainer)
    merges = _read_merges(bpe)
    tokens = [START, END, UNKNOWN, *sorted({token for pair in merges for token in (*pair, "".join(pair))})]
    singles = sorted({letter for word in words for letter in word})
    tokens += [token for letter in singles for token in (letter, f"{letter}</w>") if token not in tokens]
    vocab = {token: number for number, token in enumerate(tokens)}
    names = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": UNKNOWN}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS, **names)


def _read_merges(bpe: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]


def make_text_encoder(tokenizer: Any) -> Any:
    """Two layers of CLIP's text transformer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def make_autoencoder() -> Any:
    """Frames of 64 x 64 to latents of 8 x 8 and back."""
    widths = (16, 16, 32, 64)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=LATENT_CHANNELS,
        sample_size=LATENT_SIDE * 2 ** (len(widths) - 1),
        scaling_factor=1.0,
    ).eval()


def make_unet() -> Any:
    """ModelScope's UNet with two resolutions, 8 x 8 and, with the captions' attention, 4 x 4.

    The branches that add to their input, and the output, start at zero.
    """
    unet = UNet3DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "UpBlock3D"),
        block_out_channels=(48, 80),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        norm_num_groups=16,
    )
    with torch.no_grad():
        for name, module in unet.named_modules():
            if name == "conv_out" or (name.endswith(("conv2", "proj_out")) and "temp_convs" not in name):
                for parameter in module.parameters():
                    parameter.zero_()
    return unet.eval()
