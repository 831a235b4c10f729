"""Generates the clips of a piece with the pipeline's own call, reads and measures them: one row a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from noisebank.evaluation.cells import ArmPlan, Cell
from noisebank.evaluation.judges import Frames, Judge, read_attributes
from noisebank.evaluation.measures import (
    Small,
    diversity,
    dynamic_degree,
    shrink,
    similarity,
    temporal_consistency,
)
from noisebank.evaluation.options import EvaluationOptions
from noisebank.generation.hybrid import hybrid_semantics
from noisebank.models.layout import from_pipeline, pipeline_inputs

Row = dict[str, Any]
NOT_FINITE = "not_finite"


def generate_piece(
    plan: ArmPlan,
    cells: Sequence[Cell],
    options: EvaluationOptions,
    pipe: Any,
    judge: Judge,
    clips: Mapping[str, Small],
) -> list[Row]:
    """The rows of a piece, by prompt and seed.

    Args:
        plan: of the arm.
        cells: of the piece.
        options: of the study.
        pipe: the diffusers pipeline.
        judge: what reads the clips.
        clips: the bank's clips that these are compared with, by id.
    """
    good = [cell for cell in cells if cell.failure is None]
    pairs = [(cell, seed) for cell in good for seed in range(options.seeds)]
    drawn = [plan.noise(cell, seed) for cell, seed in pairs]
    frames: list[Frames | None] = []
    for first in range(0, len(pairs), options.batch_size):
        batch = slice(first, first + options.batch_size)
        latents = torch.cat([noise for noise, _ in drawn[batch]])
        frames += _generate(plan, [cell for cell, _ in pairs[batch]], latents, options, pipe)
    rows = [
        _row_of(cell, seed, **(cell.failure or {})) for cell in cells if cell.failure for seed in range(options.seeds)
    ]
    for place, cell in enumerate(good):
        own = slice(place * options.seeds, (place + 1) * options.seeds)
        rows += _measure(cell, frames[own], [digest for _, digest in drawn[own]], options, judge, clips)
    return rows


def _generate(
    plan: ArmPlan, cells: Sequence[Cell], latents: torch.Tensor, options: EvaluationOptions, pipe: Any
) -> list[Frames | None]:
    """The frames of each clip of a batch; None of one that is not finite."""
    model = plan.model
    inputs = pipeline_inputs(model, from_pipeline(latents, model["layout"], tuple(model["shape"])))
    device = getattr(pipe, "_execution_device", pipe.device)
    inputs["latents"] = inputs["latents"].to(device, pipe.dtype)
    rewritten = [cell.rewritten or cell.prompt.text for cell in cells]
    with torch.inference_mode(), hybrid_semantics(pipe, rewritten if plan.options.gamma else None, plan.options.gamma):
        made = pipe(
            [cell.prompt.text for cell in cells],
            num_inference_steps=options.num_inference_steps,
            guidance_scale=options.guidance_scale,
            output_type="np",
            **inputs,
        )
    pictures = made.frames if hasattr(made, "frames") else made.images[:, None]
    clips = [np.asarray(clip) for clip in pictures]
    return [np.rint(clip * 255).astype(np.uint8) if np.isfinite(clip).all() else None for clip in clips]


def _measure(
    cell: Cell,
    frames: Sequence[Frames | None],
    digests: Sequence[str],
    options: EvaluationOptions,
    judge: Judge,
    clips: Mapping[str, Small],
) -> list[Row]:
    """The rows of one prompt."""
    seen = [None if clip is None else shrink(clip) for clip in frames]
    distances = iter(diversity([clip for clip in seen if clip is not None]))
    used = clips.get(cell.hit.id) if cell.hit else None
    rows = []
    for seed, (clip, small, digest) in enumerate(zip(frames, seen, digests, strict=True)):
        if clip is None or small is None:
            rows.append(_row_of(cell, seed, code=NOT_FINITE, message="the clip has NaN or infinite values"))
            continue
        rows.append(
            _row_of(cell, seed, drawn_digest=digest)
            | {f"read_{name}": value for name, value in read_attributes(judge, clip, options.attributes).items()}
            | {
                "temporal_consistency": temporal_consistency(small),
                "dynamic_degree": dynamic_degree(small),
                "diversity": next(distances),
                "similarity": similarity(small, clips.get(cell.nearest.id)),
                "copying": similarity(small, used),
            }
        )
    return rows


def _row_of(cell: Cell, seed: int, code: str | None = None, message: str | None = None, **also: Any) -> Row:
    return {
        "prompt_id": cell.prompt.id,
        "seed": seed,
        "clip": cell.hit.id if cell.hit else None,
        "nearest": cell.nearest.id,
        "score": round(cell.nearest.score, 6),
        "rewritten": cell.rewritten,
        "code": code,
        "message": message,
        **also,
    }
