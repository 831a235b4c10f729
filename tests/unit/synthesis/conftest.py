"""What the tests of synthesis share: small models of every family, loaded once, and a small CLIP."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisebank.fixtures.small_models import SMALL_FAMILIES, make_small_model
from noisebank.models import ModelAdapter, load_model
from tests.support.small_clip import make_small_clip


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("synthesis-models")
    return {family: str(make_small_model(family, root / family)) for family in SMALL_FAMILIES}


@pytest.fixture(scope="session")
def adapters(folders: dict[str, str]) -> dict[str, ModelAdapter]:
    return {family: load_model(folder) for family, folder in folders.items()}


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_clip(tmp_path_factory.mktemp("clip") / "clip")
