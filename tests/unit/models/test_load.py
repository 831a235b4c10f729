"""Loading a model to invert with: the device, the precision, and what is compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from noisebank.models import load, load_for_inversion
from noisebank.options import NoiseOptions


@pytest.mark.parametrize(
    ("cuda", "bf16", "precision", "expected"),
    [
        (False, False, "auto", ("cpu", torch.float32)),
        (False, False, "bfloat16", ("cpu", torch.bfloat16)),
        (True, True, "auto", ("cuda:0", torch.bfloat16)),
        (True, False, "auto", ("cuda:0", torch.float16)),
        (True, True, "float32", ("cuda:0", torch.float32)),
    ],
)
def test_the_device_and_its_precision(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, bf16: bool, precision: str, expected: tuple[str, torch.dtype]
) -> None:
    loaded: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(load, "choose_device", lambda wanted: "cuda:0" if cuda else "cpu")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    monkeypatch.setattr("noisebank.models.load.load_model", lambda model, **options: loaded.append((model, options)))
    wanted = {"precision": precision, "vae_precision": "tf32"}
    load_for_inversion(NoiseOptions(model="a", motion_adapter="m", compile=True, **wanted), "d")
    device, dtype = expected
    options = {"device": device, "dtype": dtype, "motion_adapter": "m", "compile": True, "digest": "d"}
    options["vae_precision"] = "tf32"
    assert loaded == [("a", options)]


def test_float32_is_not_rounded_to_tf32(small_model: Path) -> None:
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        load_for_inversion(NoiseOptions(model=str(small_model)))
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


@pytest.mark.parametrize("compile", [False, True])
def test_the_network_is_compiled_where_it_is_asked_for(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, compile: bool
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    load_for_inversion(NoiseOptions(model=str(small_model), compile=compile))
    assert compiled == (["UNet3DConditionModel"] if compile else [])
