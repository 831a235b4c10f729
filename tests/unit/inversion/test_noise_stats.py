"""Statistics of noise whose statistics are known."""

import pytest
import torch

from noisebank.inversion.noise_stats import noise_statistics


def white(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_white_noise_has_none():
    statistics = noise_statistics(white(2, 4, 16, 32, 32))
    assert {name: tuple(values.shape) for name, values in statistics.items()} == {
        "mean": (2, 4),
        "std": (2, 4),
        "rms": (2,),
        "temporal_correlation": (2,),
        "spatial_correlation": (2,),
    }
    assert statistics["mean"].abs().max() < 0.03
    assert (statistics["std"] - 1).abs().max() < 0.03
    assert (statistics["rms"] - 1).abs().max() < 0.02
    assert statistics["temporal_correlation"].abs().max() < 0.02
    assert statistics["spatial_correlation"].abs().max() < 0.02


def test_means_and_deviations_are_per_channel():
    offsets, scales = torch.tensor([0.5, -2.0]), torch.tensor([1.0, 3.0])
    noise = white(1, 2, 8, 32, 32) * scales.view(2, 1, 1, 1) + offsets.view(2, 1, 1, 1)
    statistics = noise_statistics(noise)
    torch.testing.assert_close(statistics["mean"][0], offsets, rtol=0, atol=0.1)
    torch.testing.assert_close(statistics["std"][0], scales, rtol=0.03, atol=0)
    torch.testing.assert_close(statistics["rms"][0], noise.square().mean().sqrt())
    assert abs(float(statistics["temporal_correlation"][0])) < 0.03  # offsets do not count as correlation


@pytest.mark.parametrize("rho", [0.3, -0.5, 0.9])
@pytest.mark.parametrize(("dim", "name", "share"), [(2, "temporal_correlation", 1.0), (4, "spatial_correlation", 0.5)])
def test_an_autoregressive_process_has_its_coefficient(rho, dim, name, share):
    """x_i = rho x_{i-1} + sqrt(1 - rho^2) e_i along one axis; the spatial figure averages height and width."""
    slices = list(white(1, 4, 40, 40, 40).unbind(dim))
    for i in range(1, len(slices)):
        slices[i] = rho * slices[i - 1] + (1 - rho**2) ** 0.5 * slices[i]
    statistics = noise_statistics(torch.stack(slices, dim))
    assert float(statistics[name]) == pytest.approx(share * rho, abs=0.03)


def test_records_do_not_mix_and_half_precision_is_read():
    noise = torch.cat([white(1, 4, 4, 8, 8), 3 * white(1, 4, 4, 8, 8, seed=1)]).half()
    both, second = noise_statistics(noise), noise_statistics(noise[1:])
    for name, values in both.items():
        torch.testing.assert_close(values[1:], second[name], rtol=1e-5, atol=1e-6)


def test_one_frame_and_constant_noise_have_no_correlation():
    statistics = noise_statistics(torch.full((1, 4, 1, 8, 8), 2.0))
    assert float(statistics["temporal_correlation"]) == 0.0
    assert float(statistics["spatial_correlation"]) == 0.0
    assert statistics["mean"].tolist() == [[2.0] * 4]
