"""Progress of a build, whatever the engine: the receipts of the newest plan's shards, as they appear in the bank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from noisebank.options import Config
from noisebank.storage import Store


@contextmanager
def show_progress(store: Store, config: Config) -> Iterator[None]:
    """Shows the progress of a build while the block runs."""
    yield
