"""What the tests of synthesis share: small models of every family, loaded once, and a small CLIP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from noisebank.fixtures.small_models import make_small_model
from noisebank.models import ModelAdapter, load_model
from tests.support.small_clip import make_small_clip

T = TypeVar("T")


class Lazy(dict[str, T]):
    """A mapping whose values are made when they are first asked for."""

    def __init__(self, make: Callable[[str], T]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, name: str) -> T:
        self[name] = self.make(name)
        return self[name]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("synthesis-models")
    return Lazy(lambda family: str(make_small_model(family, root / family)))


@pytest.fixture(scope="session")
def adapters(folders: dict[str, str]) -> dict[str, ModelAdapter]:
    return Lazy(lambda family: load_model(folders[family]))


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_clip(tmp_path_factory.mktemp("clip") / "clip")
