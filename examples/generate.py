"""Generates a clip from a bank's optimal noise: python examples/generate.py BANK MODEL "a dog on the beach" out.gif"""

from __future__ import annotations

import argparse
import sys

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import export_to_gif

from noisebank import NoiseBank, NoiseBankError, hybrid_semantics


def main() -> None:
    """Reads the arguments and generates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bank", help="path or address of the bank")
    parser.add_argument("model", help="hub id or folder of the diffusers pipeline that the bank was made for")
    parser.add_argument("prompt")
    parser.add_argument("output", help="gif file to write")
    parser.add_argument("--set", dest="noise_set", help="noise set, where the bank has several")
    parser.add_argument("--eta", type=float, default=0.2, help="weight of the inverted noise")
    parser.add_argument("--rewrite", metavar="TEXT", help="the prompt in other words, for the first steps")
    parser.add_argument("--gamma", type=float, default=0.04, help="share of the steps that follow --rewrite")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    bank = NoiseBank.open(arguments.bank, noise_set=arguments.noise_set)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    pipe = DiffusionPipeline.from_pretrained(arguments.model, torch_dtype=dtype).to(device)
    bank.check(pipe, num_inference_steps=arguments.steps)
    generator = torch.Generator().manual_seed(arguments.seed)
    inputs = bank.inputs(arguments.prompt, eta=arguments.eta, generator=generator, pipe=pipe)
    with hybrid_semantics(pipe, arguments.rewrite, arguments.gamma):
        frames = pipe(arguments.prompt, num_inference_steps=arguments.steps, output_type="pil", **inputs).frames[0]
    export_to_gif(frames, arguments.output, fps=8)


if __name__ == "__main__":
    try:
        main()
    except NoiseBankError as error:
        sys.exit(f"generate.py: {error}")
