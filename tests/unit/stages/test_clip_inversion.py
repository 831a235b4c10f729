"""Clips to records: padding, failures of single clips, memory, and what is measured."""

import pytest
import torch

from noisebank.errors import RowFailure, ShapeMismatch
from noisebank.fixtures.small_models import make_small_model, smooth_clip
from noisebank.format.noise_file import storage_roundtrip
from noisebank.inversion.inverters import reconstruct, relative_error
from noisebank.inversion.noise_stats import noise_statistics
from noisebank.models import load_model
from noisebank.options import NoiseOptions
from noisebank.stages.clip_inversion import (
    CPU_BATCH_SIZE,
    ClipInverter,
    ClipRecord,
    MeteredNetwork,
    choose_batch_size,
    fastest_batch_size,
    find_failure,
)

FRAMES = torch.stack([smooth_clip(2, 32, 32, seed) for seed in range(3)])
NUMBERS = [11, 22, 33]


def float16(noise):
    return noise.half().float()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return load_model(str(make_small_model("modelscope", tmp_path_factory.mktemp("models") / "small")))


def options(**changes):
    return NoiseOptions(**{"model": "small", "num_inference_steps": 10} | changes)


def inverter(adapter, *, batch_size=2, store=float16, network=None, **changes):
    chosen = options(**changes)
    network = network or adapter.network(chosen.prompt, chosen.guidance_scale)
    return ClipInverter(adapter, chosen, network, store, batch_size)


def run(adapter, frames=FRAMES, numbers=NUMBERS, **changes):
    return inverter(adapter, **changes).invert(frames, numbers)


def measure(adapter, records, *, store=float16, **changes):
    """The error of each record as it comes back from ``store``."""
    return inverter(adapter, store=store, **changes).measure(
        range(len(records)), lambda i: (store(records[i].noise[None])[0], records[i].latents)
    )


def float32(noise):
    return noise


def test_records_give_their_clips_back(adapter):
    records = run(adapter, num_inference_steps=50)
    latents = adapter.encode(FRAMES)
    found, stored = (measure(adapter, records, store=store, num_inference_steps=50) for store in (float32, float16))
    for record, error, stored_error in zip(records, found, stored, strict=True):
        assert record.noise.shape == (4, 2, 4, 4)
        assert record.noise.dtype == torch.float32
        assert error < 1e-3
        assert error < stored_error < 1e-2
        assert 50 < record.network_calls < 250
        assert record.max_residual <= 1e-4
        assert record.stalled_steps == 0
    expected = noise_statistics(torch.stack([record.noise for record in records]))
    for name, values in expected.items():
        torch.testing.assert_close(torch.stack([record.statistics[name] for record in records]), values)
    # The errors are those of what the caller would see: the sampler run on the stored noise.
    levels = adapter.levels(50, (4, 2, 4, 4))
    again = reconstruct(adapter.network(), torch.stack([float16(r.noise) for r in records[:2]]), levels)
    torch.testing.assert_close(torch.tensor(stored[:2]), relative_error(again, latents[:2]), rtol=1e-2, atol=1e-6)


def test_a_record_does_not_depend_on_its_batch_mates_or_its_place(adapter):
    forwards = run(adapter)
    backwards = run(adapter, FRAMES.flip(0), NUMBERS[::-1])[::-1]
    for one, other in zip(forwards, backwards, strict=True):
        torch.testing.assert_close(one.noise, other.noise, rtol=1e-4, atol=1e-4)
        assert one.network_calls == other.network_calls


@pytest.mark.parametrize("inverter", ["fixed-point", "ddim", "diffuse"])
def test_padding_leaves_no_trace(adapter, inverter):
    """Three clips in batches of two, and the last of them alone: the same bytes."""
    together, alone = run(adapter, inverter=inverter), run(adapter, FRAMES[2:], NUMBERS[2:], inverter=inverter)
    assert len(together) == 3
    assert torch.equal(together[2].noise, alone[0].noise)


def test_diffuse_draws_from_the_clips_number(adapter):
    first = run(adapter, inverter="diffuse")
    other = run(adapter, numbers=[11, 2**62, 33], inverter="diffuse")
    assert measure(adapter, first[:1])[0] > options().max_reconstruction_error
    assert [torch.equal(a.noise, b.noise) for a, b in zip(first, other, strict=True)] == [True, False, True]
    assert first[0].network_calls == 0


def test_not_a_number_fails_its_clip_alone(adapter, monkeypatch):
    encode = type(adapter).encode

    def broken(self, frames):
        with torch.inference_mode():
            latents = encode(self, frames)
            latents[1, 0, 0, 0, 0] = float("nan")
        return latents

    monkeypatch.setattr(type(adapter), "encode", broken)
    good, failure = run(adapter, FRAMES[:2], NUMBERS[:2])
    assert isinstance(good, ClipRecord)
    assert isinstance(failure, RowFailure)
    assert (failure.code, failure.retryable) == ("not_finite", False)


