"""How often a judge is right where the truth is known: on clips of the bank as they are, as the model's autoencoder
gives them back, and as the model denoises them. A judge is measured before it is believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from noisebank.errors import ConfigError
from noisebank.evaluation.cells import seed_of
from noisebank.evaluation.judges import Frames, Judge, read_attributes
from noisebank.evaluation.pool import Truth
from noisebank.models import ModelAdapter
from noisebank.synthesis.animation import levels_from, regenerate

REAL = "real"
LOOKS = (REAL, "reconstructed", "denoised")
"""What the judge is shown of each clip: its frames; what the autoencoder makes of them; and what the model makes of
them from the last quarter of its steps, with the clip's caption and fresh noise: its own kind of blur and grain."""
SHARE = 0.25
NONE = "none"
"""A reading that cannot be told."""


class JudgeAccuracy:
    """Readings of clips whose attributes are known, counted by look, attribute, true value and reading."""

    def __init__(self, counts: Mapping[tuple[str, str, str, str], int]) -> None:
        self.counts = Counter(counts)

    def of(self, look: str, attribute: str) -> float | None:
        """Share of right readings; None where there is no clip."""
        seen = self._seen(look, attribute)
        total = sum(seen.values())
        return sum(n for (true, read), n in seen.items() if true == read) / total if total else None

    def _seen(self, look: str, attribute: str) -> dict[tuple[str, str], int]:
        """Counts by true value and reading."""
        return {key[2:]: count for key, count in sorted(self.counts.items()) if key[:2] == (look, attribute)}

    def document(self, attributes: Sequence[str]) -> dict[str, Any]:
        """By look and attribute: ``clips``, ``accuracy`` and the whole ``confusion``, true value by reading."""
        tables: dict[str, Any] = {}
        for look in LOOKS:
            for name in attributes:
                confusion: dict[str, dict[str, int]] = {}
                for (true, read), count in self._seen(look, name).items():
                    confusion.setdefault(true, {})[read] = count
                clips = sum(n for row in confusion.values() for n in row.values())
                table = {"clips": clips, "accuracy": self.of(look, name), "confusion": confusion}
                tables.setdefault(look, {})[name] = table
        return tables

    def check(self, attributes: Sequence[str], least: float) -> None:
        """Refuses a study of attributes that the judge does not read on real clips.

        Raises:
            ConfigError: it is right on less than ``least`` of them; names the attribute.
        """
        for name in attributes:
            share = self.of(REAL, name)
            if share is not None and share < least:
                raise ConfigError(
                    f"attributes: {name!r}: the judge is right on {share:.1%} of the bank's own clips, at least "
                    f"{least:.1%} is wanted; leave the attribute out, or lower min_judge_accuracy"
                )


def measure_judge(
    judge: Judge,
    clips: Iterable[tuple[str, str, Truth, Frames]],
    attributes: tuple[str, ...],
    adapter: ModelAdapter,
    num_inference_steps: int,
    seed: int,
) -> JudgeAccuracy:
    """Shows clips to a judge in every look.

    Args:
        judge: what is measured.
        clips: id, caption, what is shown, and frames of each.
        attributes: that it is asked about.
        adapter: the model.
        num_inference_steps: of the study.
        seed: of the fresh noise.
    """
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for id, caption, truth, frames in clips:
        for look, shown in zip(LOOKS, _looks(adapter, id, caption, frames, num_inference_steps, seed), strict=True):
            for name, read in read_attributes(judge, shown, attributes).items():
                counts[look, name, truth[name], read or NONE] += 1
    return JudgeAccuracy(counts)


def _looks(
    adapter: ModelAdapter, id: str, caption: str, frames: Frames, num_inference_steps: int, seed: int
) -> tuple[Frames, Frames, Frames]:
    latents = adapter.encode(torch.from_numpy(np.ascontiguousarray(frames))[None])
    generator = torch.Generator().manual_seed(seed_of(seed, id, "judge"))
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    c, f, h, w = latents.shape[1:]
    levels = levels_from(adapter.levels(num_inference_steps, (c, f, h, w)), max(SHARE, 1 / num_inference_steps))
    denoised = regenerate(adapter.network(caption), latents, noise, levels)
    return frames, adapter.decode(latents)[0].numpy(), adapter.decode(denoised)[0].numpy()
