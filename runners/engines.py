"""The engines by the short names of Beam's runners."""

from __future__ import annotations

from collections.abc import Sequence

from runners.clusters import SparkEngine
from runners.dataflow import DataflowEngine
from runners.engine import Engine
from runners.flink import FlinkEngine
from runners.local import LocalEngine
from runners.options import beam_options, name_runner
from runners.portable import PortableEngine
from runners.prism import PrismEngine

ENGINES: dict[str, type[Engine]] = {
    "fnapi": LocalEngine,
    "flink": FlinkEngine,
    "spark": SparkEngine,
    "portable": PortableEngine,
    "prism": PrismEngine,
    "dataflow": DataflowEngine,
}


def find_engine(words: Sequence[str]) -> Engine:
    """The engine that command-line words ask for, by default this machine's.

    Args:
        words: that are Beam's.

    Raises:
        ConfigError: a word is no option of Beam's or of the engine's.
    """
    options, unknown = beam_options(words)
    engine = ENGINES.get(name_runner(options), Engine)(options, words)
    engine.check_unknown(unknown)
    return engine