def test_latents_of_nothing_but_zeros_are_a_failure(adapter, monkeypatch):
    encode = type(adapter).encode
    monkeypatch.setattr(type(adapter), "encode", lambda self, frames: torch.zeros_like(encode(self, frames)))
    (failure,) = run(adapter, FRAMES[:1], NUMBERS[:1])
    assert isinstance(failure, RowFailure)
    assert (failure.code, failure.retryable) == ("not_finite", False)
    assert "all zero" in failure.message


def test_noise_that_storage_cannot_hold_is_a_failure(adapter):
    (failure,) = run(adapter, FRAMES[:1], NUMBERS[:1], store=lambda noise: (noise * 1e6).half().float())
    assert failure.code == "not_finite"


def test_the_quality_gate_says_the_number():
    failure = find_failure(0.123456, 1e-3)
    assert (failure.code, failure.retryable) == ("reconstruction_error", False)
    assert failure.message == "the record gives its clip back with relative error 0.123, above 0.001"
    assert find_failure(1e-3, 1e-3) is None
    assert find_failure(float("nan"), float("inf")).code == find_failure(float("inf"), 1e-3).code == "not_finite"


def test_a_batch_that_does_not_fit_is_halved_for_good(adapter):
    whole = run(adapter, batch_size=1)
    sizes = []
    network = adapter.network()

    def small_device(latents, timestep):
        sizes.append(len(latents))
        if len(latents) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return network(latents, timestep)

    small = inverter(adapter, network=small_device, batch_size=4)
    records = small.invert(FRAMES, NUMBERS)
    assert sizes[:2] == [4, 2]
    assert set(sizes[2:]) == {1}
    assert small.batch_size == 1 and len(records) == 3
    for record, expected in zip(records, whole, strict=True):
        assert torch.equal(record.noise, expected.noise)
    sizes.clear()
    assert measure(adapter, records, network=small_device) == measure(adapter, records, batch_size=1)
    assert sizes[0] == 2 and set(sizes[1:]) == {1}


def test_a_clip_that_does_not_fit_alone_stops_the_job(adapter):
    def no_device(latents, timestep):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        run(adapter, network=no_device)


def test_clips_of_the_wrong_shape_are_refused_before_any_work(adapter):
    with pytest.raises(ShapeMismatch, match="height must be a multiple of 8: 30 does not fit, 24 or 32 would"):
        run(adapter, FRAMES[:, :, :30])


def test_the_meter_counts_calls_and_time(adapter):
    metered = MeteredNetwork(adapter.network(), adapter.device)
    records = run(adapter, FRAMES[:1], NUMBERS[:1], batch_size=1, network=metered)
    assert metered.calls == records[0].network_calls
    measure(adapter, records, network=metered)
    assert metered.calls == records[0].network_calls + 10  # and a reconstruction of ten steps
    assert metered.seconds() > 0


def test_int8_storage_is_measured_beside_float16(adapter):
    records = run(adapter, FRAMES[:1], NUMBERS[:1], num_inference_steps=25)
    stores = (float32, float16, lambda noise: storage_roundtrip(noise, "int8"))
    found, half, byte = (measure(adapter, records, store=store, num_inference_steps=25)[0] for store in stores)
    assert found < half < byte < 0.15


def test_prompt_and_guidance_are_part_of_the_inversion(adapter):
    changes = {"prompt": "a dog on the beach", "guidance_scale": 3.0, "num_inference_steps": 25}
    (guided,) = run(adapter, FRAMES[:1], NUMBERS[:1], **changes)
    (error,) = measure(adapter, [guided], store=float32, **changes)
    assert error < 2e-3  # by the guided sampler
    levels, latents = adapter.levels(25, (4, 2, 4, 4)), adapter.encode(FRAMES[:1])
    plain = reconstruct(adapter.network(), guided.noise[None], levels)
    assert relative_error(plain, latents).item() > 10 * error


def test_auto_batch_size_without_an_accelerator(adapter):
    assert choose_batch_size(adapter, (4, 2, 4, 4)) == CPU_BATCH_SIZE


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 1.0, 2: 1.1, 4: 1.3, 8: 2.5, 16: 9.0}, 4),  # 8 would gain 4%
        ({1: 1.0, 2: 1.1, 4: 1.3}, 4),  # 8 does not fit
        ({1: 1.0, 2: 2.0}, 1),
        ({}, 1),
        (dict.fromkeys((1, 2, 4, 8, 16, 32), 1.0), 16),  # the largest allowed
    ],
)
def test_the_batch_is_doubled_while_that_pays_and_fits(seconds, expected):
    def timed(size):
        if size not in seconds:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return seconds[size]

    assert fastest_batch_size(timed, largest=16) == expected
