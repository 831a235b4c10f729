"""How a bank covers a list of prompts, for the command of that name: as JSON, and for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from noisebank.reader.coverage import Coverage

_QUANTILES = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)
_EDGES = np.linspace(-1, 1, 41)
_BAR = 30
_SHOWN = 20


def describe_coverage(coverage: Coverage, invalid: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``noisebank coverage`` prints, as a JSON object; ``invalid``: the rows of the list that are no prompts."""
    measured = len(coverage.similarity)
    return {
        "prompts": {"read": measured + len(invalid), "measured": measured, "invalid": invalid},
        "similarity": _distribution(coverage.similarity),
        "pool": {
            "captions": coverage.captions,
            "compared": len(coverage.pool),
            **_distribution(coverage.pool),
        },
        "recall": coverage.recall,
        "clips_used": coverage.clips_used,
        "largest_share": coverage.largest_share,
        "below": coverage.below,
        "far": [
            {
                "prompt": far.prompt,
                "similarity": far.nearest.score,
                "id": far.nearest.id,
                "caption": far.nearest.caption,
            }
            for far in coverage.far
        ],
    }


def _distribution(values: npt.NDArray[np.float32]) -> dict[str, Any]:
    quantiles = np.quantile(values, _QUANTILES).tolist() if len(values) else [None] * len(_QUANTILES)
    counts, _ = np.histogram(np.clip(values, -1, 1), _EDGES)
    return {
        "quantiles": dict(zip(map(str, _QUANTILES), quantiles, strict=True)),
        "histogram": {"edges": _EDGES.round(2).tolist(), "counts": counts.tolist()},
    }


def coverage_lines(document: dict[str, Any]) -> Iterator[str]:
    """The same for people: a table of quantiles, a histogram, and the farthest prompts."""
    prompts, pool = document["prompts"], document["pool"]
    for row in prompts["invalid"]:
        yield f"row {row['row']} of the list is left out: {row['code']}: {row['message']}"
    sampled = (
        f"{pool['compared']} of them, drawn with a fixed seed" if 1 < pool["compared"] < pool["captions"] else "each"
    )
    yield f"{prompts['measured']} prompts against {pool['captions']} captions; pool: {sampled} against all others"
    sides = {"prompts": document["similarity"], "pool": pool}
    yield "best similarity " + "".join(f"{float(name):>7.0%}" for name in pool["quantiles"])
    for name, side in sides.items():
        cells = ("-" if value is None else f"{value:.3f}" for value in side["quantiles"].values())
        yield f"{name:<16}" + "".join(f"{cell:>7}" for cell in cells)
    counts = {name: np.asarray(side["histogram"]["counts"]) for name, side in sides.items()}
    shares = {name: count / max(1, count.sum()) for name, count in counts.items()}
    for place in np.flatnonzero(sum(counts.values())):
        bars = (
            f"{name} {share[place]:>4.0%} {'#' * round(_BAR * share[place]):<{_BAR}}" for name, share in shares.items()
        )
        yield f"{_EDGES[place]:>5.2f} to {_EDGES[place + 1]:>5.2f}  {'  '.join(bars)}".rstrip()
    yield f"recall@1 of the index for these prompts: {document['recall']:.4f}"
    yield f"{document['clips_used']} clips used; the most used one has {document['largest_share']:.1%} of the prompts"
    far = document["far"]
    yield f"{len(far)} prompts are far, below {document['below']:.4f}"
    yield from (f"  {one['similarity']:.4f}  {one['prompt']}  ({one['id']}: {one['caption']})" for one in far[:_SHOWN])
    if len(far) > _SHOWN:
        yield f"  and {len(far) - _SHOWN} more (-o FILE or --json has them all)"
