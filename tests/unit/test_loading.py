"""Models that threads of one process load at once: each of them has its weights."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import torch

from noisebank.models import load_model
from noisebank.search.embed import load_embedder
from tests.support.minilm import MINILM

ROUNDS = 3


def test_two_kinds_of_models_are_loaded_by_four_threads_at_once(small_model: Path) -> None:
    loads: list[Callable[[], Any]] = [lambda: load_model(str(small_model)), lambda: load_embedder(MINILM)] * 2
    together = Barrier(len(loads))

    def load(how: Callable[[], Any]) -> Any:
        together.wait()
        return how()

    expected = load_embedder(MINILM).embed(["a dog"])
    with ThreadPoolExecutor(len(loads)) as threads:
        for _ in range(ROUNDS):
            for loaded in threads.map(load, loads):
                if hasattr(loaded, "embed"):
                    assert (loaded.embed(["a dog"]) == expected).all()
                else:
                    parameters = [*loaded.pipe.unet.parameters(), *loaded.pipe.vae.parameters()]
                    assert all(bool(torch.isfinite(parameter).all()) for parameter in parameters)
