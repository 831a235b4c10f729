"""Anderson acceleration of a fixed-point iteration, clip by clip: where plain iteration crawls, the last few iterates
say more together than the last one alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

MEMORY = 5
"""Differences of iterates that are combined. Measured on small models at T = 5 to 10 (docs/inversion.md): with 3 a step
is left with up to twice the residual, 9 gain nothing."""

_RIDGE = 1e-10
"""Share of the largest squared difference that is added to all, so that parallel ones can be solved for."""


def mix_iterates(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], known: torch.Tensor) -> torch.Tensor:
    """The next estimate of a solution of ``y = F(y)``.

    With ``f = F(y) - y`` it is ``F(y_n) - sum_i w_i (F(y_{i+1}) - F(y_i))`` for the ``w`` that minimise
    ``|f_n - sum_i w_i (f_{i+1} - f_i)|`` (type II of Walker and Ni, SIAM J. Numer. Anal. 49, 2011). With one pair it is
    the plain ``F(y_n)``.

    Args:
        pairs: estimates ``y`` and their updates ``F(y)``, each ``[B, ...]`` float32, oldest first.
        known: ``[B]`` int64, how many of the last pairs belong to the equation that the clip is at.

    Returns:
        ``[B, ...]`` float32; what a clip gets does not depend on the others.
    """
    estimates, updates = (torch.stack(list(each), dim=1).flatten(2) for each in zip(*pairs, strict=True))
    residuals = updates - estimates
    ages = torch.arange(len(pairs) - 1, 0, -1, device=known.device)
    valid = (ages < known[:, None])[..., None]
    changes = torch.where(valid, residuals.diff(dim=1), 0.0).double()
    gram = changes @ changes.mT
    ridge = _RIDGE * gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=torch.finfo(torch.float32).tiny)
    gram += ridge[:, None, None] * torch.eye(len(ages), dtype=gram.dtype, device=gram.device)
    weights, _ = torch.linalg.solve_ex(gram, changes @ residuals[:, -1:].double().mT)
    moves = torch.where(valid, updates.diff(dim=1), 0.0)
    mixed: torch.Tensor = updates[:, -1] - (weights.mT.float() @ moves)[:, 0]
    return mixed.view_as(pairs[-1][1])
