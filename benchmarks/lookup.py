"""One lookup and mix of a warm bank against the floor: memcpy of the record, randn, and what the mix computes.

    python -m benchmarks.lookup [rounds]

Records are of ModelScope's shape, 4 x 16 x 32 x 32; the floor copies them out of a memory map of one raw file (and
multiplies int8 by its scales, which belongs to the sum). A prior adds a matrix product over the frames to the floor, a
low-pass the three Fourier transforms in place of the sum. The prompt's clip is known already, as when a prompt is
generated with many seeds; what its embedding and search cost the first time is reported beside. What the records hold
does not count, so they are ``diffuse``, which takes no network call.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.pool import caption, make_pool
from noisebank import NoiseBank
from noisebank.fixtures.captions_model import packaged_captions_model
from noisebank.options import STORAGE_DTYPES
from noisebank.reader.frequencies import LowPass
from noisebank.reader.priors import mixed
from noisebank.search.embed import load_embedder

SHAPE = (4, 16, 32, 32)
ETA = 0.2
CLIPS = 64
_BLOCK = 50


def run(rounds: int = 1000) -> dict[str, float]:
    """Microseconds of each side (the fastest fifth of ``rounds``) and their ratio, for float16 and int8."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    noise = [{"name": dtype, "dtype": dtype, "inverter": "diffuse", "measured": 0} for dtype in STORAGE_DTYPES]
    results: dict[str, float] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as folder:
            pool = make_pool(Path(folder), CLIPS, frames=SHAPE[1], size=2 * SHAPE[2], noise=noise, spatial_ratio=2)
            pool.build("bank", CLIPS)
            for dtype in STORAGE_DTYPES:
                measured = _measured(Path(folder), dtype, rounds)
                results |= {f"{name}_{dtype}": value for name, value in measured.items()}
    finally:
        torch.set_num_threads(threads)
    return results


def _measured(folder: Path, dtype: str, rounds: int) -> dict[str, float]:
    embedder = load_embedder(str(packaged_captions_model()))
    bank = NoiseBank.open(folder / "bank", noise_set=dtype, embedder=embedder)
    began = time.perf_counter()
    prompts = [caption(number) for number in range(CLIPS)]
    for prompt in prompts:
        assert bank.noise(prompt).shape == (1, *SHAPE)
    first = time.perf_counter() - began
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    raw = np.memmap(folder / f"raw-{dtype}", dtype, "w+", shape=(CLIPS, *SHAPE))
    raw[:] = rng.integers(-4, 5, raw.shape)
    stored = torch.from_numpy(raw)
    scale = torch.rand((*SHAPE[:2], 1, 1))

    def floor() -> None:
        record = stored[int(rng.integers(CLIPS))].clone()
        record = record if dtype == "float16" else record.float().mul_(scale)
        fresh = torch.randn((1, *SHAPE), generator=generator)
        torch.add(fresh, record, alpha=ETA).mul_(1 / math.sqrt(1 + ETA**2))

    def lookup() -> None:
        bank.noise(prompts[int(rng.integers(CLIPS))], eta=ETA, generator=generator)

    times = _in_turn([floor, lookup], rounds)
    results = {"floor_us": times[0], "lookup_us": times[1], "first_us": first / CLIPS * 1e6}
    if dtype == "float16":
        results |= _other_mixes(bank, prompts, stored, rounds)
    sides = [name.removeprefix("lookup_us") for name in results if name.startswith("lookup_us")]
    return results | {f"ratio{side}": results[f"lookup_us{side}"] / results[f"floor_us{side}"] for side in sides}


def _other_mixes(bank: NoiseBank, prompts: list[str], stored: torch.Tensor, rounds: int) -> dict[str, float]:
    """Microseconds of lookups with a prior and with a low-pass, and of their floors."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    factor = mixed().factor(SHAPE[1]).float()
    gain = LowPass("gaussian").gain(ETA, SHAPE)[..., : SHAPE[-1] // 2 + 1]
    of_fresh, of_record = (1 - gain**2).sqrt().float(), gain.float()
    axes = (-3, -2, -1)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        return stored[int(rng.integers(CLIPS))].clone(), torch.randn((1, *SHAPE), generator=generator)

    def prior_floor() -> None:
        record, fresh = draw()
        fresh = torch.matmul(factor, fresh.view(SHAPE[0], SHAPE[1], -1)).view(1, *SHAPE)
        torch.add(fresh, record, alpha=ETA).mul_(1 / math.sqrt(1 + ETA**2))

    def low_pass_floor() -> None:
        record, fresh = draw()
        spectrum = torch.fft.rfftn(fresh, dim=axes).mul_(of_fresh)
        spectrum += torch.fft.rfftn(record.float(), dim=axes).mul_(of_record)
        torch.fft.irfftn(spectrum, s=SHAPE[1:], dim=axes)

    def lookup(**options: str) -> Callable[[], object]:
        return lambda: bank.noise(prompts[int(rng.integers(CLIPS))], eta=ETA, generator=generator, **options)

    sides = [prior_floor, lookup(prior="mixed"), low_pass_floor, lookup(lowpass="gaussian")]
    names = ("floor_us_prior", "lookup_us_prior", "floor_us_lowpass", "lookup_us_lowpass")
    return dict(zip(names, _in_turn(sides, rounds), strict=True))


def _in_turn(sides: list[Callable[[], None]], rounds: int) -> list[float]:
    """Microseconds of each side, in blocks of 50 calls in turn: the fastest fifth, as others use the machine too."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(-(-rounds // _BLOCK)):
        for side, measured in zip(sides, times, strict=True):
            for _ in range(_BLOCK):
                began = time.perf_counter()
                side()
                measured.append((time.perf_counter() - began) * 1e6)
    return [float(np.quantile(measured[_BLOCK:], 0.2)) for measured in times]


if __name__ == "__main__":
    for name, value in run(*map(int, sys.argv[1:2])).items():
        print(f"{name:22} {value:.3f}")
