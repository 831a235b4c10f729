"""Object stores on loopback, started once for the tests that use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.emulators import Emulator, emulator


@pytest.fixture(scope="session")
def start_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Emulator]]:
    """Starts the store of a scheme at the first call; skips where its program is not installed."""
    running: dict[str, Emulator] = {}
    with ExitStack() as stack:

        def start(scheme: str) -> Emulator:
            if scheme not in running:
                running[scheme] = stack.enter_context(emulator(scheme, tmp_path_factory.mktemp(scheme)))
            return running[scheme]

        yield start


@pytest.fixture(params=["s3", "gs", "az"])
def cloud(request: pytest.FixtureRequest, start_emulator: Callable[[str], Emulator]) -> Iterator[Emulator]:
    """Each of the stores in turn, found by the environment."""
    with start_emulator(request.param).found() as running:
        yield running


@pytest.fixture
def s3(start_emulator: Callable[[str], Emulator]) -> Iterator[Emulator]:
    """The S3 store, found by the environment."""
    with start_emulator("s3").found() as running:
        yield running
