"""How far a record's noise is from white noise: inverted noise is not exactly N(0, I), and mixing should know by how
much. Computed for a whole batch at once."""

from __future__ import annotations

import torch


def noise_statistics(noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """Statistics of every record of a batch.

    White noise has mean 0, std and rms 1 and correlations 0. A correlation is Pearson's, between the noise and itself
    moved by one frame or one position, around each channel's mean, over all channels; it is 0 where there is nothing
    to compare (one frame, one position, no variance).

    Args:
        noise: ``[B, C, F, H, W]``.

    Returns:
        float32 on the CPU: ``mean`` and ``std`` ``[B, C]`` (population), ``rms``, ``temporal_correlation`` (lag of one
        frame) and ``spatial_correlation`` (lag of one position, the average of height and width) ``[B]``.
    """
    noise = noise.float()
    std, mean = torch.std_mean(noise, dim=(2, 3, 4), correction=0)
    centred = noise - mean[:, :, None, None, None]
    statistics = {
        "mean": mean,
        "std": std,
        "rms": noise.square().mean(dim=(1, 2, 3, 4)).sqrt(),
        "temporal_correlation": _lag_one(centred, 2),
        "spatial_correlation": (_lag_one(centred, 3) + _lag_one(centred, 4)) / 2,
    }
    return {name: values.cpu() for name, values in statistics.items()}


def _lag_one(centred: torch.Tensor, dim: int) -> torch.Tensor:
    """Correlation of ``[B, C, F, H, W]`` with itself one step further along ``dim``, ``[B]``."""
    length = centred.shape[dim] - 1
    if length == 0:
        return centred.new_zeros(len(centred))
    first, second = (part.flatten(1) for part in (centred.narrow(dim, 0, length), centred.narrow(dim, 1, length)))
    scale = torch.linalg.vector_norm(first, dim=1) * torch.linalg.vector_norm(second, dim=1)
    return torch.div(torch.linalg.vecdot(first, second), scale.clamp(min=torch.finfo(scale.dtype).tiny))
