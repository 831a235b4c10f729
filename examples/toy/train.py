"""Makes the small trained text-to-video model from nothing, in pieces, with a gate before each costly stage.

From the repository's root, ``python -m examples.toy.train --out FOLDER --minutes 60`` does an hour of it; the same
command goes on where it was, after a kill too. In ``FOLDER`` lie the recipe, the states, a log of losses and readings,
curves and sample sheets, and in ``best`` the pipeline whose samples the judge read best, in diffusers' format.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from examples.toy.autoencoder import EVALUATION, cache_latents, decode_clip, encode_clip, train_autoencoder
from examples.toy.checkpoints import Clock, OutOfTime, append_line, read_lines
from examples.toy.denoiser import Denoiser, generate, train_denoiser
from examples.toy.export import save_pipeline
from examples.toy.recipe import Recipe
from examples.toy.sheets import draw_curve, draw_sheet
from noisebank.errors import ConfigError
from noisebank.outputs import write_whole
from noisebank.world.accuracy import REQUIRED, Accuracy, measure
from noisebank.world.attributes import HELD_OUT
from noisebank.world.judge import ATTRIBUTES
from noisebank.world.world import World

RECONSTRUCTED = 0.97
"""Least accuracy of the judge on what the autoencoder gives back."""
OVERFITTED = 0.9
"""Least mean accuracy on samples for the captions of the few clips that a UNet was trained on alone."""
FEW = "overfit.pt"
"""State of the networks that were trained on a few clips alone."""
ASKED = ("colour", "shape", "motion")
"""Attributes that every caption names."""


class GateFailed(Exception):
    """A stage did not come to what the next one needs."""


def train(recipe: Recipe, out: Path, minutes: float) -> None:
    """All stages, each from where it was left."""
    if recipe.overfit_clips > recipe.clips:
        raise ConfigError(f"overfit-clips: {recipe.overfit_clips}, but there are {recipe.clips} clips")
    torch.set_num_threads(recipe.threads)
    out.mkdir(parents=True, exist_ok=True)
    _check_recipe(recipe, out / "recipe.json")
    clock = Clock(minutes, recipe.checkpoint_seconds)
    rows = range(EVALUATION, EVALUATION + recipe.judged_clips)
    world = World(recipe.seed, "train")
    _pass_gate(out, "judge on real videos", REQUIRED, "", lambda: _worst(measure(world, rows)))
    vae = train_autoencoder(recipe, out, clock)
    draw_curve(out / "vae.png", read_lines(out / "vae.jsonl"), "loss of the autoencoder")
    _pass_gate(
        out,
        "judge on reconstructions",
        RECONSTRUCTED,
        "look at reconstructions.png; a larger --vae-steps trains longer",
        lambda: _worst(_reconstruct(vae, world, rows, out)),
    )
    few = cache_latents(recipe, vae, out, clock, recipe.overfit_clips)
    _pass_gate(
        out,
        "overfits a few clips",
        OVERFITTED,
        "look at overfit-samples.png; a larger --overfit-steps trains longer",
        lambda: _overfit(recipe, vae, few, out, clock),
    )
    latents = cache_latents(recipe, vae, out, clock, recipe.clips)
    # The world is the same backwards in time, and a network that begins with nothing learns to be so, too: after 5,000
    # steps it paid no heed to words of motion at all. One that has learnt a few clips by heart tells frames apart.
    train_denoiser(
        recipe,
        recipe.steps,
        latents,
        out / "unet.pt",
        clock,
        lambda it: _evaluate(it, vae, recipe, out),
        start=out / FEW,
    )


def _check_recipe(recipe: Recipe, path: Path) -> None:
    """Keeps the recipe beside the states, and refuses to go on with another one.

    Raises:
        ConfigError: names what differs.
    """
    asked = asdict(recipe)
    begun: dict[str, Any] = json.loads(path.read_text()) if path.exists() else asked
    fixed = [part.name for part in fields(Recipe) if not part.metadata["resumable"]]
    if changed := [name for name in fixed if begun.get(name) != asked[name]]:
        said = ", ".join(f"{name} is {begun.get(name)}, not {asked[name]}" for name in changed)
        raise ConfigError(f"{path.parent}: begun with another recipe: {said}; name another --out for this one")
    _write_json(path, asked)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(document, indent=1) + "\n").encode())


def _pass_gate(out: Path, name: str, required: float, advice: str, attempt: Any) -> None:
    """Measures what a gate asks for, once, and stops where it is not enough."""
    path = out / "gates.json"
    passed: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if name in passed and passed[name]["share"] >= required:
        return
    share, details = attempt()
    passed[name] = {"share": share, "required": required, **details}
    _write_json(path, passed)
    print(f"{name}: {share:.1%}, {required:.0%} required", flush=True)
    if share < required:
        raise GateFailed("; ".join(filter(None, (f"see {path}", advice))))


def _worst(accuracy: Accuracy) -> tuple[float, dict[str, float]]:
    shares = {name: round(accuracy.of(name), 4) for name in ATTRIBUTES}
    return min(shares.values()), shares


def _reconstruct(vae: Any, world: World, rows: range, out: Path) -> Accuracy:
    shown = [world.pixels(number) for number in rows[:8]]
    pairs = [clip for real in shown for clip in (real, decode_clip(vae, encode_clip(vae, real)))]
    draw_sheet(out / "reconstructions.png", pairs, ["real", "reconstructed"] * len(shown))
    return measure(world, rows, lambda pixels, _: decode_clip(vae, encode_clip(vae, pixels)))


def _overfit(recipe: Recipe, vae: Any, latents: Any, out: Path, clock: Clock) -> tuple[float, dict[str, float]]:
    denoiser = train_denoiser(recipe, recipe.overfit_steps, latents, out / FEW, clock)
    draw_curve(out / "overfit.png", read_lines(out / "overfit.jsonl"), "loss on a few clips")
    world = World(recipe.seed, "train")
    rows = [world.row(number) for number in range(len(latents))]
    clips = generate(
        denoiser.pipeline(vae),
        [row.caption for row in rows],
        list(range(len(rows))),
        recipe.inference_steps,
        recipe.guidance_scale,
    )
    draw_sheet(out / "overfit-samples.png", clips, [row.caption for row in rows])
    accuracy = Accuracy()
    for row, clip in zip(rows, clips, strict=True):
        accuracy.add(row.scene.thing, clip)
    shares = {name: round(accuracy.of(name), 4) for name in ATTRIBUTES}
    return sum(shares[name] for name in ASKED) / len(ASKED), shares


def _evaluate(denoiser: Denoiser, vae: Any, recipe: Recipe, out: Path) -> None:
    """Reads samples for prompts of the world that no study asks; keeps the pipeline where they are the best so far."""
    world = World(recipe.seed, "prompts")
    rows = [world.row(EVALUATION + number) for number in range(recipe.evaluated_prompts)]
    pipe = denoiser.pipeline(vae)
    prompts, seeds = [row.caption for row in rows], list(range(len(rows)))
    clips = generate(pipe, prompts, seeds, recipe.inference_steps, recipe.guidance_scale)
    both, held_out = Accuracy(), Accuracy()
    for row, clip in zip(rows, clips, strict=True):
        both.add(row.scene.thing, clip)
        if row.scene.thing.combination in HELD_OUT:
            held_out.add(row.scene.thing, clip)
    shares = {name: round(both.of(name), 3) for name in ATTRIBUTES}
    unseen = {name: round(held_out.of(name), 3) for name in ATTRIBUTES} if held_out.counts else {}
    mean = round(sum(shares[name] for name in ASKED) / len(ASKED), 4)
    earlier = [line["mean"] for line in read_lines(out / "evaluations.jsonl") if line["step"] < denoiser.step]
    append_line(out / "evaluations.jsonl", step=denoiser.step, mean=mean, **shares, held_out=unseen)
    draw_sheet(out / "samples.png", clips[:16], prompts[:16])
    draw_curve(out / "unet.png", read_lines(out / "unet.jsonl"), "loss of the UNet")
    if mean >= max(earlier, default=0.0):
        save_pipeline(pipe, out / "best")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where a piece is done, and says whether there is more to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of states, logs and pictures, outside git")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of this piece (default: %(default)g)")
    for part in fields(Recipe):
        flag, said = f"--{part.name.replace('_', '-')}", f"{part.metadata['help']} (default: %(default)s)"
        parser.add_argument(flag, type=type(part.default), default=part.default, help=said)
    options = vars(parser.parse_args(arguments))
    out, minutes = options.pop("out"), options.pop("minutes")
    try:
        train(Recipe(**options), out, minutes)
    except OutOfTime:
        print("this piece is over; the same command goes on from here")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the state that was saved last", file=sys.stderr)
        return 130
    except GateFailed as error:
        print(error, file=sys.stderr)
        return 1
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    else:
        print(f"trained; the pipeline is in {out / 'best'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
